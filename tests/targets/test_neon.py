"""Every kind of schedule on 64-bit Arm: exported as C, cross-compiled by zig, run by QEMU, compared with float64.

    python -m pytest -q tests/targets/test_neon.py

Skipped where the ziglang package or qemu-aarch64 (apt install qemu-user) is missing.
"""

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.ir.types import TensorType
from fusewire.targets import implement
from tests.targets.test_export_c import WARNINGS, call, manifest, sections

Array = npt.NDArray[Any]
pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="ziglang is not installed"),
    pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed (apt: qemu-user)"),
]
TARGET = "cpu -num-cores=2 -mcpu=cortex-a72"
LANES = 4
DIRECT, DEPTHWISE = "conv2d_nchwc.cpu", "conv2d_depthwise_nchwc.cpu"


def constant(*shape: int, seed: int = 0) -> fw.Expr:
    drawn = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return fw.const(drawn.astype(np.float32))


def conv(x: fw.Expr, cin: int, cout: int, k: int, blocked: bool = True, **attrs: Any) -> fw.Expr:
    """relu(conv2d(x) + shift) in blocks of 4 channels."""
    layout = f"NCHW{LANES}c" if blocked else "NCHW"
    weight = constant(cout, cin // attrs.get("groups", 1), k, k, seed=cin + cout)
    made = fw.nn.conv2d(x, weight, data_layout=layout, out_layout=f"NCHW{LANES}c", **attrs)
    return fw.nn.relu(made + constant(cout // LANES, 1, 1, LANES, seed=1))


def feature(name: str, channels: int, height: int, width: int) -> fw.Var:
    return fw.var(name, shape=(1, channels // LANES, height, width, LANES))


def run_on_arm(lib: fw.CompiledModule, feed: dict[str, Array], folder: Path) -> dict[int, list[Array]]:
    """The results of the exported program, by number of threads."""
    lib.export_c(folder)
    commands = sections((folder / "README.md").read_text())["result without the machine (apt install qemu-user)."]
    commands = commands.replace("python ", f"{shlex.quote(sys.executable)} ")
    call(["sh", "-e", "-c", commands.replace(" cc ", f" cc {' '.join(WARNINGS)} ")], folder)
    for name, array in feed.items():
        (folder / f"{name}.bin").write_bytes(array.tobytes())
    found = {}
    for threads in (1, 2):
        call(["qemu-aarch64", "./default_main", "--threads", str(threads), *(f"{n}.bin" for n in feed)], folder)
        found[threads] = [
            np.frombuffer((folder / f"{o['name']}.bin").read_bytes(), o["dtype"]).reshape(o["shape"])
            for o in manifest(folder)["outputs"]
        ]
    return found


def check(results: list[fw.Expr], chosen: set[str], folder: Path, target: str = TARGET) -> None:
    """The program gives what float64 gives, on 1 and 2 threads, and is made of the implementations expected."""
    function = fw.Function(fw.analysis.free_vars(fw.Tuple(results)), fw.Tuple(results))
    lib = fw.build(function, target)
    assert lib.code.isa.name == "neon"
    assert {c.chosen for c in lib.explain().choices} == chosen
    rng = np.random.default_rng(2)
    feed = {}
    for param in function.params:
        assert isinstance(param.checked_type, TensorType)
        feed[param.name_hint] = rng.standard_normal(param.checked_type.static_shape).astype(np.float32)
    exact = fw.testing.evaluate(function, {name: a.astype(np.float64) for name, a in feed.items()})
    for threads, got in run_on_arm(lib, feed, folder).items():
        for k, (g, e) in enumerate(zip(got, exact, strict=True)):
            assert np.abs(g - e).max() <= 1e-5 * np.abs(e).max(), f"result {k} on {threads} threads"


@pytest.fixture
def only(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`only(name)` leaves one implementation of conv2d in the table."""

    def leave(name: str) -> None:
        table = [e for e in implement.TABLE if e.ops is None or "nn.conv2d" not in e.ops or e.name == name]
        monkeypatch.setattr(implement, "TABLE", tuple(table))

    return leave


def test_direct_convolutions(only: Callable[[str], None], tmp_path: Path) -> None:
    only(DIRECT)
    x = feature("x", 16, 11, 13)
    results = [
        conv(x, 16, 24, 1),
        conv(x, 16, 20, 3, padding=1),
        conv(x, 16, 32, 3, strides=2, padding=(0, 1, 2, 1)),
        conv(x, 16, 16, 3, dilation=2, padding=2),
        conv(x, 16, 16, 3, groups=2, padding=1),
        conv(fw.var("image", shape=(1, 3, 20, 22)), 3, 16, 5, blocked=False, strides=2, padding=2),
    ]
    check(results, {DIRECT}, tmp_path)


@pytest.mark.parametrize("m", [2, 4])
def test_winograd(m: int, only: Callable[[str], None], tmp_path: Path) -> None:
    name = f"conv2d_winograd{m}_nchwc.cpu"
    only(name)
    x, y = feature("x", 16, 12, 16), feature("y", 24, 7, 13)
    check([conv(x, 16, 32, 3, padding=1), conv(y, 24, 20, 3, padding=(2, 0, 1, 1))], {name}, tmp_path)


def test_depthwise_convolutions(only: Callable[[str], None], tmp_path: Path) -> None:
    only(DEPTHWISE)
    x = feature("x", 24, 12, 15)
    options: list[dict[str, Any]] = [{"padding": 1}, {"padding": 1, "strides": 2}]
    check([conv(x, 24, 24, 3, groups=24, **o) for o in options], {DEPTHWISE}, tmp_path)


def test_products(tmp_path: Path) -> None:
    a, b = fw.var("a", shape=(37, 45)), fw.var("b", shape=(3, 18, 45))
    results = [
        fw.nn.relu(fw.nn.dense(a, constant(51, 45)) + constant(51)),
        fw.nn.dense(fw.var("row", shape=(1, 45)), constant(130, 45, seed=1)),
        fw.nn.batch_matmul(b, fw.var("c", shape=(3, 29, 45))),
        fw.nn.matmul(a, constant(45, 16)),
    ]
    check(results, {"gemm.cpu"}, tmp_path)


def test_everything_else(tmp_path: Path) -> None:
    x, y = feature("x", 16, 12, 13), fw.var("y", shape=(40, 77))
    results = [
        fw.nn.max_pool2d(x, pool_size=(3, 3), strides=(2, 2), padding=(1, 1), layout="NCHW4c"),
        fw.nn.avg_pool2d(x, pool_size=(2, 2), strides=(2, 2), layout="NCHW4c"),
        fw.nn.global_avg_pool2d(fw.var("plain", shape=(1, 10, 7, 9))),
        fw.nn.softmax(y),
        fw.nn.layer_norm(y, constant(77), constant(77, seed=1)),
        fw.sum(fw.exp(y), axis=0),
        fw.sigmoid(fw.transpose(y)) * 2.0,
        fw.layout_transform(fw.var("z", shape=(1, 12, 5, 6)), "NCHW", "NCHW4c"),
    ]
    lib = fw.build(fw.Tuple(results), TARGET)
    check(results, {c.chosen for c in lib.explain().choices}, tmp_path)


def test_a_small_network(tmp_path: Path) -> None:
    """What the passes make of a plain graph: blocked layouts, transposed at the borders."""
    data = fw.var("data", shape=(1, 3, 32, 32))
    net = fw.nn.relu(fw.nn.conv2d(data, constant(16, 3, 3, 3), padding=1))
    skip = fw.nn.max_pool2d(net, pool_size=(2, 2), strides=(2, 2))
    net = fw.nn.relu(fw.nn.conv2d(skip, constant(16, 16, 3, 3), padding=1) + skip)
    net = fw.nn.relu(fw.nn.conv2d(net, constant(32, 16, 1, 1)))
    net = fw.nn.conv2d(net, constant(32, 1, 3, 3), padding=1, groups=32)
    net = fw.nn.softmax(fw.nn.dense(fw.nn.batch_flatten(fw.nn.global_avg_pool2d(net)), constant(10, 32)))
    lib = fw.build(net, TARGET)
    chosen = {c.chosen for c in lib.explain().choices}
    assert any("nchwc" in name for name in chosen)
    check([net], chosen, tmp_path)
