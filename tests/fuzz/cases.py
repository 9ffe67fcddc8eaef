"""One case: a file made from its kind and number, and what fusewire does with it."""

import math
import os
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from attrs import frozen
from onnx import numpy_helper

import fusewire as fw
from fusewire.contrib.onnx import DynamicValueError
from fusewire.ir.op import Op
from fusewire.ir.types import numpy_dtype, tensors_of
from fusewire.ir.visitor import post_order

from . import artefacts, bombs, models, mutate, operators, parts, protobuf, stored

Array = npt.NDArray[Any]

CANARY = b"this must not be read"
"""The content of files outside of the model's folder."""

KINDS = ("onnx", "nodes", "artefact")
Seed = models.Model | artefacts.Artefact
LARGEST = 64 << 20
"""Bytes of inputs, results and intermediate tensors of what is run: larger modules are right, but not for a test."""

MOST_WORK = 1 << 31
"""Elements that may be read when a module is run."""

INTERNAL = (fw.VerifyError, fw.CompileError)
"""FusewireErrors that no file may cause: they say that fusewire itself, or its generated code, is wrong."""

LONGEST = 20_000
"""Characters of a message."""

__all__ = ["CANARY", "KINDS", "Outcome", "bombs", "operators", "prepare", "protobuf", "run", "stored", "write"]


@frozen
class Outcome:
    """What a case ended in.

    Attributes:
        end: "result", "built" (and not run), "too large to run", the name of a FusewireError, or what went wrong: the
            name of another exception, "warning", "read outside".
        good: whether it may end so.
        stage: "import", "build", "create" or "run".
        message: of the error.
        trace: where an unexpected error came from.
    """

    end: str
    good: bool
    stage: str = ""
    message: str = ""
    trace: str = ""


def prepare(kind: str) -> Sequence[Seed]:
    """The whole files of a kind; they are made once, best before processes are forked."""
    if kind == "artefact":
        return artefacts.artefacts()
    return models.node_tests() if kind == "nodes" else models.models()


def write(kind: str, number: int, folder: Path) -> tuple[Seed, str]:
    """Make the file of a case in an empty folder; gives what it was before, and its damage."""
    rng = np.random.default_rng([KINDS.index(kind), number])
    seed = mutate.pick(rng, prepare(kind))
    if isinstance(seed, artefacts.Artefact):
        data, damage = artefacts.damaged_artefact(rng, seed)
        (folder / "module.fw").write_bytes(data)
        return seed, damage
    return seed, _write_model(rng, seed, folder)


def _write_model(rng: np.random.Generator, model: models.Model, folder: Path) -> str:
    way = rng.random()
    if way < 0.02:
        data, damage = bombs.deeply_nested(rng, model.data)
    elif way < 0.15:
        data, damage = mutate.damaged(rng, model.data)
    else:
        data, damage = parts.damaged(rng, model.data)
        if way > 0.97:
            data, more = mutate.damaged(rng, data)
            damage = f"{damage}, {more}"
    (folder / "model.onnx").write_bytes(data)
    weights = model.weights
    if weights and rng.random() < 0.2:
        weights, more = mutate.damaged(rng, weights)
        damage = f"{damage}, weights: {more}"
    if weights or rng.random() < 0.3:
        (folder / models.WEIGHTS).write_bytes(weights)
    if "place_of_a_tensor" in damage:
        (folder / "link.bin").symlink_to("../outside/secret.bin")
        (folder / "folder").mkdir()
        os.mkfifo(folder / "pipe")
    return damage


def run(seed: Seed, number: int, folder: Path, compiled: bool) -> Outcome:
    """Do what a user does with a file: read, build, make a module of it if `compiled`, and run that."""
    progress = ["import"]
    rng = np.random.default_rng(number)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            end = _steps(seed, folder, compiled, rng, progress)
        return Outcome(end, end != "read outside", progress[-1])
    except fw.FusewireError as error:
        text = str(error)
        good = not isinstance(error, INTERNAL) and 10 < len(text) < LONGEST
        return Outcome(type(error).__name__, good, progress[-1], text[:500], "" if good else _trace())
    except BaseException as error:
        return Outcome(f"raised {type(error).__name__}", False, progress[-1], str(error)[:500], _trace())


def _trace() -> str:
    text = traceback.format_exc()
    return text if len(text) < 8000 else text[:3000] + "\n...\n" + text[-4000:]


