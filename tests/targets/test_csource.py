"""The emitter: sharing, guards, literals, deep expressions; and a C compiler that finds nothing to complain of."""

import math
import re
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusewire.ir.errors import VerifyError
from fusewire.ir.index import Index, as_index
from fusewire.ir.loops import Builder, For, Kernel, Store
from fusewire.ir.scalar import Apply, Buffer, Value, apply, bitcast, cast, clamped, constant, inside, select
from fusewire.ir.types import numpy_dtype
from fusewire.targets.csource import Emitter
from fusewire.targets.dialects import C
from fusewire.targets.implement import finish
from fusewire.targets.prelude import Prelude, literal, short_name
from fusewire.targets.team import TEAM_HEADER
from fusewire.targets.toolchain import find_compiler
from tests.direct import Array, c_text, run_loops

X = Buffer("x", (37,), "float32")
N = Buffer("n", (37,), "int32")


def kernel(
    element: Any, inputs: list[Buffer] | None = None, dtype: str = "float32", name: str = "k", extent: int = 37
) -> Kernel:
    out = Buffer("out", (extent,), dtype)
    builder = Builder()
    with builder.loop("i", extent, "vectorised") as i:
        builder.store(out, (i,), element(builder, i))
    return Kernel(name, tuple(inputs or [X]), (out,), builder.finish())


def body_of(k: Kernel, vector_bytes: int = 32) -> str:
    return c_text([finish(k, vector_bytes)]).rpartition(f"void {k.name}(")[2]


class TestSharing:
    def test_a_value_used_twice_is_computed_once(self) -> None:
        def element(b: Builder, i: Index) -> Value:
            e = apply("exp", b.load(X, (i,)))
            f = apply("sqrt", e + 1.0)
            return (e * f + e) - f

        body = body_of(kernel(element))
        assert body.count("fw_exp_v8f32(") == body.count("fw_sqrt_v8f32(") == 1
        assert body.count("fw_exp_f32(") == 1  # the tail

    def test_a_tower_of_squares_stays_small(self) -> None:
        """Sixty doublings by x + x: written out as a tree, that would be 2**60 terms."""

        def element(b: Builder, i: Index) -> Value:
            value = b.load(X, (i,))
            for _ in range(60):
                value = value + value
            return value

        k = kernel(element)
        assert len(body_of(k)) < 20_000
        ((got,),) = run_loops([(k, [np.ones(37, np.float32)])])
        assert (got == 2.0**60).all()

    def test_statements_do_not_share_across_stores(self) -> None:
        """x is stored to between two reads of it: the second read must see the new value."""
        out, acc = Buffer("out", (4,), "float32"), Buffer("acc", (1,), "float32", "register")
        builder = Builder()
        with builder.loop("i", 4) as i:
            acc = builder.alloc("acc", (1,), "float32")
            builder.store(acc, (0,), 1)
            old = builder.load(acc, (0,))
            builder.store(acc, (0,), old + old)
            builder.store(acc, (0,), old + old * old)
            builder.store(out, (i,), old)
        ((got,),) = run_loops([(Kernel("k", (X,), (out,), builder.finish()), [np.zeros(37, np.float32)])])
        assert got.tolist() == [6.0] * 4


