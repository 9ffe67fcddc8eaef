"""Schedules of memory-bound groups, compiled for several instruction sets, against NumPy."""

from collections.abc import Callable

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.loops import Kernel
from fusewire.targets.cpuinfo import Isa
from fusewire.targets.implement import implement
from fusewire.targets.looptext import kernel_text
from fusewire.targets.lower import make_problem
from fusewire.targets.program import KernelStep, make_program
from tests.direct import AVX2, AVX512, SSE, Array, run_kernels

ISAS = pytest.mark.parametrize("isa", [AVX512, AVX2, SSE], ids=lambda isa: isa.name)


def kernel_of(graph: fw.Expr, isa: Isa, name: str = "KERNEL") -> Kernel:
    """The finished kernel of a graph that is one group."""
    main = fw.transform.FuseOps()(fw.transform.InferType()(fw.IRModule.from_expr(graph)))["main"]
    (step,) = make_program(main).steps
    assert isinstance(step, KernelStep)
    return implement(make_problem(step.function, name, isa, 4, {}))[0].kernel


def ties(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Rows of few different values, so that each extreme stands at many places; some rows hold NaN or only -inf."""
    x = rng.integers(0, 5, shape).astype(dtype)
    if np.issubdtype(x.dtype, np.floating):
        x[1, rng.integers(0, shape[1], 3)] = np.nan
        x[2] = -np.inf
        x[3, -1] = np.nan
        x[4, 0] = np.nan
        x[5] = np.inf
    x[6, -1] = 9
    return x


@ISAS
def test_the_first_and_last_place_of_an_extreme(isa: Isa) -> None:
    rng, wanted = np.random.default_rng(1), []
    work: list[tuple[Kernel, list[Array]]] = []
    cases = [("float32", 256, False), ("float32", 133, True), ("int32", 64, True), ("float64", 64, False)]
    for dtype, columns, last in cases:
        x = ties(rng, (16, columns), dtype)
        for op, reference in ((fw.argmax, np.argmax), (fw.argmin, np.argmin)):
            graph = op(fw.var("x", shape=x.shape, dtype=dtype), 1, select_last_index=last)
            work.append((kernel_of(graph, isa, f"k{len(work)}"), [x]))
            found = reference(x[:, ::-1] if last else x, 1)
            wanted.append(columns - 1 - found if last else found)
    assert "groups" in kernel_text(work[0][0])
    for (out,), want, (_, (x,)) in zip(run_kernels(work), wanted, work, strict=True):
        np.testing.assert_array_equal(out, want, err_msg=f"{x.dtype}{x.shape}")


def pooled(x: Array, size: tuple[int, int], stride: int, pad: int, what: Callable[..., Array]) -> Array:
    """Windows of NCHW by NumPy in float64, with NaN for what lies outside; `what` leaves it out."""
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, size, (2, 3))[:, :, ::stride, ::stride]
    return what(windows, (-2, -1))


@ISAS
@pytest.mark.parametrize(("size", "stride", "pad"), [((3, 3), 2, 1), ((3, 5), 1, 1)])
def test_windows_one_axis_after_the_other(isa: Isa, size: tuple[int, int], stride: int, pad: int) -> None:
    rng = np.random.default_rng(2)
    work: list[tuple[Kernel, list[Array]]] = []
    for shape in ((1, 3, 15, 37), (2, 9, 8, 20)):
        x = rng.normal(size=shape).astype(np.float32)
        steps, around = (stride, stride), (pad, pad)
        data = fw.var("x", shape=shape)
        work.append((kernel_of(fw.nn.max_pool2d(data, size, steps, padding=around), isa, f"k{len(work)}"), [x]))
        work.append(
            (kernel_of(fw.nn.relu(fw.nn.avg_pool2d(data, size, steps, padding=around)), isa, f"k{len(work)}"), [x])
        )
    assert "places" in kernel_text(work[0][0])
    for k, ((out,), (_, (x,))) in enumerate(zip(run_kernels(work), work, strict=True)):
        want = pooled(x, size, stride, pad, np.nanmean if k % 2 else np.nanmax)
        np.testing.assert_allclose(out, np.maximum(want, 0) if k % 2 else want, rtol=1e-5, atol=1e-6)


def test_a_nan_comes_through_windows() -> None:
    x = np.zeros((1, 1, 9, 40), np.float32)
    x[0, 0, 4, 7] = np.nan
    ((out,),) = run_kernels([(kernel_of(fw.nn.max_pool2d(fw.var("x", shape=x.shape), (3, 3), (1, 1)), AVX512), [x])])
    assert np.isnan(out[0, 0, 2:5, 5:8]).all()
    assert np.isnan(out).sum() == 9


@ISAS
def test_transposes_of_what_is_far(isa: Isa) -> None:
    """More than 4 MiB are gone through in other blocks and orders than less."""
    shapes = [((1032, 1024), (1, 0)), ((3, 21, 130, 132), (0, 2, 3, 1)), ((3, 132, 130, 20), (0, 3, 1, 2))]
    shapes += [((3, 130, 21, 132), (0, 2, 1, 3))]
    work = []
    for k, (shape, axes) in enumerate(shapes):
        x = np.random.default_rng(k).integers(0, 200, shape).astype(np.float32)
        work.append((kernel_of(fw.transpose(fw.var("x", shape=shape), axes), isa, f"k{k}"), [x]))
    for (out,), (_, (x,)), (_, axes) in zip(run_kernels(work), work, shapes, strict=True):
        np.testing.assert_array_equal(out, x.transpose(axes))


def test_rows_are_read_in_the_order_of_memory() -> None:
    graph = fw.transpose(fw.var("x", shape=(32, 256, 8, 64)), (0, 2, 1, 3))
    near = fw.transpose(fw.var("x", shape=(32, 16, 8, 64)), (0, 2, 1, 3))
    far, short = kernel_text(kernel_of(graph, AVX512)), kernel_text(kernel_of(near, AVX512))
    assert "p0[p, i1, i2" in far
    assert "p0[p, i2, i1" in short


@ISAS
def test_softmax_fetches_its_results(isa: Isa) -> None:
    x = np.random.default_rng(5).normal(0, 30, (70, 300)).astype(np.float32)
    x[3, 4], x[5, 6], x[7] = np.nan, np.inf, -np.inf
    x[8, :200] = -np.inf
    kernel = kernel_of(fw.nn.softmax(fw.var("x", shape=x.shape)), isa)
    assert "to write" in kernel_text(kernel)
    ((out,),) = run_kernels([(kernel, [x])])
    with np.errstate(invalid="ignore"):
        e = np.exp(x.astype(np.float64) - x.astype(np.float64).max(1, keepdims=True))
        want = e / e.sum(1, keepdims=True)
    np.testing.assert_allclose(out, want, rtol=2e-5, atol=1e-37)
