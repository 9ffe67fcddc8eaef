"""What the tests of reports share: small networks, built in several ways, and reports of them."""

import base64
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from attrs import evolve

import fusewire as fw
from fusewire.report.collect import Measured, collect
from fusewire.report.data import Report, Settings, Timing

SETTINGS = Settings(1e-3, 1e-5, 0.0, 2, 1, "random (seed 0)", "a machine", "2026-01-01 00:00 UTC", fw.__version__)
FUSED: dict[str, Any] = {"opt_level": 3}
UNFUSED: dict[str, Any] = {"opt_level": 3, "disabled_pass": ["FuseOps"]}
PLAIN: dict[str, Any] = {"opt_level": 3, "disabled_pass": ["AlterLayout"]}


def unit(data: fw.Expr, name: str, into: int, out: int, window: int = 3) -> fw.Expr:
    """Convolution, addition, relu."""
    rng = np.random.default_rng(into * 100 + out)
    weight = fw.const(rng.normal(size=(out, into, window, window)).astype("float32"))
    bias = fw.const(rng.normal(size=(out, 1, 1)).astype("float32"))
    pad = (window // 2, window // 2)
    convolved = fw.nn.conv2d(data, weight, kernel_size=(window, window), channels=out, padding=pad)
    return fw.nn.relu(fw.add(convolved, bias))


def network(name: str = "data") -> fw.Function:
    """Three units of which the last two are alike, and a pool; one input (1, 3, 8, 8)."""
    data = fw.var(name, shape=(1, 3, 8, 8))
    net = unit(data, "a", 3, 4)
    net = unit(unit(net, "b", 4, 4), "c", 4, 4)
    return fw.Function([data], fw.nn.max_pool2d(net, (2, 2), (2, 2)))


def built(function: fw.Function, how: Mapping[str, Any], target: str = "cpu -num-cores=1") -> fw.CompiledModule:
    """Compiled with a pass context made of `how`."""
    with fw.transform.PassContext(**how):
        return fw.build(function, target)


def report_of(
    function: fw.Function,
    inputs: Mapping[str, Any],
    ways: Mapping[str, Mapping[str, Any]],
    name: str = "net.onnx",
    times: Sequence[Sequence[float]] = (),
) -> Report:
    """A report of one function built in several ways, by the names that its targets get."""
    measured: list[Measured] = []
    for k, (title, how) in enumerate(ways.items()):
        library = built(function, how)
        module = fw.GraphModule(library["default"](fw.cpu(0)))
        module.run(**inputs)
        outputs = [module.get_output(n).numpy() for n in range(module.get_num_outputs())]
        taken = times[k] if times else [1e-3 * (k + 1), 1e-3 * (k + 1)]
        measured.append(Measured(title, library, module, outputs, [(0.0, 0.0, 0)] * len(outputs), taken))
    return collect(name, (fw.IRModule.from_expr(function), {}), measured, inputs, SETTINGS, lambda what: None)


def data(shape: tuple[int, ...] = (1, 3, 8, 8), seed: int = 0) -> Any:
    """Random numbers in [-1, 1)."""
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def with_times(report: Report, times: Sequence[tuple[float, float, float]]) -> Report:
    """The report with other times of runs: lower quartile, median, upper quartile of each target."""
    targets = [
        evolve(t, timing=Timing(median, low, high, low, (low, median, high)))
        for t, (low, median, high) in zip(report.targets, times, strict=True)
    ]
    return evolve(report, targets=tuple(targets))


def data_of(text: str) -> Any:
    """The data in a page, with the texts in their place."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    texts = re.search(r'<script type="application/octet-stream" id="texts">(.*?)</script>', text)
    assert found and texts
    unpacked = json.loads(zlib.decompress(base64.b64decode(texts[1])))
    known = json.loads(found[1])
    assert known["texts"] == len(unpacked)
    return {**known, "texts": unpacked}
