"""One job on one engine: build, check the result, take times.

Two times are taken. `ms` is a run as a caller sees it, with the wait for the device; `device_ms` is what the device was
busy: for fusewire the sum of its steps, each timed by the device's clock, for PyTorch the mean of replays of a captured
graph, one after the other. Both of PyTorch's engines run as captured CUDA graphs, as fusewire does.
"""

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np

import fusewire as fw
from fusewire.targets.compiled import CompiledModule
from fusewire.targets.opencl.devices import find
from fusewire.targets.target import Target
from fusewire.targets.tuning.store import TuningStore

from .jobs import COMPILED, Job
from .models import Array, Model
from .twin import twin

Row = dict[str, Any]
SEARCH = 5.0
"""Seconds of a search in the section "tuning"; what has begun is finished."""
SECONDS = 0.25
"""How long to repeat a run, about."""


def torch_or_none() -> Any:
    """PyTorch, if it is there and sees a device."""
    try:
        import torch
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


@lru_cache(maxsize=1)
def subject(section: str, case: str, batch: int, precision: str, small: bool) -> Model:
    """The network of a job; the next job is often about the same one."""
    return Job(section, case, batch, precision, "").model(small)


@lru_cache(maxsize=1)
def exact(section: str, case: str, batch: int, precision: str, small: bool) -> Array | None:
    """The first output in float64; None where nothing here computes it in a reasonable time."""
    model = subject(section, case, batch, precision, small)
    torch = None if small or section == "streaming" else torch_or_none()
    if torch is None:
        if not small and section in ("gemm", "networks"):
            return None
        result = fw.testing.evaluate(model.function, {**model.params, **model.inputs})[0]
        return np.asarray(result, np.float64)
    with torch.no_grad():
        forward, inputs = twin(model, torch, "cuda", torch.float64)
        result = forward(*inputs)
        first = result[0] if isinstance(result, tuple) else result
        return np.asarray(first.cpu().numpy(), np.float64)


def run(job: Job, small: bool = False) -> Row:
    """One job: a row of the report, without its name.

    Raises:
        FusewireError: fusewire refuses it, or fails.
        Exception: as PyTorch likes.
    """
    key = job.section, job.case, job.batch, job.precision, small
    made = _torch if job.by_torch else _tuned if job.section == "tuning" else _fusewire
    # A layer by types is compared with the same exact result as the others are: its weights and input are rounded ones.
    model = job.model(small) if job.by_types and job.section != "gemm" else subject(*key)
    row, first = made(job, model)
    reference = exact(*key)
    if model.last:
        first = np.moveaxis(first, -1, 1)
    if reference is not None:
        scale = float(np.abs(reference).max()) or 1.0
        row["difference"] = float(np.abs(first.astype(np.float64) - reference).max()) / scale
    return row


def timed(once: Callable[[], None]) -> dict[str, float | int]:
    """Milliseconds of runs, fastest and median, after a warm-up."""
    for _ in range(3):
        once()
    start = time.perf_counter()
    once()
    count = int(np.clip(SECONDS / max(time.perf_counter() - start, 1e-9), 3, 1000))
    times = []
    for _ in range(count):
        start = time.perf_counter()
        once()
        times.append(time.perf_counter() - start)
    return {"min": min(times) * 1e3, "median": float(np.median(times)) * 1e3, "runs": count}


def _fusewire(job: Job, model: Model) -> tuple[Row, Array]:
    start = time.perf_counter()
    lib = fw.build(fw.IRModule.from_expr(model.function), job.target, dict(model.params))
    row, first = _measured(lib, job, model)
    return {"build_seconds": time.perf_counter() - start, **row}, first


def _tuned(job: Job, model: Model) -> tuple[Row, Array]:
    """The network with what a search has found, and in "untuned" the times without."""
    mod = fw.IRModule.from_expr(model.function)
    plain, _ = _measured(fw.build(mod, job.target, dict(model.params)), job, model)
    found = fw.tune(mod, job.target, dict(model.params), level="fast", seconds=SEARCH, records=TuningStore())
    row, first = _measured(found.lib, job, model)
    timings = [t for group in found.groups if group.outcome for t in group.outcome.timings]
    decided = [group.decision for group in found.groups if group.decision]
    row |= {
        "untuned": {"ms": plain["ms"], "device_ms": plain["device_ms"]},
        "withdrawn": found.withdrawn,
        "tried": len(timings),
        "problems": [f"{t.implementation} {dict(t.config)}: {t.problem}" for t in timings if t.problem],
        "chosen": [f"{d.implementation} {dict(d.config)}" for d in decided],
        "search_seconds": found.seconds,
    }
    return row, first