class TestGuards:
    def test_a_guarded_load_is_not_executed(self) -> None:
        """The load in the arm not taken would be far outside of every mapped page; in its arm it is used twice."""

        def element(b: Builder, i: Index) -> Value:
            far = i * (1 << 40)
            there = b.load(X, (far,))
            inner = select(inside((far,), X.shape), there * there + there, -1.0)
            return inner * 2.0 + inner

        ((got,),) = run_loops([(kernel(element), [np.arange(37, dtype=np.float32) + 5])])
        assert got.tolist() == [90.0] + [-3.0] * 36

    def test_nested_guards_and_sharing_inside_of_arms(self) -> None:
        y = Buffer("y", (37,), "float32")

        def element(b: Builder, i: Index) -> Value:
            a = select(inside((i - 3,), (37,)), b.load(X, (i - 3,)), 0.0)
            shared = a * a
            c = select(inside((i + 2,), (37,)), b.load(y, (i + 2,)) + shared, shared - 1.0)
            return select(apply("gt", c, 4.0), shared + c, a)

        x, y_ = np.arange(37, dtype=np.float32), np.arange(37, dtype=np.float32)[::-1].copy()
        a = np.concatenate([np.zeros(3, np.float32), x[:-3]])
        c = np.concatenate([y_[2:] + a[:-2] ** 2, a[-2:] ** 2 - 1])
        ((got,),) = run_loops([(kernel(element, [X, y]), [x, y_])])
        np.testing.assert_array_equal(got, np.where(c > 4, a * a + c, a))

    def test_an_index_read_from_memory(self) -> None:
        table, index = Buffer("table", (5, 7), "float32"), Buffer("index", (37,), "int32")

        def element(b: Builder, i: Index) -> Value:
            row = clamped(b.load(index, (i,)), 5)
            return b.load(table, (row, clamped(cast(row, "int64"), 7))) + b.load(table, (row, 0))

        t = np.arange(35, dtype=np.float32).reshape(5, 7)
        wild = np.random.default_rng(0).integers(-9, 14, 37).astype(np.int32)
        row = wild.clip(0, 4)
        ((got,),) = run_loops([(kernel(element, [table, index]), [t, wild])])
        np.testing.assert_array_equal(got, t[row, row] + t[row, 0])

    def test_many_nested_guards(self) -> None:
        """A pad of a pad of a pad...: the text nests, but not beyond what the emitter and the compiler take."""

        def element(b: Builder, i: Index) -> Value:
            value = select(inside((i - 1,), (37,)), b.load(X, (i - 1,)), 0.0)
            for _ in range(100):
                value = select(
                    apply("lt", value, 1e30), select(inside((i,), (36,)), b.load(X, (i,)), value) + value * 0.5, 1.0
                )
            return value

        ((got,),) = run_loops([(kernel(element), [np.ones(37, np.float32)])])
        np.testing.assert_allclose(got[:36], 2.0, rtol=1e-6)


class TestLiterals:
    @pytest.mark.parametrize(
        ("dtype", "numbers"),
        [
            (
                "float32",
                [
                    0.0,
                    -0.0,
                    math.inf,
                    -math.inf,
                    1e-45,
                    -1.17549435e-38,
                    3.4028234663852886e38,
                    0.1,
                    1e6,
                    16777216.0,
                    1e20,
                ],
            ),
            (
                "float64",
                [0.0, -0.0, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1, 1e15, -123456.75, 2.0**53],
            ),
            ("int64", [-(2**63), 2**63 - 1, 0, -1]),
            ("int32", [-(2**31), 2**31 - 1, 0, -1]),
            ("int16", [-(2**15), 2**15 - 1]),
            ("int8", [-128, 127, -1]),
            ("uint8", [255, 128, 0]),
            ("uint16", [65535]),
            ("uint32", [2**32 - 1, 2**31]),
            ("uint64", [2**64 - 1, 2**63]),
            ("bool", [True, False]),
        ],
    )
    def test_through_compiled_code(self, dtype: str, numbers: list[Any]) -> None:
        """Alone, in all lanes of a vector, and as an operand: -x for a negative literal is not a decrement."""
        work = []
        for k, number in enumerate(numbers):
            work.append(
                (
                    kernel(lambda b, i, n=number: constant(n, dtype), dtype=dtype, name=f"k{k}"),
                    [np.zeros(37, np.float32)],
                )
            )
        for number, (got,) in zip(numbers, run_loops(work), strict=True):
            expected = np.full(37, number, numpy_dtype(dtype))
            assert got.tobytes() == expected.tobytes(), (number, got)

    def test_nan(self) -> None:
        for dtype in ("float32", "float64"):
            ((got,),) = run_loops(
                [(kernel(lambda b, i, d=dtype: constant(math.nan, d), dtype=dtype), [np.zeros(37, np.float32)])]
            )
            assert np.isnan(got).all()

    @pytest.mark.parametrize("number", [-5, 5])
    def test_signs_stand_apart(self, number: int) -> None:
        z = Buffer("z", (37,), "int32")

        def element(b: Builder, i: Index) -> Value:
            return apply("neg", constant(number, "int32")) - constant(-number, "int32") - (b.load(z, (i,)) - number)

        ((got,),) = run_loops([(kernel(element, [z], "int32"), [np.zeros(37, np.int32)])])
        assert (got == number).all()

    def test_text(self) -> None:
        assert literal(-(2**63), "int64", C) == "INT64_MIN" and literal(True, "bool", C) == "1"
        names = {("float32", 1): "f32", ("int8", 4): "v4i8", ("bool", 1): "bool", ("bool", 8): "v8i32"}
        assert {key: short_name(*key) for key in names} == names


