"""What a library gets of a GPU: the stream, handles that live as long as the module, and scratch."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from attrs import define, field

from .device import Block, GpuDevice


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
