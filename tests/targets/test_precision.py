"""-precision: products of 16-bit floats against float64, which schedule ran, and how weights are stored.

Rounding a factor to bfloat16 changes it by at most 2**-8 of itself, to float16 by 2**-11. Errors are taken relative to
the largest element of the result, where those of the terms average out.
"""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

import fusewire as fw
from fusewire.ir.errors import TargetError
from fusewire.ops.spec import spec_of
from fusewire.targets.cpuinfo import cpu_features, isa_for

Array = npt.NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
DTYPES = {"bfloat16": BF16, "float16": np.dtype(np.float16)}
FACTORS = {"bfloat16": 1e-2, "float16": 4e-3}
"""Where factors are rounded (for float16 once more, when Winograd transforms them)."""
SUMS = 1e-5
"""Where the factors given are of 16 bits, and only the sum is computed in float32."""
X86 = cpu_features().machine == "x86_64"
TARGETS = ["cpu", *(["cpu -mcpu=haswell"] if X86 and "avx2" in cpu_features().features else [])]


def error(got: Array, wanted: Array) -> float:
    return float(np.abs(got.astype(np.float64) - wanted).max() / np.abs(wanted).max())


def implementations(lib: fw.CompiledModule) -> list[str]:
    return [lib.code.of(step).implementation for step in lib.program.leaf_steps()]  # type: ignore[arg-type]


def uses_pairs(lib: fw.CompiledModule) -> bool:
    return "dot2(" in lib.get_source(kind="loops")


def stored(lib: fw.CompiledModule) -> set[str]:
    """The dtypes in which constants of more than one dimension are handed to kernels."""
    arrays = {**lib.program.constants, **lib.code.packed}
    slots = {slot for step in lib.program.leaf_steps() for slot in lib.code.of(step).inputs}  # type: ignore[arg-type]
    return {array.dtype.name for slot, array in arrays.items() if slot in slots and array.ndim > 1}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_products_of_small_floats(dtype: str, target: str) -> None:
    """Odd depths, remainders in all directions, transposed operands, weights that are not constants."""
    rng = np.random.default_rng(1)
    for m, k, n, constant, transposed in (
        (1, 64, 100, True, False), (5, 63, 37, True, False), (17, 130, 33, False, False), (6, 31, 19, True, True),
        (30, 128, 64, True, False),
    ):  # fmt: skip
        x, w = rng.normal(size=(m, k)).astype(DTYPES[dtype]), rng.normal(size=(n, k)).astype(DTYPES[dtype])
        given = np.ascontiguousarray(x.T) if transposed else x
        data = fw.var("x", shape=given.shape, dtype=dtype)
        weight: Any = fw.const(w) if constant else fw.var("w", shape=w.shape, dtype=dtype)
        product = fw.nn.matmul(data, weight, transpose_a=transposed, transpose_b=True, out_dtype="float32")
        lib = fw.build(fw.nn.relu(product), target)
        assert implementations(lib) == ["gemm.cpu"]
        assert uses_pairs(lib) == (dtype == "bfloat16" and isa_for(fw.Target(target)).bfloat16_dot)
        got = lib(x=given) if constant else lib(x=given, w=w)
        wanted = np.maximum(x.astype(np.float64) @ w.astype(np.float64).T, 0)
        assert got.dtype == np.float32 and error(got, wanted) < SUMS, (m, k, n)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batches_of_small_floats(dtype: str) -> None:
    rng = np.random.default_rng(2)
    a, b = (rng.normal(size=s).astype(DTYPES[dtype]) for s in ((3, 9, 35), (3, 21, 35)))
    x, y = fw.var("x", shape=a.shape, dtype=dtype), fw.var("y", shape=b.shape, dtype=dtype)
    lib = fw.build(fw.nn.batch_matmul(x, y, out_dtype="float32"), "cpu")
    assert implementations(lib) == ["gemm.cpu"]
    assert error(lib(x=a, y=b), a.astype(np.float64) @ b.astype(np.float64).swapaxes(1, 2)) < SUMS