class TestDepth:
    def test_chains_of_hundreds(self) -> None:
        def chain(b: Builder, i: Index) -> Value:
            value = b.load(X, (i,))
            for _ in range(600):
                value = value * 0.5 + 1.0
            return value

        def sides(b: Builder, i: Index) -> Value:
            """Nested on the right instead of on the left."""
            value = b.load(X, (i,))
            for k in range(400):
                value = apply("sub", float(k % 2), value)
            return value

        x = np.arange(37, dtype=np.float32)
        first, second = run_loops([(kernel(chain, name="k0"), [x]), (kernel(sides, name="k1"), [x])])
        np.testing.assert_allclose(first[0], 2.0, rtol=1e-6)
        np.testing.assert_allclose(second[0], x + 200, rtol=1e-6)

    def test_no_line_is_endless(self) -> None:
        def element(b: Builder, i: Index) -> Value:
            value = b.load(X, (i,))
            for k in range(500):
                value = apply("atan2", value, float(k))
            return value

        assert max(map(len, body_of(kernel(element)).splitlines())) < 1500


class TestConversions:
    def test_bits(self) -> None:
        ((got,),) = run_loops(
            [(kernel(lambda b, i: bitcast(b.load(X, (i,)), "int32"), dtype="int32"), [np.arange(37, dtype=np.float32)])]
        )
        np.testing.assert_array_equal(got, np.arange(37, dtype=np.float32).view(np.int32))

    def test_masks_of_other_widths_meet(self) -> None:
        """A condition over float64 chooses between int8, one over int8 between float64."""
        d, s = Buffer("d", (37,), "float64"), Buffer("s", (37,), "int8")
        small = kernel(lambda b, i: select(apply("gt", b.load(d, (i,)), 0), b.load(s, (i,)), 7), [d, s], "int8", "k0")
        wide = kernel(
            lambda b, i: select(apply("lt", b.load(s, (i,)), 3), b.load(d, (i,)), 0.5), [d, s], "float64", "k1"
        )
        rng = np.random.default_rng(0)
        arrays: list[Array] = [rng.normal(size=37), rng.integers(-9, 9, 37).astype(np.int8)]
        (first,), (second,) = run_loops([(small, arrays), (wide, arrays)])
        np.testing.assert_array_equal(first, np.where(arrays[0] > 0, arrays[1], 7))
        np.testing.assert_array_equal(second, np.where(arrays[1] < 3, arrays[0], 0.5))

    def test_logic_on_masks(self) -> None:
        p, q = Buffer("p", (37,), "bool"), Buffer("q", (37,), "bool")

        def element(b: Builder, i: Index) -> Value:
            u, v = b.load(p, (i,)), b.load(q, (i,))
            return apply("xor", apply("and", u, apply("not", v)), apply("or", apply("lt", u, v), apply("eq", u, v)))

        rng = np.random.default_rng(1)
        arrays: list[Array] = [rng.integers(0, 2, 37).astype(bool) for _ in range(2)]
        u, v = arrays
        numbers = kernel(
            lambda b, i: cast(element(b, i), "float32") + cast(b.load(p, (i,)), "float32"), [p, q], name="k1"
        )
        (got,), (sums,) = run_loops([(kernel(element, [p, q], "bool", "k0"), arrays), (numbers, arrays)])
        expected = (u & ~v) ^ ((u < v) | (u == v))
        np.testing.assert_array_equal(got, expected)
        np.testing.assert_array_equal(sums, expected.astype(np.float32) + u)


