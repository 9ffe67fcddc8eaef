"""Libraries that stand in for vendors' ones: compiled by the C compiler, they check how they are called, and compute.

Memory of the doubles of devices is the host's, so what is computed there can be compared with NumPy.
"""

import ctypes
import functools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusewire.contrib import vendor
from fusewire.contrib.cudnn import convolution
from fusewire.contrib.vendor import Vendor
from fusewire.targets.launched.device import Block
from fusewire.targets.toolchain import compile_shared

FOLDER = Path(__file__).parent


@functools.cache
def compiled(name: str) -> Path:
    """The library of a C file."""
    header, text = ((FOLDER / file).read_text() for file in ("fake.h", f"{name}.c"))
    return compile_shared([(f"{name}.c", text.replace('#include "fake.h"\n', header))], ["-lm"])


class Fake:
    """A library that stands in for a vendor's."""

    def __init__(self, path: Path) -> None:
        self.path, self.dll = path, ctypes.CDLL(str(path))
        self.dll.fake_log.restype = ctypes.c_char_p
        self.clear()

    @property
    def log(self) -> list[str]:
        """Calls, such as "cudnnAddTensor(1 4 1 1)"."""
        text: bytes = self.dll.fake_log()
        return text.decode().splitlines()

    def calls(self, *skipped: str) -> list[str]:
        """The names of calls, but for those that set a stream and `skipped`."""
        names = [line.partition("(")[0] for line in self.log]
        return [name for name in names if name not in skipped and not name.lower().endswith("stream")]

    def clear(self) -> None:
        self.dll.fake_clear()

    def fail(self, name: str, status: int) -> None:
        """Let a function give a status."""
        self.dll.fake_fail(name.encode(), status)

    @property
    def objects(self) -> int:
        """Objects that were made and not ended."""
        return int(self.dll.fake_objects())


def use(patch: pytest.MonkeyPatch, **given: Vendor | tuple[Vendor, ...]) -> dict[str, Fake]:
    """Let fakes stand in for libraries: `fake_cudnn=CUDNN`."""
    fakes = {name: Fake(compiled(name)) for name in given}
    vendors = {name: v if isinstance(v, tuple) else (v,) for name, v in given.items()}
    paths = {id(v): [str(fakes[name].path)] for name, several in vendors.items() for v in several}
    patch.setattr(vendor, "places", lambda v: paths.get(id(v), []))
    patch.setattr(vendor, "_loaded", functools.cache(vendor._loaded.__wrapped__))
    patch.setattr(convolution, "_found", {})
    return fakes


class HostDevice:
    """A device whose memory is the host's: enough of one for a library."""

    identity = "host"

    def __init__(self, stream: int = 77) -> None:
        self.stream, self.inside, self.blocks = stream, 0, list[Block]()

    @contextmanager
    def using(self, what: str) -> Iterator[int]:
        self.inside += 1
        yield self.stream
        self.inside -= 1

    def allocate(self, nbytes: int, what: str) -> Block:
        raw = np.zeros(max(nbytes, 1) + 256, np.uint8)
        self.blocks.append(Block(-(-raw.ctypes.data // 256) * 256, nbytes, raw))
        return self.blocks[-1]

    def write(self, address: int, array: Any) -> None:
        ctypes.memmove(address, np.ascontiguousarray(array).ctypes.data, array.nbytes)


def addresses(arrays: Iterable[Any]) -> list[int]:
    """Where arrays lie."""
    return [array.ctypes.data for array in arrays]


def missing(patch: pytest.MonkeyPatch) -> None:
    """Let no vendor's library be there."""
    patch.setattr(vendor, "places", lambda v: [])
    patch.setattr(vendor, "_loaded", functools.cache(vendor._loaded.__wrapped__))
