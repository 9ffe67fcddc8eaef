"""Element types and stored tensors of ONNX."""

import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ...ir.errors import FusewireError
from ...ir.types import DTYPES, numpy_dtype
from .values import Array


def dtype_of(code: int) -> str:
    """The fusewire dtype of an ONNX element type.

    Raises:
        FusewireError: fusewire has no such type (text, complex numbers, float8, int4 and smaller).
    """
    names = {v: k for k, v in TensorProto.DataType.items()}
    if code not in names or code == TensorProto.UNDEFINED:
        raise FusewireError(f"unknown ONNX element type {code}")
    try:
        name = helper.tensor_dtype_to_np_dtype(code).name
    except (KeyError, ValueError, TypeError):
        name = ""
    if code == TensorProto.BFLOAT16:
        name = "bfloat16"
    if name not in DTYPES or code == TensorProto.STRING:
        raise FusewireError(f"tensors of the ONNX type {names[code]} are not supported")
    return name


def code_of(dtype: str) -> int:
    """The ONNX element type of a fusewire dtype."""
    return TensorProto.BFLOAT16 if dtype == "bfloat16" else helper.np_dtype_to_tensor_dtype(numpy_dtype(dtype))


def to_array(tensor: onnx.TensorProto, base: str = os.curdir) -> Array:
    """The values of a stored tensor; external data is read from the folder `base`.

    Raises:
        FusewireError: its element type is not supported, or its data does not fit its shape.
    """
    dtype = dtype_of(tensor.data_type)
    try:
        array = numpy_helper.to_array(tensor, base_dir=base)
    except Exception as error:  # the onnx package raises many kinds
        raise FusewireError(f"the tensor {tensor.name!r} cannot be read: {error}") from None
    return np.asarray(array).astype(numpy_dtype(dtype), copy=False)
