"""Strassen's algorithm: its sums, what takes it, its results and their accuracy beside plain products."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.targets.implement import Decision, choose, entries
from fusewire.targets.lower import Problem
from fusewire.targets.schedules import strassen
from fusewire.targets.schedules.strassen import LEFT, RESULT, RIGHT, place
from fusewire.targets.tuning.bench import options_of
from tests.opencl.forced import problems, run_as
from tests.opencl.present import DEVICES, each_device, needs_device, one_device

Array = npt.NDArray[Any]
RNG = np.random.default_rng(3)
NAME = "gemm_strassen.cpu"


def numbers(*shape: int) -> Array:
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def config(problem: Problem, **wanted: int) -> dict[str, int]:
    """The first config of the space with some numbers."""
    configs = [dict(c) for c in strassen.configs(problem)]
    return next(c for c in configs if wanted.items() <= c.items())


def quarters(matrix: Array, depth: int) -> list[Array]:
    """The blocks of a matrix as `place` counts them."""
    rows, columns = (size >> depth for size in matrix.shape)
    places = [place(number, depth) for number in range(4**depth)]
    return [matrix[i * rows : (i + 1) * rows, j * columns : (j + 1) * columns] for i, j in places]


@pytest.mark.parametrize("depth", [1, 2])
def test_the_sums_are_an_identity(depth: int) -> None:
    """On whole numbers, whose products do not commute as matrices: exactly the product."""
    a, b = (RNG.integers(-9, 9, shape) for shape in ((8, 12), (12, 20)))
    left, right = LEFT.nested(quarters(a, depth), depth), RIGHT.nested(quarters(b, depth), depth)
    assert len(left) == len(right) == 7**depth
    found = RESULT.nested([x @ y for x, y in zip(left, right, strict=True)], depth)
    for block, expected in zip(found, quarters(a @ b, depth), strict=True):
        np.testing.assert_array_equal(block, expected)


def test_there_are_fifteen_sums() -> None:
    assert len(LEFT.steps) + len(RIGHT.steps) + len(RESULT.steps) == 15


def dense(a: Array, b: Array, target: str, constant: bool = True) -> fw.CompiledModule:
    """relu(a b^T + bias), with leading axes; b is known or given."""
    x, bias = fw.var("x", shape=a.shape), fw.const(np.linspace(-9, 9, len(b)).astype(np.float32))
    w = fw.var("w", shape=b.shape)
    net = fw.nn.relu(fw.nn.dense(x, fw.const(b) if constant else w) + bias)
    return fw.build(fw.Function([x] if constant else [x, w], net), target)


def exact(a: Array, b: Array) -> Array:
    whole = a.astype(np.float64) @ b.astype(np.float64).T + np.linspace(-9, 9, len(b)).astype(np.float32)
    return np.asarray(np.maximum(whole, 0))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small matrices do: kernels for them compile in no time."""
    monkeypatch.setattr(strassen, "LEAST", 8)


@each_device
@pytest.mark.usefixtures("small")
def test_a_layer_and_its_accuracy(target: str) -> None:
    """Rows and columns that are no whole tiles, an epilogue, and an error of a few times that of plain products."""
    a, b = numbers(2, 11, 1500), numbers(38, 1500)
    lib, expected = dense(a, b, target), exact(a, b)
    (problem,) = problems(lib)
    error = {}
    for name, numbers_ in (("gemm.cpu", None), (NAME, config(problem, depth=1))):
        chosen = numbers_ or next(dict(next(iter(e.configs(problem)))) for e in entries(problem) if e.name == name)
        (got,) = run_as(lib, Decision(name, chosen), {"x": a})
        error[name] = np.abs(got - expected).max()
    assert error["gemm.cpu"] > 0
    assert error[NAME] < 4 * error["gemm.cpu"]


@one_device
@pytest.mark.usefixtures("small")
def test_done_twice_with_a_matrix_that_is_given(target: str) -> None:
    a, b = numbers(20, 1024), numbers(64, 1024)
    lib, expected = dense(a, b, target, constant=False), exact(a, b)
    (problem,) = problems(lib)
    (plain,) = run_as(lib, Decision("gemm.cpu", next(iter(options_of(problem))).config), {"x": a, "w": b})
    chosen = config(problem, depth=2, rows=64)
    (got,) = run_as(lib, Decision(NAME, chosen), {"x": a, "w": b})
    assert np.abs(plain - expected).max() > 0
    assert np.abs(got - expected).max() < 10 * np.abs(plain - expected).max()


@one_device
@pytest.mark.usefixtures("small")
def test_the_left_hand_matrix_transposed(target: str) -> None:
    a, b = numbers(24, 22), numbers(24, 36)
    x, y = fw.var("x", shape=a.shape), fw.var("y", shape=b.shape)
    lib = fw.build(fw.Function([x, y], fw.nn.matmul(x, y, transpose_a=True)), target)
    (problem,) = problems(lib)
    (got,) = run_as(lib, Decision(NAME, config(problem, depth=1)), {"x": a, "y": b})
    np.testing.assert_allclose(got, a.astype(np.float64).T @ b, rtol=0, atol=2e-4)


def refusal(net: Any, target: str = "opencl") -> str | None:
    (problem,) = problems(fw.build(fw.Function(fw.analysis.free_vars(net), net), target))
    (entry,) = [e for e in entries(problem) if e.name == NAME]
    return entry.check(problem)


def product(m: int, n: int, k: int, dtype: str = "float32") -> Any:
    return fw.nn.dense(fw.var("x", shape=(m, k), dtype=dtype), fw.var("w", shape=(n, k), dtype=dtype))


def test_refusals_have_reasons() -> None:
    assert refusal(product(512, 514, 516)) is None
    assert refusal(product(512, 514, 510)) == "matrices of 512 x 514 x 510; each side should be 512 at least"
    assert refusal(product(512, 515, 516)) == "matrices of 512 x 515 x 516; it takes even sizes"
    assert refusal(product(512, 512, 512, "float64")) == "dtype float64; it is written for float32"
    assert refusal(product(512, 512, 512), "cpu") == refusal(product(512, 512, 512), "opencl -thread_warp_size=32")
    assert "kind cpu" in str(refusal(product(512, 512, 512), "cpu"))


@needs_device
def test_only_a_wide_search_may_choose_it() -> None:
    """It rounds otherwise than the definition: neither a build nor the lower levels of a search take it."""
    net = product(2048, 2048, 2048)
    target = f"opencl -device={DEVICES[0].index}"
    (problem,) = problems(fw.build(fw.Function(fw.analysis.free_vars(net), net), target))
    assert choose(problem)[0].entry.name == "gemm.cpu"
    tried = [{o.implementation for o in options_of(problem, "opencl", every)} for every in (False, True)]
    assert ["gemm_strassen.opencl" in names for names in tried] == [False, True]
    assert {c["depth"] for c in strassen.configs(problem)} == {1, 2}