class TestText:
    def test_what_the_dialect_does_not_know(self) -> None:
        builder = Builder()
        with builder.loop("i", 4, "workgroup") as i:
            builder.store(X, (i,), 0)
        with pytest.raises(VerifyError, match="C has no workgroup loops"):
            Emitter(Prelude(C)).kernel(Kernel("k", (), (X,), builder.finish()))
        odd = Apply("frobnicate", (constant(1, "float32"),), "float32")
        with pytest.raises(VerifyError, match="C has no function frobnicate for float32"):
            Emitter(Prelude(C)).kernel(Kernel("k", (), (X,), (Store(X, (as_index(0),), odd),)))

    def test_functions_are_defined_once_and_before_their_use(self) -> None:
        text = c_text(
            [finish(kernel(lambda b, i: apply("sigmoid", b.load(X, (i,))), name=f"k{n}"), 32) for n in range(3)]
        )
        for name in re.findall(r"\bfw_\w+(?=\()", text):
            defined = list(re.finditer(rf"static inline \w+ {name}\(", text))
            assert len(defined) == 1, name
            assert text.index(f"{name}(") == defined[0].end() - len(name) - 1, f"{name} is used before it is defined"

    def test_scratch_is_counted(self) -> None:
        builder = Builder()
        shared = builder.alloc("shared", (1000,), "float32", "team")
        with builder.loop("i", 5, "parallel") as i:
            own = builder.alloc("own", (5000,), "float64", "thread")
            builder.store(own, (i,), 1)
            builder.store(shared, (i,), builder.load(own, (i,)) if False else 2)
        emitter = Emitter(Prelude(C))
        emitter.kernel(Kernel("k", (X,), (), builder.finish()))
        assert (emitter.team_bytes, emitter.thread_bytes) == (4032, 40_000)

    def test_the_compiler_has_no_complaint(self, tmp_path: Path) -> None:
        compiler = find_compiler()

        def element(b: Builder, i: Index) -> Value:
            a = b.load(X, (i,))
            return apply("sigmoid", apply("max", a, apply("floormod", a, 3.0))) + apply("min", a, 2.0) + apply("exp", a)

        kernels = [
            kernel(element),
            kernel(lambda b, i: apply("floordiv", cast(b.load(X, (i,)), "int8"), 3), dtype="int8", name="k1"),
            kernel(lambda b, i: apply("max", b.load(N, (i,)), b.load(N, (i,)) + 1), [N], "int32", "k2"),
            Kernel("k3", (X,), (Buffer("out", (0,), "float32"),), ()),
        ]
        path = tmp_path / "k.c"
        path.write_text(C.headers + TEAM_HEADER + c_text([finish(k, 16) for k in kernels]))
        flags = [
            "-std=gnu11",
            "-O1",
            "-Wall",
            "-Wextra",
            "-Wno-psabi",
            "-Wno-unused-function",
            "-c",
            str(path),
            "-o",
            str(tmp_path / "k.o"),
        ]
        done = subprocess.run([*compiler.command, *flags], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")

    def test_what_no_kernel_uses_is_left_out(self) -> None:
        prelude = Prelude(C)
        text = Emitter(prelude).kernel(finish(kernel(lambda b, i: apply("max", b.load(X, (i,)), 0.0)), 32))
        assert {"fw_maxc_v8f32", "fw_splat_v8f32"} <= prelude.definitions.keys()
        assert "fw_maxc_v8f32(" in prelude.text([text]) and "fw_splat_v8f32" not in prelude.text([text])
        empty = Kernel("k", (Buffer("p0", (0,), "int8"),), (Buffer("out", (0,), "int8"),), ())
        assert "p0" not in body_of(empty) and "(void)args;" in body_of(empty)

    def test_a_loop_kind_that_passes_leave_is_plain(self) -> None:
        body = body_of(Kernel("k", (X,), (Buffer("out", (1,), "float32"),), ()))
        assert "for" not in body and isinstance(kernel(lambda b, i: b.load(X, (i,))).body[0], For)
