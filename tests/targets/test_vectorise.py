"""Vectorisation: what becomes lanes, what does not and why; compiled results against interpreted plain loops."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fusewire.ir.index import Index, as_index
from fusewire.ir.loops import Alloc, Builder, For, Kernel, Store
from fusewire.ir.scalar import Buffer, Load, Value, apply, cast, clamped, constant, inside, select
from fusewire.ir.types import numpy_dtype
from fusewire.targets.prove import verify
from fusewire.targets.rewrite import all_values, values_of, walk
from fusewire.targets.vectorise import lanes_for, vectorise
from tests.direct import Array, memory_for, run_loops
from tests.interpret import run_statements

Element = Callable[[Builder, Index], Value]


def loop(extent: int, inputs: list[Buffer], element: Element, dtype: str = "float32", name: str = "k") -> Kernel:
    """`out[i] = element(i)` as one vectorised loop."""
    out = Buffer("out", (extent,), dtype)
    builder = Builder()
    with builder.loop("i", extent, "vectorised") as i:
        builder.store(out, (i,), element(builder, i))
    return Kernel(name, tuple(inputs), (out,), builder.finish())


def widest(kernel: Kernel) -> int:
    """The most lanes that a value of the kernel has."""
    return max(v.lanes for s in walk(kernel.body) for v in all_values(values_of(s)) if not isinstance(v, Index))


def interpreted(kernel: Kernel, arrays: list[Array]) -> Array:
    memory = dict(memory_for(kernel, arrays))
    run_statements(kernel.body, memory)
    return memory[kernel.outputs[0]]


X = Buffer("x", (100,), "float32")
WIDE = Buffer("wide", (64,), "float64")
W = Buffer("w", (100, 7), "float32")


@pytest.mark.parametrize(
    ("element", "lanes", "note"),
    [
        (lambda b, i: b.load(X, (i,)) * 2.0, 8, None),
        (lambda b, i: b.load(X, (i + 3,)) + b.load(X, (5,)), 8, None),
        (lambda b, i: b.load(X, (99 - i,)), 8, None),
        (lambda b, i: b.load(X, (i * 2,)), 8, None),
        (lambda b, i: b.load(W, (i, 3)), 1, "load of w with stride 7"),
        (lambda b, i: b.load(X, (i // 2,)), 1, "load of x with stride unknown"),
        (lambda b, i: select(inside((i - 1,), X.shape), b.load(X, (i - 1,)), 0.0), 1, "guarded load of x|counter"),
        (lambda b, i: cast(i, "float32"), 8, None),
        (lambda b, i: cast(i // 3, "float32"), 1, "a loop counter as a number"),
        (lambda b, i: select(apply("lt", i, 7), b.load(X, (i,)), 2.0), 8, None),
        (lambda b, i: b.load(X, (clamped(cast(b.load(X, (i,)), "int32"), 100),)), 1, "load of x with stride unknown"),
        (lambda b, i: constant(3, "float32"), 8, None),
    ],
)
def test_what_becomes_lanes(element: Element, lanes: int, note: str | None) -> None:
    kernel = loop(33, [X, W], element)
    wide = vectorise(kernel, 32)
    assert widest(wide) == lanes
    assert len(wide.notes) == (note is not None)
    if note:
        assert any(part in wide.notes[0] for part in note.split("|")), wide.notes


def test_a_guard_that_is_the_same_for_all_lanes() -> None:
    flag, out = Buffer("flag", (1,), "bool"), Buffer("out", (40,), "float32")
    builder = Builder()
    with builder.loop("i", 40, "vectorised") as i, builder.when(builder.load(flag, (0,))):
        builder.store(out, (i,), builder.load(X, (i,)))
    assert widest(vectorise(Kernel("k", (X, flag), (out,), builder.finish()), 32)) == 8


def test_sixteen_bit_floats_are_widened_as_float32() -> None:
    for dtype in ("float16", "bfloat16"):
        half = Buffer("half", (64,), dtype)

        def read(b: Builder, i: Index, h: Buffer = half) -> Value:
            return cast(b.load(h, (i,)), "float32")

        reads = vectorise(loop(64, [half], read), 32)
        writes = vectorise(loop(64, [X], lambda b, i: b.load(X, (i,)), dtype), 32)
        assert widest(reads) == widest(writes) == 8
        # By way of float32 it would be rounded twice.
        twice = vectorise(loop(64, [WIDE], lambda b, i: b.load(WIDE, (i,)), dtype), 32)
        assert widest(twice) == 1 and dtype in twice.notes[0]


@pytest.mark.parametrize(
    ("dtype", "lanes"),
    [("float32", 16), ("float64", 8), ("int32", 16), ("int64", 8), ("int8", 16), ("int16", 16), ("bool", 16)],
)
def test_lanes_fill_a_register(dtype: str, lanes: int) -> None:
    """Of at least four bytes each: no wider than what int32 takes, so that masks fit."""
    x = Buffer("x", (64,), dtype)
    kernel = loop(64, [x], lambda b, i: b.load(x, (i,)), dtype)
    assert lanes_for(kernel.body, 64) == lanes == widest(vectorise(kernel, 64))


def test_registers_become_vectors_and_other_statements_run_lane_by_lane() -> None:
    """acc is widened; the store with stride 2 goes through scratch; the loop inside stays a loop."""
    out, even = Buffer("out", (40,), "float32"), Buffer("even", (80,), "float32")
    builder = Builder()
    with builder.loop("i", 40, "vectorised") as i:
        acc = builder.alloc("acc", (1,), "float32")
        builder.store(acc, (0,), 0)
        with builder.loop("k", 5) as k:
            builder.store(acc, (0,), builder.load(acc, (0,)) + builder.load(X, (i + k,)) * cast(k + 1, "float32"))
        builder.store(out, (i,), builder.load(acc, (0,)))
        builder.store(even, (i * 2,), builder.load(acc, (0,)) + 1.0)
    kernel = Kernel("k", (X,), (out, even), builder.finish())
    wide = vectorise(kernel, 32)
    verify(wide)
    assert widest(wide) == 8
    assert [s.buffer.lanes for s in walk(wide.body) if isinstance(s, Alloc) and s.buffer.scope == "register"] == [8]
    assert any("lane by lane: store to even with stride 2" in n for n in wide.notes)
    x = np.arange(100, dtype=np.float32)
    ((first, second),) = run_loops([(kernel, [x])])
    expected = sum(x[k : k + 40] * (k + 1) for k in range(5))
    np.testing.assert_array_equal(first, expected)
    np.testing.assert_array_equal(second[::2], expected + 1)


def test_tails() -> None:
    """Every extent from 1 to 40, for each vector width: nothing is left out, nothing is written behind the end."""
    work = []
    x = np.arange(100, dtype=np.float32)
    for extent in range(1, 41):
        work.append((loop(extent, [X], lambda b, i: b.load(X, (i + 1,)) * 3.0, name=f"k{extent}"), [x]))
    for vector_bytes in (16, 32, 64):
        for (kernel, _), (got,) in zip(work, run_loops(work, vector_bytes), strict=True):
            np.testing.assert_array_equal(got, x[1 : 1 + kernel.outputs[0].shape[0]] * 3)
            stores = [s for s in walk(vectorise(kernel, vector_bytes).body) if isinstance(s, Store)]
            assert len(stores) <= 4  # whole vectors, ever narrower ones, single elements


def test_a_loop_over_chunks_keeps_its_order_of_elements() -> None:
    kernel = vectorise(loop(40, [X], lambda b, i: b.load(X, (i,))), 32)
    (chunks,) = kernel.body
    assert isinstance(chunks, For) and chunks.extent == 5 and chunks.kind == "serial"


DTYPES = ["float32", "float64", "int32", "int64", "int8", "uint8", "int16", "bool"]
FLOAT = ["add", "sub", "mul", "max", "min", "div"]
INTEGER = ["add", "sub", "mul", "max", "min", "and", "or", "xor", "floordiv", "mod", "shl", "shr"]


@st.composite
def maps(draw: st.DrawFn) -> tuple[str, int, list[tuple[str, int, int, int]]]:
    """A dtype, an extent, and steps (function, two earlier values, a shift of the index) over two inputs."""
    dtype = draw(st.sampled_from(DTYPES))
    functions = (
        FLOAT if dtype.startswith("float") else ["and", "or", "xor", "max", "min"] if dtype == "bool" else INTEGER
    )
    functions = [*functions, "select", "load", "broadcast"]
    step = st.tuples(st.sampled_from(functions), st.integers(0, 9), st.integers(0, 9), st.integers(0, 5))
    return dtype, draw(st.integers(1, 70)), draw(st.lists(step, min_size=1, max_size=6))


def random_map(spec: tuple[str, int, list[tuple[str, int, int, int]]], name: str) -> Kernel:
    dtype, extent, steps = spec
    a, b = Buffer("a", (80,), dtype), Buffer("b", (80,), dtype)

    def element(builder: Builder, i: Index) -> Value:
        values: list[Value] = [builder.load(a, (i,)), builder.load(b, (i + 4,))]
        for fn, left, right, shift in steps:
            x, y = values[left % len(values)], values[right % len(values)]
            if fn == "load":
                values.append(builder.load(a, (i + shift,)))
            elif fn == "broadcast":
                values.append(builder.load(b, (shift,)))
            elif fn == "select":
                values.append(select(apply("lt", x, y), y, values[shift % len(values)]))
            else:
                values.append(apply(fn, x, y))
        return values[-1]

    return loop(extent, [a, b], element, dtype, name)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.lists(maps(), min_size=8, max_size=12))
def test_random_maps(specs: list[tuple[str, int, list[tuple[str, int, int, int]]]]) -> None:
    rng = np.random.default_rng(len(specs))
    work, expected = [], []
    for number, spec in enumerate(specs):
        kernel = random_map(spec, f"k{number}")
        type_ = numpy_dtype(spec[0])
        low, high = (0, 2) if type_.kind == "b" else (-3, 4) if type_.kind != "u" else (0, 7)
        arrays = [rng.integers(low, high, 80).astype(type_) for _ in range(2)]
        work.append((kernel, arrays))
        expected.append(interpreted(kernel, arrays))
    for spec, (got,), want in zip(specs, run_loops(work), expected, strict=True):
        np.testing.assert_array_equal(got, want, err_msg=str(spec))


def test_loads_are_read_once_where_lanes_agree() -> None:
    kernel = vectorise(loop(32, [X], lambda b, i: b.load(X, (i,)) * b.load(X, (50,))), 32)
    loads = [v for s in walk(kernel.body) for v in all_values(values_of(s)) if isinstance(v, Load)]
    assert sorted(v.lanes for v in loads) == [1, 8]
    assert as_index(50) in [v.index[0] for v in loads if v.lanes == 1]
