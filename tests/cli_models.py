"""What the tests of the command line share: a caller, and small ONNX models."""

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from attrs import frozen
from click.testing import CliRunner
from onnx import TensorProto, helper, numpy_helper

from fusewire.cli import cli

Array = npt.NDArray[Any]


@frozen
class Ended:
    """How a command ended: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


def fusewire(*args: object, env: dict[str, str] | None = None) -> Ended:
    """Run a command line in this process."""
    separate: dict[str, Any] = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}
    result = CliRunner(**separate).invoke(cli, [str(a) for a in args], env=env, prog_name="fusewire")
    return Ended(result.exit_code, result.stdout, result.stderr)


def fine(*args: object) -> str:
    """What a command wrote that must succeed and say nothing on stderr."""
    ended = fusewire(*args)
    assert (ended.status, ended.err) == (0, "")
    return ended.out


def bad_usage(*args: object) -> str:
    ended = fusewire(*args)
    assert ended.status == 2 and ended.out == ""
    assert ended.err.startswith("Error: ") and "--help' shows what it takes" in ended.err
    return ended.err


def failed(*args: object) -> str:
    ended = fusewire(*args)
    assert ended.status == 1 and ended.err.startswith("Error: ") and "Traceback" not in ended.err
    return ended.err


def tensor(name: str, shape: list[Any], dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def write(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: dict[str, Array] | None = None,
) -> Path:
    """Write a model."""
    stored = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "test", inputs, outputs, stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path


def classifier(path: Path, shape: list[Any] | None = None) -> Path:
    """conv, relu, pool, matrix product, of an input "data" (1, 3, 8, 6) unless `shape` says otherwise."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.normal(size=(4, 3, 3, 3)).astype("float32"),
        "b": rng.normal(size=4).astype("float32"),
        "v": rng.normal(size=(4, 5)).astype("float32"),
    }
    nodes = [
        helper.make_node("Conv", ["data", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["scores"]),
    ]
    given = shape or [1, 3, 8, 6]
    return write(path, nodes, [tensor("data", given)], [tensor("scores", [given[0], 5])], weights)


def pointwise(path: Path, op: str, shape: list[Any], dtype: int = TensorProto.FLOAT) -> Path:
    """One elementwise operator on an input "x"."""
    return write(path, [helper.make_node(op, ["x"], ["y"])], [tensor("x", shape, dtype)], [tensor("y", shape, dtype)])


def two_in_two_out(path: Path) -> Path:
    """a + b and a - b, of shape (4,)."""
    nodes = [helper.make_node("Add", ["a", "b"], ["s"]), helper.make_node("Sub", ["a", "b"], ["d"])]
    return write(path, nodes, [tensor(n, [4]) for n in "ab"], [tensor(n, [4]) for n in "sd"])
