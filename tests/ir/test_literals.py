"""Scalars as text: exact in both directions, for every element type."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fusewire as fw
from fusewire.ir.literals import literal, parse_literal
from fusewire.ir.types import FLOATS, INTEGERS, numpy_dtype


@pytest.mark.parametrize(
    ("value", "dtype", "text"),
    [
        (42, "int16", "42i16"), (42, "int32", "42"), (42, "int64", "42i64"), (-128, "int8", "-128i8"),
        (2**64 - 1, "uint64", "18446744073709551615u64"), (3.0, "float16", "3f16"), (3.0, "float32", "3f"),
        (3.0, "float64", "3f64"), (3.0, "bfloat16", "3bf16"), (0.1, "float32", "0.1f"), (1e11, "float32", "1e+11f"),
        (-0.0, "float32", "-0f"), (np.inf, "float32", "inff"), (-np.inf, "float64", "-inff64"),
        (np.nan, "float16", "nanf16"), (True, "bool", "True"), (False, "bool", "False"),
    ],
)  # fmt: skip
def test_spelling(value: object, dtype: str, text: str) -> None:
    constant = fw.const(value, dtype)
    assert literal(constant.data) == text
    assert str(constant) == f"{text} /* ty={dtype} */"
    fw.analysis.assert_structural_equal(fw.parse_expr(text), constant)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_every_number_of_16_bits(dtype: type) -> None:
    for bits in np.arange(1 << 16, dtype=np.uint16):
        value: npt.NDArray[Any] = np.array(bits).view(dtype)
        text = literal(value)
        if text is None:
            assert np.isnan(float(value))  # with a payload; such a constant goes to the metadata
        else:
            assert parse_literal(text).tobytes() == value.tobytes()


@given(st.sampled_from(INTEGERS), st.data())
def test_integers(dtype: str, data: st.DataObject) -> None:
    limits = np.iinfo(dtype)
    value = np.array(data.draw(st.integers(limits.min, limits.max)), dtype)
    back = parse_literal(literal(value) or "")
    assert back.dtype == value.dtype and back == value


@given(st.sampled_from(FLOATS), st.floats())
def test_floats(dtype: str, number: float) -> None:
    with np.errstate(over="ignore"):
        value = np.array(number).astype(numpy_dtype(dtype))
    constant = fw.parse_expr(fw.const(value).astext())
    assert isinstance(constant, fw.Constant)
    assert constant.data.dtype == value.dtype and constant.data.tobytes() == value.tobytes()


def test_whole_numbers_without_suffix_widen() -> None:
    assert parse_literal("2147483647").dtype == np.int32
    assert parse_literal("2147483648").dtype == np.int64
    assert parse_literal("1.5").dtype == np.float32


@pytest.mark.parametrize(
    "text", ["2147483648i32", "256u8", "-1u8", "3.5e38f", "1e5f16", "9223372036854775808", "1.5i8"]
)
def test_numbers_that_do_not_fit(text: str) -> None:
    with pytest.raises(fw.FusewireError, match=r"does not fit|whole number"):
        parse_literal(text)
