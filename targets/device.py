"""Devices, and arrays that live on them."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from attrs import frozen

from ..ir.errors import DeviceNotFound, RuntimeInputError
from ..ir.types import numpy_dtype
from .target import Target


@frozen
class Device:
    """A place where modules run: `Device("cpu", 0)`."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind}({self.index})"

    def sync(self) -> None:
        """Wait until all work is done; on the CPU it always is."""


def device(kind: str | Target = "cpu", index: int = 0) -> Device:
    """A device by kind ("cpu", or a whole target string, of which the kind counts) and number.

    Raises:
        TargetError: the kind is unknown.
        DeviceNotFound: there is no device of this kind and number, or this version cannot run on it.
    """
    name = Target(kind).kind
    if isinstance(index, bool) or not isinstance(index, int) or index < 0:
        raise DeviceNotFound(f"a device has a number from 0 on, got {index!r}")
    if name == "cpu" and index != 0:
        raise DeviceNotFound(f"there is one cpu device, number 0; got number {index}")
    return Device(name, index)


def wanted_package(name: str, purpose: str, install: str) -> Any:
    """A module of a package that running on a kind of device needs.

    Raises:
        DeviceNotFound: it cannot be imported; the message says what needs it (`purpose`), and how to `install` it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise DeviceNotFound(f"{purpose} needs the package {name} ({error}): {install}") from None


def cpu(index: int = 0) -> Device:
    """The CPU."""
    return device("cpu", index)


class NDArray:
    """An array on a device, as `GraphModule.get_output` gives it. On the CPU it shares memory with a NumPy array."""

    __slots__ = ("_array", "device")

    def __init__(self, array: npt.NDArray[Any], device: Device = Device("cpu", 0)) -> None:
        self._array = array
        self.device = device

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape."""
        return self._array.shape

    @property
    def dtype(self) -> str:
        """The name of the element type."""
        return self._array.dtype.name

    def numpy(self) -> npt.NDArray[Any]:
        """The contents, copied into a NumPy array."""
        return self._array.copy()

    asnumpy = numpy

    def copyfrom(self, source: Any) -> "NDArray":
        """Overwrite the contents.

        Raises:
            RuntimeInputError: the shape or dtype differs.
        """
        array = as_numpy(source)
        if array.shape != self.shape or array.dtype != self._array.dtype:
            raise RuntimeInputError(f"cannot copy {array.dtype} {array.shape} into {self.dtype} {self.shape}")
        self._array[...] = array
        return self

    def copyto(self, target: "NDArray") -> "NDArray":
        """Copy the contents into another array."""
        return target.copyfrom(self)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        return np.array(self._array, dtype=dtype, copy=True if copy is None else copy)

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0

    def __getitem__(self, index: Any) -> Any:
        return self._array[index]

    def __len__(self) -> int:
        return len(self._array)

    def __repr__(self) -> str:
        return f"NDArray({self._array!r}, device={self.device})"


def as_numpy(value: Any) -> npt.NDArray[Any]:
    """`value` as a NumPy array, without a copy where it is one or shares its memory (NDArray, DLPack on the CPU).

    The array is in the machine's byte order.
    """
    if isinstance(value, NDArray):
        return value._array
    if not isinstance(value, np.ndarray) and hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return np.from_dlpack(value)
    array = np.asarray(value)
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def array(value: Any, device: Device | None = None) -> NDArray:
    """A copy of a NumPy array, a list or an NDArray, on a device."""
    return NDArray(np.array(as_numpy(value), order="C"), device or Device("cpu", 0))


def empty(shape: Sequence[int] | int, dtype: str = "float32", device: Device | None = None) -> NDArray:
    """An array with unspecified contents."""
    extents = (shape,) if isinstance(shape, int) else tuple(shape)
    return NDArray(np.empty(extents, numpy_dtype(dtype)), device or Device("cpu", 0))