def _measured(lib: CompiledModule, job: Job, model: Model) -> tuple[Row, Array]:
    device = fw.device(Target(job.engine).kind, 0)
    module = fw.GraphModule(lib["default"](device))
    for name, value in model.inputs.items():
        module.set_input(name, value)
    module.run()
    first = np.array(module.get_output(0).numpy())
    row: Row = {"ms": timed(module.run)}
    steps = module.profile(repeat=20, peaks=False).steps
    longest = sorted(steps, key=lambda s: -s.seconds)[:5]
    row |= {
        "device_ms": sum(s.seconds for s in steps) * 1e3,
        "flops": sum(s.flops for s in steps),
        "nbytes": sum(s.nbytes for s in steps),
        "steps": len(steps),
        "longest": [
            {"name": s.name, "by": s.implementation, "us": s.seconds * 1e6, "gflops": s.gflops, "gbytes": s.gbytes}
            for s in longest
        ],
    }
    return row, first


def _torch(job: Job, model: Model) -> tuple[Row, Array]:
    torch = torch_or_none()
    if torch is None:
        raise fw.DeviceNotFound("PyTorch is not installed, or sees no device: pip install torch")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = job.precision == "tf32"
    torch.backends.cudnn.benchmark = True
    kind = torch.bfloat16 if job.precision == "bfloat16" else torch.float32
    start = time.perf_counter()
    with torch.no_grad():
        forward, inputs = twin(model, torch, "cuda", kind)
        if job.engine == COMPILED:
            forward = torch.compile(forward, mode="max-autotune-no-cudagraphs", dynamic=False)
        replay, result = captured(torch, forward, inputs)
        spent = time.perf_counter() - start

        def once() -> None:
            replay()
            torch.cuda.synchronize()

        row: Row = {"build_seconds": spent, "ms": timed(once), "device_ms": device_ms(torch, replay, once)}
        first = result[0] if isinstance(result, tuple) else result
        return row, np.asarray(first.float().cpu().numpy())


def captured(torch: Any, forward: Callable[..., Any], inputs: list[Any]) -> tuple[Callable[[], None], Any]:
    """A function as a CUDA graph: what replays it, and the result that a replay fills."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            forward(*inputs)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = forward(*inputs)
    graph.replay()
    torch.cuda.synchronize()
    return graph.replay, result


def device_ms(torch: Any, replay: Callable[[], None], once: Callable[[], None]) -> float:
    """Milliseconds of one replay among many."""
    start = time.perf_counter()
    once()
    count = int(np.clip(SECONDS / max(time.perf_counter() - start, 1e-9), 3, 1000))
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(count):
        replay()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / count


def copy_gbytes(target: str, nbytes: int) -> float:
    """The bandwidth of a plain copy within the device, bytes read and written, in GB/s: what others are compared with.

    On cuda it is CuPy's (the driver's copy), on opencl the runtime's copy of a buffer, else NumPy's.
    """
    kind = Target(target).kind
    if kind == "cuda":
        return _copy_cuda(nbytes)
    if kind == "opencl":
        return _copy_opencl(target, nbytes)
    source = np.ones(nbytes // 4, np.float32)
    other = np.zeros_like(source)
    return 2 * nbytes / (timed(lambda: np.copyto(other, source))["min"] * 1e6)


def _copy_cuda(nbytes: int) -> float:
    cp = import_module("cupy")

    with nullcontext(cp.cuda.get_current_stream()) as stream:
        source, other = cp.ones(nbytes // 4, np.float32), cp.zeros(nbytes // 4, np.float32)
        first, last = cp.cuda.Event(), cp.cuda.Event()
        best = float("inf")
        for _ in range(10):
            first.record()
            for _ in range(5):
                other.data.copy_from_device_async(source.data, nbytes, stream)
            last.record()
            last.synchronize()
            best = min(best, cp.cuda.get_elapsed_time(first, last) / 5)
    return 2 * nbytes / (best * 1e6)


def _copy_opencl(target: str, nbytes: int) -> float:
    cl = import_module("pyopencl")
    device = find(Target(target).device).raw
    context = cl.Context([device])
    queue = cl.CommandQueue(context)
    source, other = (cl.Buffer(context, cl.mem_flags.READ_WRITE, nbytes) for _ in range(2))
    cl.enqueue_fill_buffer(queue, source, np.float32(1), 0, nbytes)

    def once() -> None:
        cl.enqueue_copy(queue, other, source)
        queue.finish()

    return 2 * nbytes / (timed(once)["min"] * 1e6)
