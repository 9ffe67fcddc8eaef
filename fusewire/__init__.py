"""fusewire: typed dataflow graphs, compiled to fused kernels or handed to libraries, as a target string says.

import fusewire as fw

data = fw.var("data", shape=(1, 3, 224, 224))
net = fw.nn.relu(fw.nn.conv2d(data, fw.var("weight"), kernel_size=(3, 3), channels=16, padding=(1, 1)))
mod, params = fw.testing.create_workload(fw.Function(fw.analysis.free_vars(net), net))
lib = fw.build(mod, target="cpu", params=params)
y = lib(data=x)
"""

import logging as _logging

from . import frontend, ops, testing
from .fuse import dataflow_pattern, transform
from .fuse.infra import debug_level as _debug_level
from .fuse.transform import PassContext
from .ir import analysis
from .ir.analysis import free_vars
from .ir.errors import (
    ArtifactError,
    CompileError,
    DeviceNotFound,
    FusewireError,
    LibraryCallError,
    LibraryNotFound,
    ParseError,
    PlacementError,
    RuntimeInputError,
    TargetError,
    TypeInferenceError,
    VerifyError,
)
from .ir.expr import Call, Constant, Expr, Function, GlobalVar, If, Let, Tuple, TupleGetItem, Var, const, var
from .ir.index import size_var
from .ir.module import IRModule
from .ir.op import Attrs
from .ir.parser import parse, parse_expr
from .ir.scope_builder import ScopeBuilder
from .ir.tuple_wrapper import TupleWrapper
from .ir.types import FuncType, TensorType, TupleType, Type
from .ir.visitor import ExprMutator, ExprVisitor
from .ops import *  # noqa: F403 - every operator, by its Relay name
from .ops import image, nn
from .targets import device as nd
from .targets import target
from .targets.artifact.read import load
from .targets.build import build
from .targets.compiled import CompiledModule
from .targets.device import Device, NDArray, cpu, device
from .targets.executor import GraphModule
from .targets.libraries import register_library
from .targets.opencl.queue import command_queue
from .targets.target import Target
from .targets.tuning.tune import lock, tune

__version__ = "0.1.0"

if _debug_level():  # FUSEWIRE_DEBUG asks for messages: show them, whatever the program does about logging
    _logger = _logging.getLogger("fusewire")
    _logger.addHandler(_logging.StreamHandler())
    _logger.setLevel(_logging.INFO)

__all__ = [
    "__version__",
    "analysis",
    "ArtifactError",
    "Attrs",
    "build",
    "Call",
    "command_queue",
    "CompiledModule",
    "CompileError",
    "const",
    "Constant",
    "cpu",
    "dataflow_pattern",
    "Device",
    "device",
    "DeviceNotFound",
    "Expr",
    "ExprMutator",
    "ExprVisitor",
    "free_vars",
    "frontend",
    "Function",
    "FuncType",
    "FusewireError",
    "GlobalVar",
    "GraphModule",
    "If",
    "image",
    "IRModule",
    "Let",
    "LibraryCallError",
    "LibraryNotFound",
    "load",
    "lock",
    "nd",
    "NDArray",
    "nn",
    "ops",
    "parse",
    "parse_expr",
    "ParseError",
    "PlacementError",
    "PassContext",
    "register_library",
    "RuntimeInputError",
    "ScopeBuilder",
    "size_var",
    "target",
    "Target",
    "tune",
    "TargetError",
    "TensorType",
    "testing",
    "transform",
    "Tuple",
    "TupleGetItem",
    "TupleType",
    "TupleWrapper",
    "Type",
    "TypeInferenceError",
    "Var",
    "var",
    "VerifyError",
]
__all__ += ops.__all__
