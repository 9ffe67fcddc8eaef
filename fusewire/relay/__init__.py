"""Relay's names for fusewire's: a Relay script moves over by its import lines alone.

import fusewire as tvm
from fusewire import relay
from fusewire.relay import testing
from fusewire.contrib import graph_executor as runtime
"""

import sys

from .. import ops
from ..fuse import dataflow_pattern, transform
from ..fuse.transform import PassContext
from ..ir import analysis
from ..ir.expr import Call, Constant, Expr, Function, GlobalVar, If, Let, Tuple, TupleGetItem, Var, const, var
from ..ir.module import IRModule
from ..ir.op import get_op
from ..ir.parser import parse as fromtext
from ..ir.parser import parse_expr
from ..ir.scope_builder import ScopeBuilder
from ..ir.tuple_wrapper import TupleWrapper
from ..ir.types import FuncType, TensorType, TupleType, Type, scalar_type
from ..ir.visitor import ExprMutator, ExprVisitor, bind
from ..ops import *  # noqa: F403 - every operator, by its Relay name
from ..ops import image, nn
from ..targets.build import build
from . import build_module, testing
from .build_module import create_executor

op = ops
"""Operators, as `relay.op.add`."""

# Relay scripts also write `from relay.dataflow_pattern import is_op`: the same modules, under Relay's names.
for _module in (analysis, dataflow_pattern, image, nn, transform):
    sys.modules.setdefault(f"{__name__}.{_module.__name__.rpartition('.')[2]}", _module)
sys.modules.update({f"{__name__}.op": op, f"{__name__}.op.nn": nn, f"{__name__}.op.image": image})

__all__ = [
    "analysis",
    "bind",
    "build",
    "build_module",
    "Call",
    "const",
    "Constant",
    "create_executor",
    "dataflow_pattern",
    "Expr",
    "ExprMutator",
    "ExprVisitor",
    "fromtext",
    "Function",
    "FuncType",
    "get_op",
    "GlobalVar",
    "If",
    "image",
    "IRModule",
    "Let",
    "nn",
    "op",
    "ops",
    "parse_expr",
    "PassContext",
    "scalar_type",
    "ScopeBuilder",
    "TensorType",
    "testing",
    "transform",
    "Tuple",
    "TupleGetItem",
    "TupleType",
    "TupleWrapper",
    "Type",
    "Var",
    "var",
]
__all__ += ops.__all__
