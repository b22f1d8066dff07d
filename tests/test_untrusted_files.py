"""Malicious lists, archives and arrays. Each test first shows that the attack works on a plain loader.

Checkpoints are in test_untrusted_checkpoints.py, pickles in test_image_labels.py and test_external_labels.py, archives
of VOC in test_prepare_voc12.py.
"""

import contextlib
import errno
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from datasets.archive_files import open_archive
from formats.cams import load_cams
from formats.errors import InputError
from formats.npz_files import load_named_arrays
from formats.voc_layout import load_ids

MIB = 1 << 20


class Touch:
    """Pickles as a call that creates a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


# lists of ids


@pytest.mark.parametrize(
    "name", ["../outside", "below/../../outside", "ABSOLUTE/outside", "./x", "/JPEGImages/../../x"]
)
def test_ids_lead_nowhere_else(tmp_path, name):
    name = name.replace("ABSOLUTE", str(tmp_path))
    folder = tmp_path / "labels"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "ids.txt").write_text(f"a\n{name}\n")
    plain = Path(os.path.normpath(folder / f"{name}.png"))  # where a plain writer would write
    assert plain.parent != folder or name == "./x"
    with pytest.raises(InputError, match=r"ids\.txt names '.*': an id is the name of a file"):
        load_ids(tmp_path / "ids.txt")


@pytest.mark.parametrize("name", ["..\\outside", "C:\\outside", "C:outside", "\\outside", "below\\..\\..\\outside"])
def test_ids_lead_nowhere_else_on_windows(tmp_path, name):
    (tmp_path / "ids.txt").write_text(f"{name}\n")
    plain = PureWindowsPath("D:/labels") / name
    assert ".." in plain.parts or not plain.is_relative_to("D:/labels")
    with pytest.raises(InputError, match="an id is the name of a file"):
        load_ids(tmp_path / "ids.txt")


@pytest.mark.parametrize("name", ["a\0b", "a\x1b[2Jb", "..", ".", ".jpg", "/JPEGImages/...jpg", "/JPEGImages/.jpg"])
def test_ids_that_are_not_file_names(tmp_path, name):
    (tmp_path / "ids.txt").write_text(f"a\n{name}\n")
    with pytest.raises(InputError, match="an id is the name of a file") as caught:
        load_ids(tmp_path / "ids.txt")
    assert str(caught.value).isprintable()  # no control character reaches the terminal


def test_formats_of_lists(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text(
        "a.b\nJPEGImages/c.jpg\n/JPEGImages/d.jpg /SegmentationClass/d.png\nüñ-1\ne.jpg\n", encoding="utf-8"
    )
    assert load_ids(path) == ["a.b", "c", "d", "üñ-1", "e"]
    for content in ("ü\n".encode("latin-1"), "a\nb\n".encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"ids\.txt is not text in UTF-8"):
            load_ids(path)


# archives


def write_tar(path, members: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with tarfile.open(path, "w") as archive:
        for member, content in members:
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def refuse_archive(path, message: str) -> None:
    with pytest.raises(InputError, match=message), open_archive(path) as archive:
        for name in archive.sizes:
            archive.read(name)


def test_archives_write_nowhere_else(tmp_path):
    (tmp_path / "folder").mkdir()
    write_tar(tmp_path / "up.tar", [(tarfile.TarInfo("../mark"), b"x")])
    link = tarfile.TarInfo("door")
    link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
    write_tar(tmp_path / "link.tar", [(link, b""), (tarfile.TarInfo("door/mark"), b"x")])
    with zipfile.ZipFile(tmp_path / "up.zip", "w") as archive:
        archive.writestr("../mark", "x")

    def unpack_tar(path):
        with tarfile.open(path) as archive:
            archive.extractall(tmp_path / "folder", filter="fully_trusted")

    def unpack_zip(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                (tmp_path / "folder" / name).write_bytes(archive.read(name))

    for name, unpack, message in (
        ("up.tar", unpack_tar, "mark would lie outside"),
        ("link.tar", unpack_tar, "door is a link"),
        ("up.zip", unpack_zip, "mark would lie outside"),
    ):
        unpack(tmp_path / name)
        assert (tmp_path / "mark").exists(), f"{name} is no attack"
        (tmp_path / "mark").unlink()
        refuse_archive(tmp_path / name, message)
        assert not (tmp_path / "mark").exists()


def test_negative_sizes_in_a_tar(tmp_path):
    """tarfile finds the next member by the size of this one, so a negative size leads back to it forever."""
    for kind, message in (
        (tarfile.REGTYPE, "a has -1024 bytes"),
        (tarfile.XHDTYPE, "attributes of a have -1024 bytes"),
    ):
        member = tarfile.TarInfo("a")
        member.type, member.size = kind, -1024
        (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
        refuse_archive(tmp_path / "a.tar", message)


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_damage_inside_a_compressed_tar(tmp_path, kind):
    path = tmp_path / f"a.tar.{kind}"
    with tarfile.open(path, f"w:{kind}") as archive:
        member = tarfile.TarInfo("a")
        member.size = MIB
        archive.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(MIB)))
    content = bytearray(path.read_bytes())
    place = len(content) * 19 // 20  # beyond the part that is read to open it
    content[place : place + 64] = bytes(64)
    path.write_bytes(content)
    refuse_archive(path, rf"a\.tar\.{kind} is damaged")


def test_a_zip_with_impossible_offsets(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"")
        archive.infolist()[0].filename = ""
    refuse_archive(tmp_path / "a.zip", "damaged")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"a")
        archive.infolist()[0].header_offset = (1 << 64) - 1
    refuse_archive(tmp_path / "a.zip", "damaged")


def test_a_failing_disk_is_not_reported_as_damage(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"a")

    def fail(*_):
        raise OSError(errno.EIO, "Input/output error")

    with open_archive(tmp_path / "a.zip") as archive:
        monkeypatch.setattr(zipfile.ZipExtFile, "read", fail)
        with pytest.raises(OSError, match="Input/output error") as caught:
            archive.read("a")
    assert caught.value.errno == errno.EIO


# arrays


def npy(header: str, content: bytes = b"") -> bytes:
    header = header.ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


def write_npz(path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)


def test_named_arrays_equal_those_of_numpy(tmp_path):
    arrays = {
        "f": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "swapped": np.arange(3, dtype=">i4"),
        "text": np.array(["ab", "c"]),
        "single": np.array(2.5),
        "empty": np.zeros((0, 4), np.float16),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **arrays)
        loaded = load_named_arrays(tmp_path / "a.npz")
        assert loaded.keys() == arrays.keys()
        for name, array in arrays.items():
            assert loaded[name].dtype == array.dtype
            assert np.array_equal(loaded[name], array)
            assert loaded[name].shape == array.shape


def test_arrays_execute_nothing(tmp_path):
    mark, path = tmp_path / "mark", tmp_path / "a.npz"
    np.savez(path, cams=np.array([Touch(mark)], object), classes=np.array([1], np.uint8))
    with np.load(path, allow_pickle=True) as arrays, contextlib.suppress(Exception):
        arrays["cams"]
    assert mark.exists()
    mark.unlink()
    for load in (load_cams, load_named_arrays):
        with pytest.raises(InputError, match=r"a\.npz cannot be read as named arrays \(cams\.npy is pickled"):
            load(path)
    assert not mark.exists()


@pytest.mark.parametrize("shape", ["(1152921504606846976,)", "(65536, 65536, 65536)", "(1 << 40,)", "(-1,)", "(3.0,)"])
def test_shapes_larger_than_the_file(tmp_path, shape):
    """numpy allocates the shape in the header, which may raise MemoryError."""
    content = npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}", bytes(16))
    write_npz(tmp_path / "a.npz", cams=content, classes=content)
    with pytest.raises((MemoryError, ValueError)), np.load(tmp_path / "a.npz") as arrays:
        arrays["cams"]
    with pytest.raises(InputError, match=r"a\.npz cannot be read as named arrays"):
        load_cams(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"cams": np.zeros((1, 2, 2), np.float16)}, "holds cams, not `cams` and `classes`"),
        ({}, "holds nothing"),
        ({"cams": np.zeros((1, 2), np.float16), "classes": np.ones(1, np.uint8)}, r"cams float16 \[1, 2\]"),
        ({"cams": np.zeros((2, 2, 2), np.float16), "classes": np.ones(1, np.uint8)}, r"classes uint8 \[1\]"),
        ({"cams": np.zeros((1, 2, 2), np.complex64), "classes": np.ones(1, np.uint8)}, "complex64"),
        ({"cams": np.array("x"), "classes": np.ones(1, np.uint8)}, "cams <U1"),
        ({"cams": np.zeros((1, 2, 2), np.float16), "classes": np.ones(1)}, "classes float64"),
        ({"cams": np.full((1, 2, 2), np.nan, np.float16), "classes": np.ones(1, np.uint8)}, "not finite"),
        ({"cams": np.full((1, 2, 2), np.inf, np.float32), "classes": np.ones(1, np.uint8)}, "not finite"),
    ],
)
def test_files_that_are_not_cams(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=rf"a\.npz .*{message}"):
        load_cams(tmp_path / "a.npz")


def test_an_array_named_as_an_archive(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"a\.npz cannot be read as named arrays"):
        load_cams(tmp_path / "a.npz")
