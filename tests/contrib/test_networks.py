"""Where oneDNN takes whole networks: how many library calls, and with which post-ops."""

from collections import Counter
from pathlib import Path

import onnx
import pytest

import fusewire as fw
from benchmarks.networks import NETWORKS
from fusewire.targets.explain import operators
from fusewire.targets.program import LibraryStep
from tests.contrib.onednn_cases import needs_onednn


def placed(name: str, target: str, tmp_path: Path) -> tuple[Counter[tuple[str, ...]], int]:
    """How often oneDNN runs which operators together, and the number of generated kernels."""
    path = tmp_path / "net.onnx"
    onnx.save(NETWORKS[name](name), path)
    mod, params = fw.frontend.from_onnx(path)
    with fw.PassContext(opt_level=3):
        lib = fw.build(mod, target, params)
    steps = lib.program.leaf_steps()
    calls = Counter(operators(s.function) for s in steps if isinstance(s, LibraryStep))
    return calls, sum(not isinstance(s, LibraryStep) for s in steps)


@needs_onednn
@pytest.mark.parametrize(("name", "convolutions"), [("resnet50", 53), ("mobilenetv2", 52)])
def test_every_convolution_absorbs_what_follows(name: str, convolutions: int, tmp_path: Path) -> None:
    calls, kernels = placed(name, "cpu -libs=onednn", tmp_path)
    with_conv = {ops: n for ops, n in calls.items() if ops[0] == "nn.conv2d"}
    assert sum(with_conv.values()) == convolutions and kernels <= 1
    assert all(len(ops) > 1 for ops in with_conv)
    assert any(ops.count("add") == 2 for ops in with_conv), "a shift and a residual"


@needs_onednn
def test_without_post_ops_they_stand_alone(tmp_path: Path) -> None:
    calls, kernels = placed("mobilenetv2", "cpu -libs=onednn -postops=0", tmp_path)
    assert calls[("nn.conv2d",)] == 52 and all(len(ops) == 1 for ops in calls) and kernels > 40
