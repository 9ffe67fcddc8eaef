"""Damaged and edited files: a FusewireError that says what is wrong, or the right results; never anything else."""

import os
import stat
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewire as fw
from fusewire.ir.errors import ArtifactError
from fusewire.targets.artifact.container import read_archive
from fusewire.targets.artifact.manifest import LARGEST
from fusewire.targets.artifact.read import load
from tests.contrib.onednn_cases import needs_onednn
from tests.targets.stored import bits, members_of, mutated, network, refused, results, with_member, write_members


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file of `network`."""
    path = tmp_path_factory.mktemp("original") / "m.fw"
    network()[0].save(path)
    return path.read_bytes()


@pytest.fixture
def path(original: bytes, tmp_path: Path) -> Path:
    """A file of its own with `network`."""
    (tmp_path / "m.fw").write_bytes(original)
    return tmp_path / "m.fw"


class TestBytes:
    def test_every_member(self, path: Path) -> None:
        """A bit turned over in the middle of each member is found, and named."""
        whole = path.read_bytes()
        for name, member in read_archive(path).items():
            held = bytearray(whole)
            held[whole.index(bytes(member)) + member.nbytes // 2] ^= 0x10
            path.write_bytes(held)
            refused(path, "the manifest is damaged" if name.startswith("manifest") else f"member '{name}' is damaged")

    @pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.7, 0.97, 0.999])
    def test_cut_off(self, path: Path, share: float) -> None:
        whole = path.read_bytes()
        path.write_bytes(whole[: int(share * len(whole))])
        refused(path, "its end is missing|too few|cannot be read|empty file")

    @pytest.mark.parametrize("at", [0, 1000, -1])
    @pytest.mark.parametrize("extra", [b"\0", b"PK\5\6" + bytes(18)])
    def test_added_to(self, path: Path, at: int, extra: bytes) -> None:
        whole = path.read_bytes()
        at = at % (len(whole) + 1)
        path.write_bytes(whole[:at] + extra + whole[at:])
        refused(path, "added|end is missing|damaged|missing")

    @pytest.mark.parametrize("content", [b"", b"\0" * 22, b"hello", b"PK\5\6" + bytes(18), b"\x7fELF" * 1000])
    def test_other_files(self, path: Path, content: bytes) -> None:
        path.write_bytes(content)
        refused(path, "saved module")

    @pytest.mark.parametrize("seed", range(60))
    def test_random_damage(self, path: Path, seed: int) -> None:
        rng = np.random.default_rng(seed)
        path.write_bytes(mutated(path.read_bytes(), rng))
        lib, inputs = network()
        try:
            found = bits(results(load(path), inputs))
        except ArtifactError:
            return
        assert found == bits(results(lib, inputs)), f"seed {seed}"


class TestPlaces:
    def test_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        refused(tmp_path / "pipe", "not a regular file")
        refused(tmp_path, "cannot be read: .*directory")
        refused(tmp_path / "missing", "cannot be read: .*No such file")
        with pytest.raises(ArtifactError, match="null"):
            load("a\0b")
        with pytest.raises(ArtifactError, match="regular"):
            load("/dev/zero")


def entry(name: str, data: bytes = b"x", **changes: Any) -> tuple[zipfile.ZipInfo, bytes]:
    """A member for an archive, with attributes of its entry changed."""
    info = zipfile.ZipInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    return info, data


class TestArchives:
    def pack(self, path: Path, *entries: tuple[zipfile.ZipInfo, bytes]) -> Path:
        with zipfile.ZipFile(path, "w") as archive:
            for info, data in entries:
                archive.writestr(info, data)
        return path

    @pytest.mark.parametrize(
        "name",
        ["../x.txt", "/etc/x.txt", "ir/../x.txt", "..", "ir\\x.txt", "C:x.txt", "ir/", "ir/a/b.txt", "x", "größe.txt"],
    )
    def test_names(self, path: Path, name: str) -> None:
        refused(self.pack(path, entry(name)), "a member is called .*, which no saved module has")

    def test_name_with_a_zero_byte(self, path: Path) -> None:
        self.pack(path, entry("irx0000.txt"))
        path.write_bytes(path.read_bytes().replace(b"irx0000.txt", b"ir/000\0.txt"))
        refused(path, "a member is called")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_same_name_twice(self, path: Path) -> None:
        refused(self.pack(path, entry("ir/0.txt"), entry("ir/0.txt")), "two members called 'ir/0.txt'")

    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFDIR, stat.S_IFCHR, stat.S_IFIFO])
    def test_links_and_devices(self, path: Path, kind: int) -> None:
        refused(
            self.pack(path, entry("ir/0.txt", external_attr=(kind | 0o777) << 16)), "is a link, a folder or a device"
        )

    @pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
    def test_compressed(self, path: Path, method: int) -> None:
        """A bomb would have to be compressed."""
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("ir/0000.txt", bytes(1 << 20))
        refused(path, "member 'ir/0000.txt' is compressed")

    def test_packed_anew(self, path: Path) -> None:
        members = members_of(path)
        self.pack(path, *(entry(name, data) for name, data in members.items()))
        refused(path, "is not at a multiple of 64 bytes: the file was packed anew")

    def test_encrypted(self, path: Path) -> None:
        self.pack(path, entry("ir/0000.txt"))
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\1\2") + 8] |= 1
        path.write_bytes(data)
        refused(path, "is encrypted")

    @pytest.mark.parametrize(("field", "value"), [(20, 10**6), (24, 10**6), (24, 0), (42, 10**6), (42, 7), (16, 0)])
    def test_sizes_and_places_that_lie(self, path: Path, field: int, value: int) -> None:
        """Fields of an entry in the directory: compressed size, size, place; 16 is the checksum, which is not used."""
        data = bytearray(path.read_bytes())
        struct.pack_into("<L", data, data.index(b"PK\1\2") + field, value)
        path.write_bytes(data)
        if field == 16:
            assert load(path).params
        else:
            refused(path, "compressed|beyond the end|cut or added|damaged|missing")

    def test_overlapping(self, path: Path) -> None:
        """Two entries for one place, as in the smallest bombs."""
        self.pack(path, entry("ir/0000.txt", bytes(50)), entry("ir/0001.txt", bytes(50)))
        data = bytearray(path.read_bytes())
        second = data.rindex(b"PK\1\2")
        struct.pack_into("<L", data, second + 42, 0)
        path.write_bytes(data)
        refused(path, "cut or added|damaged|Overlapped")

    def test_huge_directory(self, path: Path) -> None:
        data = bytearray(path.read_bytes())
        struct.pack_into("<L", data, len(data) - 10, 1 << 30)
        path.write_bytes(data)
        refused(path, "its directory of members has 1073741824 bytes, expected at most")


class TestMembers:
    def test_missing(self, path: Path) -> None:
        members = members_of(path)
        for name in members:
            write_members(path, {n: data for n, data in members.items() if n != name})
            refused(path, f"it has no {name}|member '{name}' is missing")

    def test_one_too_many(self, path: Path) -> None:
        write_members(path, {**members_of(path), "ir/9999.txt": b"x"})
        refused(path, "member 'ir/9999.txt' is not in the manifest")

    def test_renamed_and_exchanged(self, path: Path) -> None:
        members = members_of(path)
        swapped = {
            **members,
            "objects/0000.so": members["objects/0001.so"],
            "objects/0001.so": members["objects/0000.so"],
        }
        refused(write_members(path, swapped), r"member 'objects/000\d\.so' has \d+ bytes, expected")
        renamed = {name.replace("ir/0000", "ir/1000"): data for name, data in members.items()}
        refused(write_members(path, renamed), r"member 'ir/\d000.txt' is (missing|not in the manifest)")

    def test_exchanged_objects_with_right_hashes(self, path: Path) -> None:
        members = members_of(path)
        with_member(path, "objects/0000.so", members["objects/0001.so"])
        refused(path, "its code was not made for its program")
        write_members(path, members)
        with_member(path, "objects/0001.so", members["objects/0000.so"])
        refused(path, "its code was not made for its program")

    @pytest.mark.parametrize(
        ("name", "text", "message"),
        [
            ("ir/0000.txt", b"\xff", "member 'ir/0000.txt' is no text"),
            ("ir/0000.txt", b"def @main() { 1f }", "main has 0 parameters, expected 1: data"),
            ("ir/0000.txt", b"def @f(%data: float32) { %data }", "no function 'main'"),
            ("ir/0000.txt", b"(" * 1000, "expected 'def @name'"),
            ("ir/0000.txt", b"def @main(%data: float32) { meta[relay.Constant][99] }", "there are 3 constants"),
            ("ir/0000.txt", b" " * (LARGEST + 1), "expected at most"),
            ("ir/0001.txt", b"def @main(%data: float32) { %data }", "different inputs or steps"),
        ],
    )
    def test_text(self, path: Path, name: str, text: bytes, message: str) -> None:
        """Text is looked at when it is needed, and then it counts."""
        loaded = load(with_member(path, name, text))
        with pytest.raises(ArtifactError, match=message) as caught:
            _ = loaded.ir_mod if name == "ir/0000.txt" else loaded.function_metadata
        assert str(caught.value).count("m.fw") == 1

    @needs_onednn
    def test_another_region_for_a_library(self, tmp_path: Path) -> None:
        lib, inputs = network("cpu -libs=onednn")
        path = tmp_path / "m.fw"
        lib.save(path)
        text = members_of(path)["ir/0001.txt"]
        rule = b'Composite="onednn.dense"'
        for old, new in (
            (b'Compiler="onednn", ', b""),
            (rule, b'Composite="onednn.erf"'),
            (rule, b'Composite="onednn.relu"'),
            (rule, b'Composite="onednn.conv2d"'),
        ):
            loaded = load(with_member(path, "ir/0001.txt", text.replace(old, new)))
            with pytest.raises(fw.FusewireError, match=r"something else in its IR|has no rule|expected a region of"):
                loaded(**inputs)
