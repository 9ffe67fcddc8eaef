"""The loop IR: the builder, its text, and the verifier, which must see each way of breaking a sound kernel."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from fusewire.ir.errors import VerifyError
from fusewire.ir.index import Index, IndexVar, as_index
from fusewire.ir.loops import Alloc, Barrier, Builder, For, If, Kernel, Stmt, Store
from fusewire.ir.scalar import Apply, Buffer, Const, Load, Value, apply, cast, clamped, constant, inside, select
from fusewire.targets.looptext import kernel_text
from fusewire.targets.prove import verify
from fusewire.targets.rewrite import Rewriter, all_values, unroll, walk
from tests.direct import memory_for
from tests.interpret import run_statements

X, Y = Buffer("x", (4, 6), "float32"), Buffer("y", (6,), "float32")
OUT = Buffer("out", (4, 6), "float32")
TEMP = Buffer("temp", (6,), "float32", "thread")


def sound(
    row: Callable[[Index], Index | int] = lambda i: i,
    column: Callable[[Index], Index | int] = lambda j: j,
    extents: tuple[int, int] = (4, 6),
    target: Buffer = OUT,
    source: Buffer = Y,
    swap: bool = False,
    kind: str = "serial",
    inner: Sequence[Stmt] = (),
    dtype: str = "float32",
) -> Kernel:
    """out[i, j] = x[i, j] + y[j], with one thing changed."""
    i, j = IndexVar("i", 0, extents[0] - 1), IndexVar("j", 0, extents[1] - 1)
    place = (as_index(row(as_index(i))), as_index(column(as_index(j))))
    value = apply("add", Load(X, place[::-1] if swap else place), Load(source, (place[1],)))
    if dtype != "float32":
        value = cast(value, dtype)
    store = Store(target, (as_index(i), as_index(j)), value)
    return Kernel("k", (X, Y), (OUT,), (For(i, extents[0], (For(j, extents[1], (store, *inner), kind),), "parallel"),))


def test_the_sound_kernel_passes() -> None:
    verify(sound())


MUTANTS: dict[str, tuple[Callable[[], Kernel], str]] = {
    "row + 1": (lambda: sound(row=lambda i: i + 1), "load of x.*out of bounds"),
    "row - 1": (lambda: sound(row=lambda i: i - 1), "load of x.*out of bounds"),
    "column + 1": (lambda: sound(column=lambda j: j + 1), "out of bounds"),
    "column - 1": (lambda: sound(column=lambda j: j - 1), "out of bounds"),
    "twice the column": (lambda: sound(column=lambda j: j * 2), "out of bounds"),
    "one more row": (lambda: sound(extents=(5, 6)), "store to out.*out of bounds|load of x.*out of bounds"),
    "one more column": (lambda: sound(extents=(4, 7)), "out of bounds"),
    "indices swapped": (lambda: sound(swap=True), "load of x.*out of bounds"),
    "reads scratch that is not there": (lambda: sound(source=TEMP), "uses temp .thread. before it is allocated"),
    "writes scratch that is not there": (lambda: sound(target=Buffer("nowhere", (4, 6), "float32")), "uses nowhere"),
    "writes its input": (lambda: sound(target=X), "writes its input x"),
    "stores another dtype": (lambda: sound(dtype="float64"), "stores float64 into out of float32"),
    "parallel inside parallel": (lambda: sound(kind="parallel"), "parallel loop stands inside"),
    "barrier in a loop": (lambda: sound(inner=[Barrier()]), "barrier stands inside"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_refused(name: str) -> None:
    make, message = MUTANTS[name]
    with pytest.raises(VerifyError, match=f"kernel k: .*{message}" if "|" not in message else message):
        verify(make())


@pytest.mark.parametrize("wrap", ["if", "for"])
def test_scratch_lives_to_the_end_of_its_block(wrap: str) -> None:
    """Scratch allocated inside of a block is not there behind it."""
    i = IndexVar("i", 0, 1)
    block: tuple[Stmt, ...] = (Alloc(TEMP), Store(TEMP, (as_index(0),), constant(1, "float32")))
    late = Store(OUT, (as_index(0), as_index(0)), Load(TEMP, (as_index(0),)))
    test = apply("gt", Load(Y, (as_index(0),)), 0.0)
    body = If(test, block) if wrap == "if" else For(i, 2, block)
    verify(Kernel("k", (X, Y), (OUT,), (*block, late)))
    with pytest.raises(VerifyError, match="uses temp"):
        verify(Kernel("k", (X, Y), (OUT,), (body, late)))


def test_guards_excuse_what_they_guard_and_nothing_else() -> None:
    i = IndexVar("i", 0, 7)
    shifted = as_index(i) - 2
    load = Load(Y, (shifted,))
    out = Buffer("out", (8,), "float32")
    ok = inside((shifted,), Y.shape)

    def kernel(value: Value) -> Kernel:
        return Kernel("k", (Y,), (out,), (For(i, 8, (Store(out, (as_index(i),), value),)),))

    verify(kernel(select(ok, load, 0.0)))
    for bad in (load, load + select(ok, load, 0.0), select(apply("gt", load, 0.0), 1.0, 0.0)):
        with pytest.raises(VerifyError, match="load of y"):
            verify(kernel(cast(bad, "float32")))
    verify(Kernel("k", (Y,), (out,), (For(i, 8, (If(ok, (Store(out, (as_index(i),), load),)),)),)))


def test_data_dependent_indices_need_a_clamp() -> None:
    indices, out = Buffer("indices", (5,), "int32"), Buffer("out", (5,), "float32")
    i = IndexVar("i", 0, 4)
    position = clamped(Load(indices, (as_index(i),)), 6)
    kernel = Kernel("k", (Y, indices), (out,), (For(i, 5, (Store(out, (as_index(i),), Load(Y, (position,))),)),))
    verify(kernel)
    wild = clamped(Load(indices, (as_index(i),)), 7)
    with pytest.raises(VerifyError, match="load of y"):
        verify(Kernel("k", (Y, indices), (out,), (For(i, 5, (Store(out, (as_index(i),), Load(Y, (wild,))),)),)))
    with pytest.raises(VerifyError, match="load of indices"):
        late = Load(indices, (as_index(i) + 1,))
        verify(
            Kernel("k", (Y, indices), (out,), (For(i, 5, (Store(out, (as_index(i),), Load(Y, (clamped(late, 6),))),)),))
        )


def test_a_loop_that_never_runs_may_hold_anything() -> None:
    i = IndexVar("i", 0, 0)
    verify(Kernel("k", (Y,), (OUT,), (For(i, 0, (Store(OUT, (as_index(9), as_index(9)), constant(0, "float32")),)),)))


def test_values_of_different_types_do_not_meet() -> None:
    a, b = Load(Y, (as_index(0),)), constant(1, "int32")
    wrong: list[Callable[[], Value]] = [
        lambda: apply("add", a, b),
        lambda: select(a, a, a),
        lambda: select(apply("gt", a, 0.0), a, b),
        lambda: apply("exp", as_index(IndexVar("i", 0, 3))),
        lambda: Load(X, (as_index(0),)),
        lambda: select(apply("gt", a, 0.0), 1.5, 2.5),
    ]
    for make in wrong:
        with pytest.raises(VerifyError):
            make()


def test_builder_and_text() -> None:
    builder = Builder()
    with builder.loop("i", 4, "parallel") as i:
        acc = builder.alloc("acc", (1,), "float32")
        builder.store(acc, (0,), 0)
        with builder.loop("j", 6) as j:
            builder.store(acc, (0,), builder.load(acc, (0,)) + builder.load(X, (i, j)) * 2.0)
        with builder.when(apply("gt", builder.load(acc, (0,)), 0.0)):
            builder.store(OUT, (i, 0), builder.load(acc, (0,)))
    builder.barrier()
    kernel = Kernel("sum", (X,), (OUT,), builder.finish(), ("a remark",))
    verify(kernel)
    assert kernel_text(kernel).splitlines() == [
        "kernel sum(x: float32[4, 6]) -> (out: float32[4, 6])",
        "  # a remark",
        "  parallel i in 0..3:",
        "    register acc: float32[1]",
        "    acc[0] = 0.0",
        "    for j in 0..5:",
        "      acc[0] = (acc[0] + (x[i, j] * 2.0))",
        "    if (acc[0] > 0.0):",
        "      out[i, 0] = acc[0]",
        "  barrier team",
    ]
    with pytest.raises(VerifyError, match="unknown loop kind"), builder.loop("i", 2, "sideways"):
        pass


def test_names_of_loops_differ() -> None:
    builder = Builder()
    for _ in range(3):
        with builder.loop("i", 4) as i:
            builder.store(Y, (i,), 0)
    names = [s.var.name for s in walk(builder.finish()) if isinstance(s, For)]
    assert len(set(names)) == 3


def test_unrolling_keeps_the_meaning() -> None:
    builder = Builder()
    with builder.loop("i", 4) as i, builder.loop("j", 3, "unrolled") as j, builder.loop("k", 2, "unrolled") as k:
        builder.store(OUT, (i, j * 2 + k), builder.load(X, (i, 5 - j * 2 - k)))
    kernel = Kernel("k", (X,), (OUT,), builder.finish())
    flat = Kernel("k", (X,), (OUT,), unroll(kernel.body))
    assert len([s for s in walk(flat.body) if isinstance(s, For)]) == 1
    verify(flat)
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    for version in (kernel, flat):
        memory = dict(memory_for(version, [x]))
        run_statements(version.body, memory)
        np.testing.assert_array_equal(memory[OUT], x[:, ::-1])


def test_substitution_decides_conditions_and_keeps_sharing() -> None:
    i = IndexVar("i", 0, 9)
    load = Load(Buffer("z", (10,), "float32"), (as_index(i),))
    shared = load * load
    value = select(apply("lt", as_index(i), 5), shared + shared, 0.0)
    decided = Rewriter({i: 3}).value(value)
    assert isinstance(decided, Apply) and decided.fn == "add" and decided.args[0] is decided.args[1]
    assert sum(isinstance(v, Load) for v in all_values([decided])) == 1
    zero = Rewriter({i: 7}).value(value)
    assert isinstance(zero, Const) and zero.value == 0


def test_deep_values_need_no_stack() -> None:
    value: Value = Load(Y, (as_index(0),))
    for _ in range(20_000):
        value = value + 1.0
    kernel = Kernel("k", (Y,), (OUT,), (Store(OUT, (as_index(0), as_index(0)), value),))
    verify(kernel)
    assert kernel_text(kernel).count("\n") == 2
    assert len(all_values([Rewriter({}).value(value)])) == 40_002  # with the index of the load


@pytest.mark.parametrize(("start", "fits"), [(0, True), (2, True), (3, False), (-1, False)])
def test_vectors_stay_inside_with_all_their_lanes(start: int, fits: bool) -> None:
    """Four lanes of six elements: the last may start at 2."""
    out = Buffer("out", (6,), "float32")
    i = IndexVar("i", 0, 0)
    place = (as_index(i) + start,)
    load = Kernel("k", (Y,), (out,), (Store(out, (as_index(0),), Load(Y, place, 4)),))
    store = Kernel("k", (Y,), (out,), (Store(out, place, Load(Y, (as_index(0),), 4)),))
    for kernel in (load, store):
        if fits:
            verify(kernel)
        else:
            with pytest.raises(VerifyError, match="out of bounds"):
                verify(kernel)
