"""Special values and edges of the number ranges through compiled code, compared with NumPy."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.ir.types import numpy_dtype
from tests.which import TARGET

Array = npt.NDArray[Any]
Op = tuple[Callable[..., fw.Expr], Callable[..., Any]]
"""An operator, and what NumPy has for it."""

FLOATS = ["float32", "float64"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        yield


def run_all(ops: dict[str, Callable[..., fw.Expr]], *arrays: Array) -> dict[str, Array]:
    """Results of several operators on the same inputs, from one compiled module."""
    variables = [fw.var(f"x{k}", shape=a.shape, dtype=a.dtype.name) for k, a in enumerate(arrays)]
    body = fw.Tuple([op(*variables) for op in ops.values()])
    results = fw.build(fw.Function(variables, body), TARGET)(**{f"x{k}": a for k, a in enumerate(arrays)})
    return dict(zip(ops, results if len(ops) > 1 else [results], strict=True))


def compare(ops: dict[str, Op], *arrays: Array, rtol: float = 0) -> None:
    got = run_all({name: op for name, (op, _) in ops.items()}, *arrays)
    for name, (_, reference) in ops.items():
        expected = np.asarray(reference(*arrays))
        assert got[name].shape == expected.shape, name
        np.testing.assert_allclose(got[name], expected, rtol=rtol, atol=0, err_msg=name)


def specials(dtype: str) -> Array:
    info = np.finfo(dtype)
    values = [
        np.nan,
        np.inf,
        -np.inf,
        0.0,
        -0.0,
        1,
        -1,
        0.5,
        -2.5,
        3,
        info.max,
        -info.max,
        info.tiny,
        info.tiny / 8,
        100,
    ]
    return np.array(values, dtype)


def pairs(dtype: str) -> tuple[Array, Array]:
    """Every pair of special values; 225 of them, so that each kind falls into vectors and, reversed, into the tail."""
    s = specials(dtype)
    a, b = (p.reshape(-1) for p in np.meshgrid(s, s))
    return np.concatenate([a, a[::-1][:8]]), np.concatenate([b, b[::-1][:8]])


BINARY: dict[str, Op] = {
    name: (getattr(fw, name), getattr(np, reference))
    for name, reference in (
        ("maximum", "maximum"), ("minimum", "minimum"), ("less", "less"), ("less_equal", "less_equal"),
        ("greater", "greater"), ("greater_equal", "greater_equal"), ("equal", "equal"), ("not_equal", "not_equal"),
        ("add", "add"), ("subtract", "subtract"), ("multiply", "multiply"), ("divide", "divide"), ("power", "power"),
        ("mod", "fmod"), ("floor_mod", "mod"),
    )
}  # fmt: skip

UNARY: dict[str, Op] = {
    "relu": (fw.nn.relu, lambda x: np.maximum(x, x.dtype.type(0))),
    "leaky_relu": (lambda x: fw.nn.leaky_relu(x, 0.5), lambda x: np.where(x > 0, x, x * x.dtype.type(0.5))),
    "clip": (lambda x: fw.clip(x, -1.5, 2.0), lambda x: np.clip(x, -1.5, 2.0)),
    "negative": (fw.negative, np.negative),
    "abs": (fw.abs, np.abs),
    "sign": (fw.sign, np.sign),
    "floor": (fw.floor, np.floor),
    "ceil": (fw.ceil, np.ceil),
    "trunc": (fw.trunc, np.trunc),
    "sqrt": (fw.sqrt, np.sqrt),
    "isnan": (fw.isnan, np.isnan),
    "isinf": (fw.isinf, np.isinf),
    "isfinite": (fw.isfinite, np.isfinite),
    "to bool": (lambda x: fw.cast(x, "bool"), lambda x: x.astype(bool)),
    "where": (lambda x: fw.where(x > 0.0, x, -x), lambda x: np.where(x > 0, x, -x)),
}


def sigmoid(x: Array) -> Array:
    return np.asarray((1 / (1 + np.exp(-x.astype(np.longdouble)))).astype(x.dtype))


@pytest.mark.parametrize("dtype", FLOATS)
class TestSpecialValues:
    def test_binary(self, dtype: str) -> None:
        compare(BINARY, *pairs(dtype), rtol=1e-6 if dtype == "float32" else 1e-14)

    def test_unary(self, dtype: str) -> None:
        for turn in range(0, 15, 4):  # each value once in a vector, once in the tail
            compare(UNARY, np.roll(np.tile(specials(dtype), 3), turn))

    def test_zeros_keep_their_signs(self, dtype: str) -> None:
        zeros = np.tile(np.array([0.0, -0.0], dtype), 19)
        for op, reference in (
            (fw.negative, np.negative),
            (fw.abs, np.abs),
            (lambda x: x * -1.0, lambda x: x * -1),
            (lambda x: x + -0.0, lambda x: x),
            (fw.floor, np.floor),
            (fw.sqrt, np.sqrt),
        ):
            x = fw.var("x", shape=zeros.shape, dtype=dtype)
            np.testing.assert_array_equal(np.signbit(fw.build(op(x), TARGET)(x=zeros)), np.signbit(reference(zeros)))

    def test_exp_and_its_kin(self, dtype: str) -> None:
        x = np.tile(np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1000, -1000, 1e30, -1e30, 1, -1], dtype), 4)[:-3]
        ops: dict[str, Op] = {
            "exp": (fw.exp, np.exp),
            "tanh": (fw.tanh, np.tanh),
            "sigmoid": (fw.sigmoid, sigmoid),
            "log": (fw.log, np.log),
            "erf at the ends": (lambda v: fw.erf(fw.clip(v, -30.0, 30.0)) * 0.0, lambda v: np.where(np.isnan(v), v, 0)),
        }
        compare(ops, x, rtol=3e-7 if dtype == "float32" else 1e-14)

    def test_softmax_rows(self, dtype: str) -> None:
        n = 41
        rows = np.random.default_rng(0).normal(size=(8, n)).astype(dtype)
        rows[0, 3], rows[1, 40], rows[2, 0], rows[3, :] = np.nan, np.inf, -np.inf, -np.inf
        rows[4, :], rows[5, 7], rows[6, 39] = np.finfo(dtype).max, -np.finfo(dtype).max, np.finfo(dtype).max
        shifted = rows - rows.max(1, keepdims=True)
        expected = np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)
        tolerance = 1e-6 if dtype == "float32" else 1e-13
        for axis, data, want in ((-1, rows, expected), (0, rows.T.copy(), expected.T)):
            x = fw.var("x", shape=data.shape, dtype=dtype)
            np.testing.assert_allclose(
                fw.build(fw.nn.softmax(x, axis), TARGET)(x=data), want, rtol=tolerance, atol=tolerance
            )

    @pytest.mark.parametrize("shape", [(3, 40), (40, 3), (5, 7)])
    @pytest.mark.parametrize("place", [0, 17, -1])
    def test_reductions(self, dtype: str, shape: tuple[int, int], place: int) -> None:
        """One NaN, or two equal extremes, at the beginning, in the middle and at the end."""
        rng = np.random.default_rng(1)
        plain = rng.permutation(shape[0] * shape[1]).astype(dtype).reshape(shape)
        for value in (np.nan, np.inf, -np.inf):
            x = plain.copy()
            x.flat[place] = value
            ops: dict[str, Op] = {}
            for axis in (0, 1):
                ops |= {
                    f"max {axis}": (lambda v, a=axis: fw.max(v, a), lambda v, a=axis: v.max(a)),
                    f"min {axis}": (lambda v, a=axis: fw.min(v, a), lambda v, a=axis: v.min(a)),
                    f"sum {axis}": (lambda v, a=axis: fw.sum(v, a), lambda v, a=axis: v.sum(a)),
                    f"argmax {axis}": (lambda v, a=axis: fw.argmax(v, a), lambda v, a=axis: v.argmax(a)),
                    f"argmin {axis}": (lambda v, a=axis: fw.argmin(v, a), lambda v, a=axis: v.argmin(a)),
                }
            compare(ops, x)

    def test_the_first_and_the_last_of_equal_extremes(self, dtype: str) -> None:
        x = np.array([[1, 5, 5, 0, 0], [np.nan, 7, np.nan, 1, 1], [-np.inf] * 5, [np.inf] * 5], dtype)
        first: dict[str, Op] = {
            "argmax": (lambda v: fw.argmax(v, 1), lambda v: v.argmax(1)),
            "argmin": (lambda v: fw.argmin(v, 1), lambda v: v.argmin(1)),
            "last argmax": (lambda v: fw.argmax(v, 1, select_last_index=True), lambda v: 4 - v[:, ::-1].argmax(1)),
            "last argmin": (lambda v: fw.argmin(v, 1, select_last_index=True), lambda v: 4 - v[:, ::-1].argmin(1)),
        }
        compare(first, x)

    def test_pools(self, dtype: str) -> None:
        x = np.random.default_rng(2).normal(size=(1, 2, 6, 33)).astype(dtype)
        x[0, 0, 2, 5], x[0, 1, 0, 0], x[0, 1, 5, 32] = np.nan, -np.inf, np.inf
        windows = np.lib.stride_tricks.sliding_window_view(x, (2, 3), (2, 3))
        compare(
            {
                "max_pool2d": (lambda v: fw.nn.max_pool2d(v, (2, 3), (1, 1)), lambda v: windows.max((-2, -1))),
                "avg_pool2d": (lambda v: fw.nn.avg_pool2d(v, (2, 3), (1, 1)), lambda v: windows.mean((-2, -1))),
            },
            x,
            rtol=1e-4 if dtype == "float32" else 1e-12,
        )
        padded = fw.build(fw.nn.max_pool2d(fw.var("x", shape=x.shape, dtype=dtype), (3, 3), padding=(1, 1)), TARGET)(
            x=x
        )
        assert not np.isneginf(padded[0, 0]).any()  # the border never wins

    def test_convolution_and_product_propagate(self, dtype: str) -> None:
        """Zero weights do not hide NaN and infinity (0 * inf is NaN)."""
        x = np.ones((1, 2, 5, 20), dtype)
        x[0, 1, 2, 9], x[0, 0, 0, 0] = np.nan, np.inf
        weight = np.zeros((4, 2, 1, 1), dtype)
        v = fw.var("x", shape=x.shape, dtype=dtype)
        conv = fw.build(fw.nn.conv2d(v, fw.const(weight)), TARGET)(x=x)
        assert np.isnan(conv[0, :, 2, 9]).all() and np.isnan(conv[0, :, 0, 0]).all()
        assert np.isnan(conv).sum() == 8
        flat = x[0, 0]
        m = fw.var("m", shape=flat.shape, dtype=dtype)
        product = fw.build(fw.nn.dense(m, fw.const(np.zeros((7, 20), dtype))), TARGET)(m=flat)
        assert np.isnan(product[0]).all() and (product[1:] == 0).all()


def ulps(got: Array, exact: Array) -> float:
    """The largest error in units of the last place of float32."""
    spacing = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(got.astype(np.float64) - exact) / spacing))


class TestAccuracy:
    @pytest.fixture
    def everywhere(self) -> Array:
        """Arguments over the whole range where float32's exp is neither 0 nor infinity, and beyond."""
        rng = np.random.default_rng(3)
        fine = np.concatenate([rng.uniform(-105, 89, 200_001), rng.uniform(-1, 1, 50_000), [-103.97, -87.34, 88.72]])
        return fine.astype(np.float32)

    def test_exp(self, everywhere: Array) -> None:
        got = run_all({"exp": fw.exp}, everywhere)["exp"]
        exact = np.exp(everywhere.astype(np.float64))
        inside = exact <= np.finfo(np.float32).max
        assert ulps(got[inside], exact[inside]) <= 2
        assert np.isposinf(got[~inside]).all()
        denormal = (exact > 0) & (exact < np.finfo(np.float32).tiny) & (exact > 2e-45)
        assert denormal.sum() > 1000 and (got[denormal] > 0).all()

    def test_exp_is_the_same_in_vectors_and_alone(self, everywhere: Array) -> None:
        some = everywhere[everywhere < 88][:999]
        rows = run_all({"exp": fw.exp}, some)["exp"]
        alone = run_all({"exp": lambda x: fw.strided_slice(fw.exp(x), [0], [999], [3])}, some)["exp"]
        assert ulps(alone, rows[::3].astype(np.float64)) <= 1

    def test_sigmoid_and_softmax(self, everywhere: Array) -> None:
        got = run_all({"sigmoid": fw.sigmoid}, everywhere)["sigmoid"]
        np.testing.assert_allclose(got, sigmoid(everywhere.astype(np.float64)), rtol=5e-7, atol=1.2e-38)
        rows = everywhere[:40_000].reshape(40, 1000)
        exact = np.exp((rows - rows.max(1, keepdims=True)).astype(np.float64))
        softmax = run_all({"softmax": fw.nn.softmax}, rows)["softmax"]
        np.testing.assert_allclose(softmax, exact / exact.sum(1, keepdims=True), rtol=2e-6, atol=1e-44)


