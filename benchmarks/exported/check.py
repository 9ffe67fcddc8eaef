"""One ONNX file through fusewire, compared with recorded outputs: `python -m benchmarks.exported.check FILE.onnx`.

Prints one line of JSON, a `Report`. In a process of its own, so that its peak memory is that of one model.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np
import numpy.typing as npt
import onnx

import fusewire as fw

Array = npt.NDArray[Any]
MIB = 2**20


@attrs.define
class Report:
    """What was measured.

    Attributes:
        operators: nodes of the ONNX graph, those of subgraphs and function bodies not counted.
        groups, kernels: fused functions, and how many different ones.
        import_s, build_s, compile_s: seconds of processor time from ONNX to a graph, to C text, and in the C compiler.
        import_mib, build_mib, peak_mib: the most memory of the process up to then, in MiB; after all: with a run.
        weights_mib: the parameters.
        difference: the largest difference over the largest magnitude, over all outputs; of whole numbers and
            truth values, the share of elements that differ.
        element_difference: the largest difference relative to the element itself, where it is not below a
            thousandth of the largest.
        slowest: the group that takes the longest, with its implementation, seconds, and share of the whole.
        error: what failed, if anything.
    """

    operators: int = 0
    groups: int = 0
    kernels: int = 0
    import_s: float = 0.0
    build_s: float = 0.0
    compile_s: float = 0.0
    import_mib: float = 0.0
    build_mib: float = 0.0
    peak_mib: float = 0.0
    weights_mib: float = 0.0
    difference: float = 0.0
    element_difference: float = 0.0
    slowest: tuple[str, str, float, float] | None = None
    error: str = ""


def peak_mib() -> float:
    """The most memory that this process had; Linux' `ru_maxrss` would include the process that started it."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MIB if sys.platform == "darwin" else 1024)


def processor_time() -> float:
    """Seconds that this process and its children, which are compilers, have computed."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def differences(got: Array, expected: Array) -> tuple[float, float]:
    """`Report.difference` and `Report.element_difference` of one output; infinite where shapes or dtypes differ."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return np.inf, np.inf
    if not got.size or expected.dtype.kind not in "fV":
        wrong = float((got != expected).mean()) if got.size else 0.0
        return wrong, wrong
    a, b = got.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return np.inf, np.inf
    kept = np.isfinite(b)
    if not np.array_equal(a[~kept], b[~kept], equal_nan=True):
        return np.inf, np.inf
    apart, sizes = np.abs(a[kept] - b[kept]), np.abs(b[kept])
    largest = float(sizes.max(initial=0.0)) or 1.0
    return float(apart.max(initial=0.0)) / largest, float((apart / np.maximum(sizes, largest / 1000)).max(initial=0.0))


def check(path: Path, target: str = "cpu") -> Report:
    """Import, build, compile, run and compare a model."""
    report = Report(operators=len(onnx.load(path, load_external_data=False).graph.node))
    try:
        _measure(path, target, report)
    except fw.FusewireError as error:
        report.error = str(error)
    report.peak_mib = peak_mib()
    return report


def _measure(path: Path, target: str, report: Report) -> None:
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
        recorded = dict(stored)
    inputs = {key[3:]: array for key, array in recorded.items() if key.startswith("in:")}
    sizes = {key[5:]: int(size) for key, size in recorded.items() if key.startswith("size:")}
    expected = [recorded[f"out:{k}"] for k in range(sum(key.startswith("out:") for key in recorded))]
    start = processor_time()
    mod, params = fw.frontend.from_onnx(path, shape=sizes)
    report.import_s, report.import_mib = processor_time() - start, peak_mib()
    report.weights_mib = sum(array.nbytes for array in params.values()) / MIB
    start = processor_time()
    lib = fw.build(mod, target, params=params)
    report.build_s, report.build_mib = processor_time() - start, peak_mib()
    report.groups = len(lib.program.leaf_steps())
    report.kernels = len({compiled.symbol for compiled in lib.code.steps.values()})
    start = processor_time()
    lib.code.load()
    report.compile_s = processor_time() - start
    module = fw.GraphModule(lib["default"](fw.device(lib.target.kind)))
    module.run(**{name: inputs[name] for name in lib.program.inputs})
    outputs = [module.get_output(k).numpy() for k in range(module.get_num_outputs())]
    apart = [differences(a, b) for a, b in zip(outputs, expected, strict=True)]
    report.difference, report.element_difference = (max(column) for column in zip(*apart, strict=True))
    steps = module.profile(repeat=1).steps
    if steps:
        slowest = max(steps, key=lambda step: step.seconds)
        report.slowest = (slowest.name, slowest.implementation, slowest.seconds, slowest.share)


@click.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--target", default="cpu")
def main(path: Path, target: str) -> None:
    """Print the report on one model."""
    print(json.dumps(attrs.asdict(check(path, target))))


if __name__ == "__main__":
    main()
