"""Matrix products large enough for blocks of rows, panels in parts, fetching ahead and copied rows, against NumPy."""

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.loops import Alloc, For, Kernel, Prefetch
from fusewire.targets.cpuinfo import Isa
from fusewire.targets.rewrite import walk
from fusewire.targets.schedules.gemm import Shape, block_rows
from tests.direct import AVX2, AVX512, SSE, Array, run_kernels
from tests.targets.test_schedules import only_group


def dense(m: int, n: int, k: int, constant: bool = True) -> tuple[fw.Expr, Array, Array]:
    rng = np.random.default_rng(m + n + k)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((n, k), np.float32)
    weight = fw.const(b) if constant else fw.var("b", shape=(n, k))
    return fw.nn.relu(fw.nn.dense(fw.var("a", shape=(m, k)), weight) + 0.5), a, b


SHAPES = {
    "deep, in parts": (31, 47, 2200, True),
    "deep, one tile of rows": (5, 33, 2200, True),
    "fetched ahead": (60, 70, 130, True),
    "rows that collide": (33, 140, 1024, True),
    "blocks of rows": (230, 130, 700, True),
    "packed at run time": (40, 50, 37, False),
    "a vector": (1, 130, 70, True),
}


@pytest.mark.parametrize("isa", [AVX512, AVX2, SSE], ids=lambda isa: isa.name)
def test_against_numpy(isa: Isa) -> None:
    work: list[tuple[Kernel, list[Array]]] = []
    expected = []
    for m, n, k, constant in SHAPES.values():
        graph, a, b = dense(m, n, k, constant)
        _, kernel, sources = only_group(graph, isa, threads=1)
        arrays = [{"a": a, "b": b}[s] if isinstance(s, str) else s for s in sources]
        work.append((Kernel(f"k{len(work)}", kernel.inputs, kernel.outputs, kernel.body), arrays))
        expected.append(np.maximum(a.astype(np.float64) @ b.T.astype(np.float64) + 0.5, 0))
    for (got,), want, name in zip(run_kernels(work), expected, SHAPES, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=3e-4, err_msg=name)


def statements(name: str) -> list[object]:
    return list(walk(only_group(dense(*SHAPES[name])[0], AVX512, threads=1)[1].body))


def scratch(name: str) -> set[str]:
    return {s.buffer.name for s in statements(name) if isinstance(s, Alloc)}


def test_what_each_shape_gets() -> None:
    assert "sums" in scratch("deep, in parts") and "sums" not in scratch("deep, one tile of rows")
    assert any(isinstance(s, Prefetch) for s in statements("fetched ahead"))
    assert not any(isinstance(s, Prefetch) for s in statements("a vector"))
    assert "rows" in scratch("rows that collide") and "rows" not in scratch("fetched ahead")
    assert "packed" in scratch("packed at run time")
    loops = [s for s in statements("blocks of rows") if isinstance(s, For) and s.kind == "parallel"]
    assert max(s.extent for s in loops) >= 2 * (130 // 32)


def test_rows_of_a_block() -> None:
    def rows(m: int, n: int, k: int, threads: int) -> int:
        return block_rows(Shape((), m, n, k, False, True, False), n // 32, 4, 14, threads)

    assert rows(128, 768, 768, 1) == 128  # fits into the cache
    assert rows(1024, 1024, 1024, 1) == 128  # eight blocks of half a MiB each
    assert rows(128, 32, 64, 2) == 64  # one panel, two threads
    assert rows(7, 32, 64, 2) == 7  # one tile is not split