def edges(dtype: str) -> Array:
    if dtype.startswith("uint"):
        top = np.iinfo(dtype).max
        return np.array([0, 1, 2, 3, 7, 63, 64, 100, top // 2, top // 2 + 1, top - 1, top], dtype)
    low, top = np.iinfo(dtype).min, np.iinfo(dtype).max
    return np.array([low, low + 1, -100, -8, -3, -1, 0, 1, 2, 7, 31, 32, 63, 64, 100, top - 1, top], dtype)


def truncated(a: Array, b: Array) -> Array:
    """C's division: towards zero; 0 where b is 0, and wrapped around for the one overflow."""
    safe = np.where(b == 0, 1, b)
    floor = a // safe
    exact = floor * safe == a
    return np.where(b == 0, 0, np.where(exact | ((a < 0) == (safe < 0)), floor, floor + 1)).astype(a.dtype)


INTEGER_OPS: dict[str, Op] = {
    "add": (fw.add, np.add),
    "subtract": (fw.subtract, np.subtract),
    "multiply": (fw.multiply, np.multiply),
    "divide": (fw.divide, truncated),
    "mod": (fw.mod, lambda a, b: np.where(b == 0, 0, np.fmod(a, np.where(b == 0, 1, b))).astype(a.dtype)),
    "floor_divide": (fw.floor_divide, np.floor_divide),
    "floor_mod": (fw.floor_mod, np.mod),
    "maximum": (fw.maximum, np.maximum),
    "minimum": (fw.minimum, np.minimum),
    "left_shift": (fw.left_shift, np.left_shift),
    "right_shift": (fw.right_shift, np.right_shift),
    "bitwise_and": (fw.bitwise_and, np.bitwise_and),
    "bitwise_xor": (fw.bitwise_xor, np.bitwise_xor),
    "less": (fw.less, np.less),
    "equal": (fw.equal, np.equal),
    "negative": (lambda a, b: fw.negative(a), lambda a, b: -a),
    "abs": (lambda a, b: fw.abs(a), lambda a, b: np.abs(a)),
    "sign": (lambda a, b: fw.sign(a), lambda a, b: np.sign(a)),
    "bitwise_not": (lambda a, b: fw.bitwise_not(a), lambda a, b: ~a),
    "mixed chain": (lambda a, b: (a + b) * a - b, lambda a, b: (a + b) * a - b),
}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "int64", "uint64"])
def test_integers_wrap_around_and_never_trap(dtype: str) -> None:
    """Every pair of edge values; NumPy gives 0 for division by zero and for shifts by too much (or the sign)."""
    a, b = (p.reshape(-1).copy() for p in np.meshgrid(edges(dtype), edges(dtype)))
    got = run_all({name: op for name, (op, _) in INTEGER_OPS.items()}, a, b)
    for name, (_, reference) in INTEGER_OPS.items():
        np.testing.assert_array_equal(got[name], reference(a, b), err_msg=name)


