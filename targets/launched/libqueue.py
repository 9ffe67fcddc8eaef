"""GPUs of all makers: what they do alike; what libraries get of one: stream, handles as long as the module, scratch."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, NoReturn, Protocol

from attrs import define, field

from ..engine import Array
from .device import LOCAL, Block, GpuDevice, held_in_one_block, no_images, sharing, sizes_on_gpu


@define(eq=False)
class LibraryQueue:
    """The `Region.queue` of the kinds `cuda` and `rocm`; each module has its own.

    Attributes:
        device: the GPU.
    """

    device: GpuDevice
    _kept: dict[str, Any] = field(factory=dict)
    _reserved: int = 0
    _scratch: Block | None = None

    def using(self, what: str) -> AbstractContextManager[int]:
        """Makes the GPU the current one, for `what`; gives the handle of the stream that all work goes into."""
        return self.device.using(what)

    def kept(self, name: str, make: Callable[[], Any]) -> Any:
        """Something that all calls of a library in this module share, made when it is first wanted."""
        if name not in self._kept:
            self._kept[name] = make()
        return self._kept[name]

    def reserve(self, nbytes: int) -> None:
        """Say, before anything runs, that a call needs so many bytes of scratch."""
        if nbytes > self._reserved:
            self._reserved, self._scratch = nbytes, None

    @property
    def scratch(self) -> int:
        """The address of scratch that all calls use, one after the other: as large as the largest needs; 0 if none.

        Raises:
            DeviceError: there is not enough memory.
        """
        if not self._reserved:
            return 0
        if self._scratch is None:
            self._scratch = self.device.allocate(self._reserved, "scratch of libraries")
        return self._scratch.address


class Gpu(GpuDevice, Protocol):
    """What GPUs of all makers do alike; `CudaDevice` and `RocmDevice` have the rest."""

    driver: int

    @property
    def identity(self) -> str:
        """Device and driver."""
        return f"{self.index} / {self.name} / {self.arch} / driver {self.driver}"

    @property
    def software(self) -> str:
        """Architecture and driver."""
        return f"{self.arch}, driver {self.driver}"

    def library_queue(self) -> LibraryQueue:
        """What the libraries of one module put their work into."""
        return LibraryQueue(self)

    def shares(self, thread_bytes: int, items: int) -> int:
        """How many work-items share the iterations of a launch."""
        return sharing(self.units * LOCAL, thread_bytes, items)

    def sizes(self, items: int) -> list[int]:
        """Other numbers of work-items in a work-group that are worth a try."""
        return sizes_on_gpu(items)

    def hold(self, arrays: Mapping[int, Array]) -> tuple[Any, dict[int, int]]:
        """Arrays that never change, in one piece of memory."""
        return held_in_one_block(self, arrays)

    def image(self, array: Array) -> NoReturn:
        """Kernels read buffers only."""
        no_images(self, array)

    def seen(self, place: int, nbytes: int) -> None:
        """The host does not see the memory of a GPU."""
        return None  # noqa: RET501 - a protocol's method without a body would be abstract