Case = tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]
CONVOLUTIONS: dict[str, Case] = {
    "3x3": ((1, 32, 9, 11), (48, 32, 3, 3), {"padding": (1, 1)}),
    "1x1": ((2, 16, 14, 14), (64, 16, 1, 1), {}),
    "strided": ((1, 32, 15, 15), (32, 32, 3, 3), {"strides": (2, 2), "padding": (1, 1)}),
    "groups": ((1, 64, 7, 7), (32, 32, 3, 3), {"groups": 2, "padding": (1, 1)}),
    "odd channels": ((1, 24, 8, 8), (40, 24, 1, 1), {"strides": (2, 2)}),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", DTYPES)
def test_convolutions(precision: str, target: str) -> None:
    """One network of all of them, side by side, each followed by another one."""
    rng = np.random.default_rng(3)
    inputs: dict[str, Array] = {}
    outputs, wanted = [], []
    for number, (data, shape, attributes) in enumerate(CONVOLUTIONS.values()):
        first, second = (rng.normal(size=s).astype(np.float32) for s in (shape, (32, shape[0], 3, 3)))
        x = inputs[f"x{number}"] = rng.normal(size=data).astype(np.float32)
        conv = fw.nn.conv2d(fw.var(f"x{number}", shape=data), fw.const(first), **attributes)
        end = fw.nn.conv2d(fw.nn.relu(conv), fw.const(second), padding=(1, 1))
        outputs.append(end)
        reference = spec_of("nn.conv2d").reference
        middle = np.maximum(np.asarray(reference(conv.attrs, x.astype(float), first.astype(float))), 0)  # type: ignore[attr-defined]
        wanted.append(np.asarray(reference(end.attrs, middle, second.astype(float))))  # type: ignore[attr-defined]
    lib = fw.build(fw.Tuple(outputs), f"{target} -precision={precision}")
    fast = [name for name in implementations(lib) if name.endswith("_nchwc.cpu")]
    assert len(fast) == 2 * len(CONVOLUTIONS) and "conv2d_nchwc.cpu" in fast
    assert uses_pairs(lib) == (precision == "bfloat16" and isa_for(fw.Target(target)).bfloat16_dot)
    assert "float32" not in stored(lib)
    for got, expected in zip(lib(**inputs), wanted, strict=True):
        assert got.dtype == np.float32 and error(got, expected) < FACTORS[precision]


def network(rng: np.random.Generator) -> tuple[fw.Expr, Callable[[Array], Array], Array]:
    """Two dense layers with a normalisation and a residual sum, in float64 too."""
    shapes = ((96, 64), (64, 96))
    w, v = (rng.normal(size=s, scale=0.1).astype(np.float32) for s in shapes)
    one, zero = np.ones(64, np.float32), np.zeros(64, np.float32)
    x = fw.var("x", shape=(3, 64))
    hidden = fw.nn.relu(fw.nn.dense(fw.nn.layer_norm(x, fw.const(one), fw.const(zero)), fw.const(w)))

    def exact(data: Array) -> Array:
        y = data.astype(np.float64)
        normal = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + 1e-5)
        result: Array = y + np.maximum(normal @ w.T.astype(np.float64), 0) @ v.T.astype(np.float64)
        return result

    return x + fw.nn.dense(hidden, fw.const(v)), exact, rng.normal(size=(3, 64)).astype(np.float32)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_network(precision: str, tmp_path: Any) -> None:
    """Weights take half the memory; casts live in the kernels around; a saved module computes the same."""
    expr, exact, data = network(np.random.default_rng(4))
    plain, small = fw.build(expr, "cpu"), fw.build(expr, f"cpu -precision={precision}")
    weights = [sum(a.nbytes for a in lib.params.values() if a.ndim > 1) for lib in (plain, small)]
    assert weights[1] * 2 == weights[0]
    assert len(small.program.leaf_steps()) == len(plain.program.leaf_steps())
    got = small(x=data)
    limit = FACTORS[small.target.precision or ""]
    assert got.dtype == np.float32 and 1e-6 < error(got, exact(data)) < limit
    small.save(tmp_path / "net.fw")
    np.testing.assert_array_equal(fw.load(tmp_path / "net.fw")(x=data), got)


def test_names_of_precisions() -> None:
    assert str(fw.Target("cpu -precision=bf16")) == "cpu -keys=cpu -precision=bfloat16"
    assert fw.Target("cpu -precision=fp16").precision == "float16"
    assert fw.Target("cuda -precision=fp32").precision == "float32"
    with pytest.raises(TargetError, match="expected one of float32, bfloat16, float16"):
        fw.Target("cpu -precision=tf32")


@pytest.mark.skipif(not X86, reason="about x86")
def test_what_processors_can_do() -> None:
    isas = {
        name: isa_for(fw.Target(f"cpu -mcpu={name}")) for name in ("haswell", "skylake-avx512", "znver4", "generic")
    }
    assert [isa.bfloat16_dot for isa in isas.values()] == [False, False, True, False]
    assert [isa.float16_loads for isa in isas.values()] == [True, True, True, False]
    assert "avx512bf16" in isas["znver4"].requires
    without = isa_for(fw.Target("cpu -mcpu=znver4 -mattr=-avx512bf16"))
    assert not without.bfloat16_dot and "avx512bf16" not in without.requires
    with pytest.raises(TargetError, match=r"F16C on x86.*float32 and bfloat16"):
        fw.build(network(np.random.default_rng(0))[0], "cpu -mcpu=generic -precision=fp16")


@pytest.mark.skipif(not X86, reason="about x86")
def test_code_for_another_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lib = fw.build(network(np.random.default_rng(0))[0], "cpu -mcpu=znver4 -precision=bf16")
    assert uses_pairs(lib)
    host = cpu_features()
    fewer = type(host)(host.name, host.machine, tuple(f for f in host.features if f != "avx512bf16"))
    monkeypatch.setattr("fusewire.targets.backends.cpu_features", lambda: fewer)
    with pytest.raises(TargetError, match=r"lacks .*avx512bf16"):
        lib["default"](fw.cpu(0))
