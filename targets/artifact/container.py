"""The archive: members by name, written in one step, read through a memory map.

Members are not compressed. So their sizes add up to that of the file (no member can be a bomb), tensors can be mapped,
and the bytes do not depend on the version of a compressor.
"""

import contextlib
import hashlib
import mmap
import os
import re
import secrets
import stat
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...ir.errors import ArtifactError

ALIGN = 64
"""Members that are asked to be aligned start at a multiple of this in the file, hence in memory."""

_NAME = re.compile(r"[a-z0-9_]+(?:/[a-z0-9_]+)?\.[a-z0-9]+", re.ASCII)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that zip knows
_MODE = stat.S_IFREG | 0o644
_PADDING = 0xD935  # the kind of extra field that Android's zipalign pads with
_DIRECTORY = 1 << 26
"""The largest directory of members, in bytes; it is read as a whole."""

_PART = 1 << 20
"""Bytes that are hashed at a time."""

_LOCAL = struct.Struct("<4s5H3L2H")
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR = struct.Struct("<4sLQL")

_BROKEN = (zipfile.BadZipFile, struct.error, ValueError, NotImplementedError, OverflowError, EOFError)
"""What `zipfile` raises on damaged archives."""


def write_archive(path: str | os.PathLike[str], members: Mapping[str, memoryview], aligned: str) -> None:
    """Write members in their order, those in the folder `aligned` at multiples of `ALIGN`.

    The file takes its place in one step when it is complete.

    Raises:
        ArtifactError: it cannot be written.

    """
    temporary: Path | None = None
    try:
        place = Path(os.path.realpath(path))
        temporary = place.with_name(f".{secrets.token_hex(8)}.tmp")
        with temporary.open("xb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for name, data in members.items():
                    _add(archive, name, data, ALIGN if name.startswith(f"{aligned}/") else 1, file.tell())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(place)
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise ArtifactError(f"cannot write {os.fspath(path)!r}: {error}") from None
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()


def _add(archive: zipfile.ZipFile, name: str, data: memoryview, align: int, at: int) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.create_system = 3  # Unix, wherever it is written
    info.external_attr = _MODE << 16
    info.file_size = info.compress_size = data.nbytes
    info.CRC = 0  # until it is known
    large = align > 1  # always with the long header, so that its length is known
    if large:
        empty = struct.pack("<HHH", _PADDING, 2, align)
        padding = -(at + len(info.FileHeader(zip64=True)) + len(empty)) % align
        info.extra = struct.pack("<HHH", _PADDING, 2 + padding, align) + bytes(padding)
    with archive.open(info, "w", force_zip64=large) as member:
        member.write(data)


def read_archive(path: str | os.PathLike[str]) -> dict[str, memoryview]:
    """The members of an archive by name, as views of one read-only map of the file.

    Raises:
        ArtifactError: the file cannot be read, or is not an archive as `write_archive` makes them.

    """
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:  # never waits
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ArtifactError("not a regular file")
            whole = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
            _check_directory(whole)
            with zipfile.ZipFile(file) as archive:
                return _members(archive.infolist(), archive.start_dir, whole)
    except OSError as error:
        raise ArtifactError(f"cannot be read: {error}") from None
    except _BROKEN as error:
        raise ArtifactError(f"not a saved module, or a damaged one: {error}") from None


def hash_and_forget(member: memoryview) -> str:
    """The SHA-256 of a member as hexadecimal digits. Its pages do not stay in this process's memory: what nobody reads
    later, such as weights that kernels read in packed form only, takes up none.
    """
    digest = hashlib.sha256()
    if not member.nbytes:
        return digest.hexdigest()
    whole = member.obj
    assert isinstance(whole, mmap.mmap), "a member of read_archive"
    start = np.frombuffer(member, np.uint8).ctypes.data - np.frombuffer(whole, np.uint8).ctypes.data
    for at in range(0, member.nbytes, _PART):
        part = member[at : at + _PART]
        digest.update(part)
        if hasattr(whole, "madvise"):
            # Whole pages only. A neighbour's that are given back, too, come again when they are read.
            first = (start + at) // mmap.PAGESIZE * mmap.PAGESIZE
            whole.madvise(mmap.MADV_DONTNEED, first, start + at + part.nbytes - first)
    return digest.hexdigest()


def forget(member: memoryview) -> None:
    """Give back the pages of a whole archive: reading one page may have brought its neighbours."""
    whole = member.obj
    if isinstance(whole, mmap.mmap) and hasattr(whole, "madvise"):
        whole.madvise(mmap.MADV_DONTNEED)


def _check_directory(whole: memoryview) -> None:
    """Refuse a directory that would not fit into memory, and an end that is not the end of the file."""
    if whole.nbytes < _END.size:
        raise ArtifactError(f"{whole.nbytes} bytes are too few for a saved module")
    mark, *_, size, _, comment = _END.unpack_from(whole, whole.nbytes - _END.size)
    if mark != b"PK\x05\x06" or comment:
        raise ArtifactError("not a saved module, or its end is missing")
    before = whole.nbytes - _END.size - _LOCATOR.size
    if before >= 0:
        mark, _, at, _ = _LOCATOR.unpack_from(whole, before)
        if mark == b"PK\x06\x07" and at <= before - _END64.size:
            size = max(size, _END64.unpack_from(whole, at)[-2])
    if size > _DIRECTORY:
        raise ArtifactError(f"its directory of members has {size} bytes, expected at most {_DIRECTORY}")


def _members(infos: list[zipfile.ZipInfo], end: int, whole: memoryview) -> dict[str, memoryview]:
    """Members as slices; they follow each other without gaps, the directory follows the last."""
    found: dict[str, memoryview] = {}
    at = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        _check_member(info)
        if info.filename in found:
            raise ArtifactError(f"there are two members called {info.filename!r}")
        if info.header_offset != at:
            raise ArtifactError(f"it was cut or added to: member {info.filename!r} is not at {at}")
        if at + _LOCAL.size > end:
            raise ArtifactError(f"member {info.filename!r} begins where there is no room for it")
        mark, *_, name_size, extra_size = _LOCAL.unpack_from(whole, at)
        start = at + _LOCAL.size + name_size + extra_size
        at = start + info.file_size
        name = whole[start - name_size - extra_size : start - extra_size].tobytes()
        if mark != b"PK\x03\x04" or name != info.filename.encode():
            raise ArtifactError(f"the header of member {info.filename!r} is damaged")
        if at > end:
            raise ArtifactError(f"member {info.filename!r} of {info.file_size} bytes goes beyond the end")
        found[info.filename] = whole[start:at]
    if at != end:
        raise ArtifactError(f"{end - at} bytes belong to no member")
    return found


def _check_member(info: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archiver wrote none
    # The name that stands in the file: zipfile cuts it off at a zero byte.
    if not _NAME.fullmatch(info.orig_filename) or info.filename != info.orig_filename:
        raise ArtifactError(f"a member is called {info.orig_filename[:200]!r}, which no saved module has")
    if kind not in (0, stat.S_IFREG):
        raise ArtifactError(f"member {info.filename!r} is a link, a folder or a device, expected a file")
    if info.flag_bits & 1:
        raise ArtifactError(f"member {info.filename!r} is encrypted")
    if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
        raise ArtifactError(f"member {info.filename!r} is compressed; saved modules are not (zip -0 keeps them so)")