def test_integer_sums_and_products_wrap_around() -> None:
    x = np.full((3, 41), np.iinfo(np.int32).max, np.int32)
    compare(
        {
            "sum": (lambda v: fw.sum(v, 1), lambda v: v.sum(1, dtype=np.int32)),
            "prod": (lambda v: fw.prod(v, 0), lambda v: v.prod(0, dtype=np.int32)),
            "cumsum": (lambda v: fw.cumsum(v, 1), lambda v: v.cumsum(1, dtype=np.int32)),
        },
        x,
    )


INTEGERS = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
TYPES = [*INTEGERS, "float16", "bfloat16", "float32", "float64"]


@pytest.mark.parametrize("source", TYPES)
def test_casts(source: str) -> None:
    """To every dtype, of 37 values that both can hold, and of larger integers, which wrap around."""
    rng = np.random.default_rng(4)
    small = rng.integers(0 if source[0] in "ub" else -100, 2 if source == "bool" else 120, 37)
    x = small.astype(numpy_dtype(source))
    if source.startswith(("float", "bfloat")):
        x = (small / np.float32(4)).astype(numpy_dtype(source))
    elif source != "bool":
        x[:4] = [np.iinfo(source).max, np.iinfo(source).min, np.iinfo(source).max // 3, 1]
    targets = [t for t in TYPES if not (t.startswith("uint") and source.startswith(("float", "bfloat")))]
    got = run_all({t: lambda v, t=t: fw.cast(v, t) for t in targets}, x)
    for target in targets:
        expected = (
            x.astype(np.float32).astype(numpy_dtype(target)) if "bfloat16" in (source, target) else x.astype(target)
        )
        np.testing.assert_array_equal(got[target].astype(np.float64), expected.astype(np.float64), err_msg=target)


def test_casts_between_floats_round_and_overflow_as_numpy_does() -> None:
    values = np.concatenate(
        [specials("float64"), [65504, 65519.99, 65520, 6e-8, 2.9e-8, 1e-40, 3.4e38, 3.5e38, 1 + 2**-11]]
    )
    got = run_all({t: lambda v, t=t: fw.cast(v, t) for t in ("float16", "float32")}, values)
    np.testing.assert_array_equal(got["float32"], values.astype(np.float32))
    np.testing.assert_array_equal(got["float16"], values.astype(np.float32).astype(np.float16))
    narrow = values.astype(np.float32)
    brain = run_all({"b": lambda v: fw.cast(v, "bfloat16")}, narrow)["b"]
    np.testing.assert_array_equal(brain.astype(np.float32), narrow.astype(ml_dtypes.bfloat16).astype(np.float32))


def test_casts_out_of_range_do_not_crash() -> None:
    wild = np.tile(np.array([np.nan, np.inf, -np.inf, 1e30, -1e30, 2.0**63, -(2.0**31) - 1], np.float32), 6)
    got = run_all({t: lambda v, t=t: fw.cast(v, t) for t in INTEGERS}, wild)
    assert got["bool"].all() and all(r.shape == wild.shape for r in got.values())


def test_constants_reach_compiled_code_unchanged() -> None:
    values: dict[str, list[float]] = {
        "float32": [
            np.inf,
            -np.inf,
            np.nan,
            -0.0,
            0.0,
            1e-45,
            1.17549435e-38,
            3.4028235e38,
            0.1,
            1 / 3,
            16777217.0,
            -1e10,
        ],
        "float64": [
            np.inf,
            -np.inf,
            np.nan,
            -0.0,
            5e-324,
            2.2250738585072014e-308,
            1.7976931348623157e308,
            0.1,
            2.0**53 + 1,
        ],
        "int64": [np.iinfo(np.int64).min, np.iinfo(np.int64).max, -1, 0, 1 << 40],
        "int32": [np.iinfo(np.int32).min, np.iinfo(np.int32).max, -1],
        "uint64": [np.iinfo(np.uint64).max, 1 << 63],
        "uint32": [np.iinfo(np.uint32).max],
        "int8": [-128, 127],
        "uint8": [255],
        "float16": [65504, 6e-8, -0.0, np.inf, 0.1],
        "bfloat16": [3e38, 1e-40, -0.0, np.nan, 0.1],
    }
    scalars = [np.array(v, numpy_dtype(dtype)) for dtype, numbers in values.items() for v in numbers]
    flag = fw.var("flag", shape=(19,), dtype="bool")
    # where(flag, c, c) keeps the constant inside the kernel's text, in vectors and in the tail.
    body = fw.Tuple([fw.where(flag, fw.const(s), fw.const(np.zeros_like(s))) for s in scalars])
    results = fw.build(fw.Function([flag], body), TARGET)(flag=np.ones(19, bool))
    for scalar, got in zip(scalars, results, strict=True):
        expected = np.broadcast_to(scalar, (19,))
        if scalar == scalar:
            assert got.tobytes() == expected.tobytes(), (scalar, scalar.dtype)
        else:
            assert (got != got).all()