def _steps(seed: Seed, folder: Path, compiled: bool, rng: np.random.Generator, progress: list[str]) -> str:
    given: dict[str, Array] = {}
    if isinstance(seed, artefacts.Artefact):
        lib = _loaded(folder / "module.fw", rng)
    else:
        given = {name: numpy_helper.to_array(onnx.TensorProto.FromString(data)) for name, data in seed.inputs.items()}
        mod, params = _imported(folder / "model.onnx", given, _options(rng))
        if any(CANARY in array.tobytes() or b"root:" in array.tobytes() for array in params.values()):
            return "read outside"
        progress.append("build")
        shapes = {p.name_hint: [2 if not isinstance(d, int) else d for d in t.shape] for p, t in _inputs(mod, params)}
        lib = fw.build(mod, "cpu -num-cores=2", params=params, shape=shapes)
    if not compiled:
        return "built"
    progress.append("create")
    info = lib.function_metadata["__fusewire_main__"]
    if sum(info.workspace_sizes.values()) + sum(info.io_sizes.values()) > LARGEST or work(lib.ir_mod) > MOST_WORK:
        return "too large to run"
    module = fw.GraphModule(lib["default"](fw.cpu()))
    progress.append("run")
    for name, (shape, dtype) in _wanted(module).items():
        value = given.get(name)
        if value is None or value.shape != shape or value.dtype.name != dtype:
            value = _random(rng, shape, dtype)
        module.set_input(name, value)
    module.run()
    for k in range(module.get_num_outputs()):
        module.get_output(k).numpy()
    return "result"


def work(mod: fw.IRModule) -> int:
    """How many elements the operators of a program read, roughly."""
    total = 0
    for node in post_order(mod["main"]):
        if isinstance(node, fw.Call) and isinstance(node.op, Op):
            outputs, inputs = (
                sum(math.prod(t.static_shape) for t in ts)
                for ts in (tensors_of(node.checked_type), [t for a in node.args for t in tensors_of(a.checked_type)])
            )
            window = math.prod(node.attrs.get("pool_size") or (1,))
            if node.op.name.startswith(("nn.conv", "nn.dense", "nn.matmul", "nn.batch_matmul")):
                shape = tensors_of(node.args[1].checked_type)[0].static_shape
                window = math.prod(shape) // max(min(shape, default=1), 1)
            total += inputs + outputs * window
    return total


def _loaded(path: Path, rng: np.random.Generator) -> fw.CompiledModule:
    """A loaded module, looked at from all sides."""
    lib = fw.load(path, verify_weights=bool(rng.integers(2)))
    str(lib.ir_mod)
    str(lib.fused_mod)
    str(lib.explain())
    for info in lib.function_metadata.values():
        _ = info.loop_ir, info.source
    return lib


def _options(rng: np.random.Generator) -> dict[str, Any]:
    """Mostly none; now and then another opset than the file's, or sizes of inputs."""
    way = rng.random()
    if way < 0.05:
        return {"opset": int(rng.integers(1, 27))}
    return {"shape": {"x": [mutate.number(rng) for _ in range(3)], "batch": mutate.number(rng)}} if way < 0.08 else {}


def _imported(path: Path, given: dict[str, Array], options: dict[str, Any]) -> tuple[fw.IRModule, dict[str, Array]]:
    """The module; values of inputs that it must know are those that the model came with, or small numbers."""
    known: dict[str, Array] = {}
    for _ in range(3):
        try:
            return fw.frontend.from_onnx(path, constants=known, **options)
        except DynamicValueError as error:
            if not set(error.names) - known.keys():
                raise
            for name in error.names:
                known[name] = given.get(name, np.array([1, 2], np.int64))
    return fw.frontend.from_onnx(path, constants=known, **options)


def _inputs(mod: fw.IRModule, params: dict[str, Array]) -> Iterator[tuple[fw.Var, fw.TensorType]]:
    for var in mod["main"].params:
        if var.name_hint not in params and isinstance(var.checked_type, fw.TensorType):
            yield var, var.checked_type


def _wanted(module: fw.GraphModule) -> dict[str, tuple[tuple[int, ...], str]]:
    shapes, dtypes = module.get_input_info()
    return {name: (tuple(shape), dtypes[name]) for name, shape in shapes.items()}


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    if dtype == "bool":
        return rng.integers(0, 2, shape).astype(bool)
    drawn = rng.integers(0, 5, shape) if "int" in dtype else rng.standard_normal(shape)
    return drawn.astype(numpy_dtype(dtype))
