"""The variants of the tables for work-groups on every driver there is, against NumPy in float64.

FUSEWIRE_TEST_VARIANTS=all python -m pytest tests/opencl/test_variants.py runs every variant on every case that it fits.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from attrs import frozen

import fusewire as fw
from fusewire.targets.implement import Decision, entries
from fusewire.targets.implementation import Implementation
from fusewire.targets.lower import Problem
from fusewire.targets.schedules.gpu.table import IMAGE_BLOCKS, TABLE
from tests.opencl.forced import problems, run_as
from tests.opencl.present import DEVICES, each_device, one_device

Array = npt.NDArray[Any]
RNG = np.random.default_rng(11)


def numbers(*shape: int) -> Array:
    return RNG.uniform(-1, 1, shape).astype(np.float32)


@frozen(eq=False)
class Case:
    """A network of one group, its inputs, and its result in float64."""

    name: str
    make: Callable[..., Any]
    inputs: Mapping[str, Array]
    expected: Array

    def build(self, target: str) -> Any:
        variables = [fw.var(name, shape=a.shape, dtype=str(a.dtype)) for name, a in self.inputs.items()]
        return fw.build(fw.Function(variables, self.make(*variables)), target)


def conv2d(x: Array, w: Array, stride: int, pad: int, groups: int) -> Array:
    """The definition of a convolution, in float64."""
    x64, w64 = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad))).astype(np.float64), w.astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(x64, w.shape[2:], (2, 3))[:, :, ::stride, ::stride]
    parts = zip(np.split(windows, groups, axis=1), np.split(w64, groups), strict=True)
    return np.concatenate([np.einsum("nchwij,ocij->nohw", a, b) for a, b in parts], axis=1)


def blocked(array: Array) -> Array:
    """NCHW as NCHW4c."""
    n, c, h, w = array.shape
    return np.ascontiguousarray(array.reshape(n, c // 4, 4, h, w).transpose(0, 1, 3, 4, 2))


def conv_case(
    name: str, shape: tuple[int, ...], out: int, window: int, stride: int = 1, groups: int = 1, layout: str = "NCHW"
) -> Case:
    x, w, bias = numbers(*shape), numbers(out, shape[1] // groups, window, window), numbers(out, 1, 1)
    pad = window // 2
    expected = np.maximum(conv2d(x, w, stride, pad, groups) + bias, 0)
    shift = bias.reshape(out // 4, 1, 1, 4) if layout == "NCHW4c" else bias

    def make(data: Any) -> Any:
        net = fw.nn.conv2d(
            data, fw.const(w), kernel_size=(window, window), channels=out, padding=(pad, pad),
            strides=(stride, stride), groups=groups, data_layout=layout,
        )  # fmt: skip
        return fw.nn.relu(fw.add(net, fw.const(shift)))

    if layout == "NCHW4c":
        x, expected = blocked(x), blocked(expected)
    return Case(name, make, {"x": x}, expected)


def channels_last(
    name: str, shape: tuple[int, ...], out: int, window: int, stride: int = 1, groups: int = 1, kernel: str = "HWIO"
) -> Case:
    """NHWC; `shape` is that of NCHW, `kernel` the layout of the weights."""
    x, w, bias = numbers(*shape), numbers(out, shape[1] // groups, window, window), numbers(out)
    expected = conv2d(x, w, stride, window // 2, groups).transpose(0, 2, 3, 1) + bias
    weight = w.transpose(["OIHW".index(axis) for axis in kernel])

    def make(data: Any) -> Any:
        net = fw.nn.conv2d(
            data, fw.const(np.ascontiguousarray(weight)), kernel_size=(window, window), channels=out,
            padding=(window // 2, window // 2), strides=(stride, stride), groups=groups, data_layout="NHWC",
            kernel_layout=kernel,
        )  # fmt: skip
        return fw.nn.relu(fw.add(net, fw.const(bias)))

    return Case(name, make, {"x": np.ascontiguousarray(x.transpose(0, 2, 3, 1))}, np.maximum(expected, 0))


def product_case(name: str, a: tuple[int, ...], b: tuple[int, ...], **transposed: bool) -> Case:
    x, y = numbers(*a), numbers(*b)
    left = np.swapaxes(x, -1, -2) if transposed.get("transpose_a") else x
    right = np.swapaxes(y, -1, -2) if transposed.get("transpose_b") else y
    expected = np.tanh(left.astype(np.float64) @ right.astype(np.float64))
    call = fw.nn.batch_matmul if len(a) == 3 else fw.nn.matmul
    first, second = transposed.get("transpose_a", False), transposed.get("transpose_b", False)

    def make(p: Any, q: Any) -> Any:
        return fw.tanh(call(p, q, transpose_a=first, transpose_b=second))

    return Case(name, make, {"x": x, "y": y}, expected)


def softmax(x: Array) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def normalised(x: Array, axis: int | tuple[int, ...]) -> Array:
    """To mean 0 and variance 1."""
    x64 = x.astype(np.float64)
    return np.asarray((x64 - x64.mean(axis, keepdims=True)) / np.sqrt(x64.var(axis, keepdims=True) + 1e-5))


def attention_case(name: str, sizes: tuple[int, ...], key_transposed: bool = False, masked: bool = False) -> Case:
    """Attention of (batch, heads, rows, length, size, width); a mask closes whatever is ahead, and a whole row."""
    batch, heads, rows, length, size, width = sizes
    q, k, v = (
        numbers(batch, heads, rows, size),
        numbers(batch, heads, length, size),
        numbers(batch, heads, length, width),
    )
    mask = np.where(np.tril(np.ones((rows, length))), 0, -np.inf).astype(np.float32)
    mask[rows // 2] = -np.inf
    scores = 3.0 * np.einsum("bhid,bhjd->bhij", q.astype(np.float64), k) + (mask if masked else 0)
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(3, keepdims=True))
    weights = np.nan_to_num(weights / weights.sum(3, keepdims=True))
    expected = np.tanh(np.einsum("bhij,bhjd->bhid", weights, v.astype(np.float64)))
    inputs = {"q": q, "k": np.ascontiguousarray(k.swapaxes(2, 3)) if key_transposed else k, "v": v}

    def make(*given: Any) -> Any:
        mask_given = given[3] if masked else None
        return fw.tanh(fw.nn.attention(given[0], given[1], given[2], mask_given, 3.0, key_transposed, masked, masked))

    if masked:
        inputs["mask"], expected = mask, expected.swapaxes(1, 2)
    return Case(name, make, inputs, expected)


def pooled() -> Iterator[Case]:
    """Windows that overlap, in both layouts, and averages of whole pictures."""
    y = numbers(2, 8, 9, 12)
    around = np.pad(y.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=np.nan)
    nine = np.lib.stride_tricks.sliding_window_view(around, (3, 3), (2, 3))
    last = np.ascontiguousarray(y.transpose(0, 2, 3, 1))

    def most(p: Any) -> Any:
        return fw.nn.relu(fw.nn.max_pool2d(p, (3, 3), (2, 2), padding=(1, 1)))

    yield Case("max_pool2d 3x3", most, {"x": y}, np.maximum(np.nanmax(nine[:, :, ::2, ::2], (4, 5)), 0))
    yield Case(
        "avg_pool2d 3x3, channels last",
        lambda p: fw.tanh(fw.nn.avg_pool2d(p, (3, 3), (1, 1), padding=(1, 1), layout="NHWC")),
        {"x": last},
        np.tanh(np.nanmean(nine, (4, 5))).transpose(0, 2, 3, 1),
    )
    yield Case("global_avg_pool2d", fw.nn.global_avg_pool2d, {"x": y}, y.astype(np.float64).mean((2, 3), keepdims=True))
    yield Case(
        "global_avg_pool2d, channels last", lambda p: fw.nn.global_avg_pool2d(p, layout="NHWC"), {"x": last},
        last.astype(np.float64).mean((1, 2), keepdims=True),
    )  # fmt: skip


def streams() -> Iterator[Case]:
    """Rows that fit into registers and that do not, with extremes; columns, chunks, tiles that are turned."""
    yield Case("softmax of short rows", lambda p: fw.nn.softmax(p), {"x": (x := numbers(33, 9))}, softmax(x))
    x = 40 * numbers(2, 10000)
    x[0, ::3], x[1, :] = -np.inf, np.where(np.arange(10000) < 9000, -np.inf, x[1])
    yield Case("softmax of long rows with -inf", lambda p: fw.nn.softmax(p), {"x": x}, softmax(x))
    x = numbers(3, 260)
    gamma, beta = fw.const(np.full(260, 2, np.float32)), fw.const(np.ones(260, np.float32))
    net = lambda p: fw.nn.relu(fw.nn.layer_norm(p, gamma, beta))  # noqa: E731
    yield Case("layer_norm", net, {"x": x}, np.maximum(normalised(x, 1) * 2 + 1, 0))
    x = numbers(2, 8, 5, 6)
    own = fw.const(np.ones(8, np.float32)), fw.const(np.zeros(8, np.float32))
    groups = normalised(x.reshape(2, 4, -1), 2).reshape(x.shape)
    yield Case("group_norm", lambda p: fw.nn.group_norm(p, *own, num_groups=4), {"x": x}, groups)
    x = numbers(3, 70, 11)
    columns = np.moveaxis(softmax(np.moveaxis(x, 1, 2).reshape(-1, 70)).reshape(3, 11, 70), 2, 1)
    yield Case("softmax down columns", lambda p: fw.nn.softmax(p, axis=1), {"x": x}, columns)
    x = numbers(130, 150)
    yield Case("mean of all", lambda p: fw.mean(p), {"x": x}, x.astype(np.float64).mean())
    x = numbers(600, 40)
    yield Case("argmin of long columns", lambda p: fw.argmin(p, axis=0), {"x": x}, x.argmin(0))
    x, y = numbers(2, 35, 6, 7), numbers(2, 6, 7, 35)
    yield Case(
        "NCHW to NHWC, and a sum", lambda p, q: fw.transpose(p, (0, 2, 3, 1)) + q, {"x": x, "y": y},
        x.transpose(0, 2, 3, 1).astype(np.float64) + y,
    )  # fmt: skip
    yield attention_case("attention, all remainders", (1, 2, 33, 41, 6, 7))
    yield attention_case("attention with a mask", (2, 2, 20, 70, 16, 40), True, True)
    yield attention_case("attention of one query", (2, 2, 1, 40, 8, 32))


def cases() -> Iterator[Case]:
    yield conv_case("3x3, all remainders", (1, 5, 7, 9), 10, 3)
    yield conv_case("3x3, blocks that divide, stride 2, two pictures", (2, 8, 8, 16), 16, 3, stride=2)
    yield conv_case("3x3 in blocks of channels", (1, 8, 6, 7), 12, 3, layout="NCHW4c")
    yield conv_case("3x3, two groups", (1, 8, 5, 6), 16, 3, groups=2)
    yield conv_case("3x3, one row and one column", (1, 4, 1, 1), 8, 3)
    yield conv_case("3x3 as a product", (2, 8, 13, 11), 20, 3, groups=1)
    yield conv_case("3x3 as a product in two groups", (1, 24, 16, 12), 40, 3, groups=2)
    yield conv_case("3x3 as a product in blocks of channels", (1, 16, 12, 13), 20, 3, layout="NCHW4c")
    yield conv_case("1x1, all remainders", (2, 6, 5, 7), 10, 1)
    yield conv_case("1x1, stride 2", (1, 8, 7, 7), 8, 1, stride=2)
    yield conv_case("1x1 in blocks of channels", (1, 8, 6, 6), 8, 1, layout="NCHW4c")
    yield conv_case("1x1 with few results", (1, 130, 2, 3), 10, 1)
    yield conv_case("1x1 as a product", (1, 32, 17, 18), 32, 1)
    yield conv_case("depthwise", (2, 6, 7, 9), 6, 3, groups=6)
    yield conv_case("3x3 in two parts of the channels", (1, 24, 9, 10), 20, 3)
    yield conv_case("7x7, stride 2, few channels", (1, 3, 19, 18), 12, 7, stride=2)
    yield channels_last("3x3, channels last, stride 2", (2, 5, 9, 11), 10, 3, stride=2)
    yield channels_last("1x1, channels last", (1, 32, 6, 7), 20, 1)
    yield channels_last("3x3, channels last, weights HWOI", (1, 6, 5, 7), 12, 3, kernel="HWOI")
    yield channels_last("depthwise, channels last, stride 2", (2, 24, 9, 11), 24, 3, stride=2, groups=24)
    yield channels_last("depthwise, channels last, no vectors", (1, 6, 7, 5), 6, 5, groups=6, kernel="HWOI")
    yield conv_case(
        "depthwise in blocks of channels, stride 2", (1, 8, 9, 7), 8, 3, stride=2, groups=8, layout="NCHW4c"
    )
    yield conv_case("depthwise, one column", (1, 4, 6, 1), 4, 3, groups=4)
    yield product_case("product, all remainders", (33, 19), (19, 35))
    yield product_case("product of whole tiles", (64, 32), (128, 32), transpose_b=True)
    yield product_case(
        "products in a batch, both transposed", (2, 21, 18), (2, 20, 21), transpose_a=True, transpose_b=True
    )
    yield product_case("product with one row", (1, 70), (10, 70), transpose_b=True)
    yield product_case("product with one column", (5, 70), (70, 1))
    yield product_case("product of few rows, columns that are no vectors", (7, 133), (133, 70))
    yield product_case("product of few rows in vectors", (3, 200), (200, 68))
    yield product_case("products of few rows in a batch", (3, 2, 260), (3, 27, 260), transpose_b=True)
    yield product_case("product with few results of long sums", (20, 1000), (18, 1000), transpose_b=True)
    x = numbers(5, 100)
    yield Case("softmax", lambda p: fw.nn.softmax(p), {"x": x}, softmax(x))
    yield Case(
        "sum over the first axis", lambda p: fw.sum(p, axis=(0,)), {"x": x.T.copy()}, x.astype(np.float64).sum(1)
    )
    yield Case("argmax", lambda p: fw.argmax(p, axis=1), {"x": x}, x.argmax(1))
    y = numbers(2, 3, 9, 12)
    tops = np.lib.stride_tricks.sliding_window_view(y, (3, 2), (2, 3))[:, :, ::2, ::2].max(axis=(4, 5))
    yield Case("max_pool2d", lambda p: fw.nn.max_pool2d(p, (3, 2), strides=(2, 2)), {"x": y}, tops)
    yield from pooled()
    yield from streams()
    z, shift = numbers(4, 7), numbers(7, 1)
    powers = np.exp(z.T.astype(np.float64) + shift)
    yield Case("map", lambda p, q: fw.exp(fw.transpose(p) + q), {"x": z, "y": shift}, powers)


CASES = {case.name: case for case in cases()}
OTHERS = ("_mma.cpu",) if DEVICES else ("_mma.cpu", *(f"{block.name}.cpu" for block in IMAGE_BLOCKS))
"""Variants that are not for here: units for matrices (test_matrix_units.py); images, where no device is known."""
VARIANTS = {entry.name for entry in TABLE if not entry.name.endswith(OTHERS)}


def fitting(problem: Problem) -> list[Implementation]:
    """The variants of the tables that fit a group."""
    return [e for e in entries(problem) if e.name in VARIANTS and e.check(problem) is None]


def agrees(lib: fw.CompiledModule, case: Case, decision: Decision) -> None:
    """A case built as decided gives what NumPy does."""
    (got,) = run_as(lib, decision, case.inputs)
    note = f"{decision.implementation} {decision.config}"
    np.testing.assert_allclose(got, case.expected, rtol=1e-4, atol=2e-5, err_msg=note)


@lru_cache(maxsize=1)
def chosen() -> dict[str, list[tuple[str, int]]]:
    """For each case which variants run it, and whether with the first or the last of their configs (0, -1).

    With FUSEWIRE_TEST_VARIANTS=all every one that fits, with both (minutes); else a few, those that had least to do.
    """
    every = os.environ.get("FUSEWIRE_TEST_VARIANTS") == "all"
    turns = dict.fromkeys(VARIANTS, 0)
    plan: dict[str, list[tuple[str, int]]] = {}
    for case in CASES.values():
        (problem,) = problems(case.build("opencl"))
        names = sorted((e.name for e in fitting(problem)), key=lambda name: (turns[name], name))
        if every:
            plan[case.name] = [(name, k) for name in names for k in (0, -1)]
            continue
        picked = [name for name in names if not turns[name]][:3] or names[:1]
        plan[case.name] = [(name, -(turns[name] % 2)) for name in picked]
        for name in picked:
            turns[name] += 1
    return plan


@each_device
@pytest.mark.parametrize("name", CASES)
def test_variants_agree_with_numpy(target: str, name: str) -> None:
    case = CASES[name]
    lib = case.build(target)
    (problem,) = problems(lib)
    variants = {e.name: list(e.configs(problem)) for e in fitting(problem)}
    for variant, k in chosen()[name]:
        agrees(lib, case, Decision(variant, variants[variant][k]))


@one_device
def test_depthwise_through_local_memory(target: str) -> None:
    case = CASES["depthwise, channels last, stride 2"]
    lib = case.build(target)
    (problem,) = problems(lib)
    (entry,) = [e for e in fitting(problem) if e.name == "conv2d_depthwise_last.cpu"]
    config = next(config for config in entry.configs(problem) if config["staged"])
    (got,) = run_as(lib, Decision(entry.name, config), case.inputs)
    np.testing.assert_allclose(got, case.expected, rtol=1e-4, atol=2e-5, err_msg=str(config))


def test_every_variant_has_its_turn() -> None:
    assert {name for turns in chosen().values() for name, _ in turns} == VARIANTS
