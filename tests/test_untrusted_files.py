"""Files made to do harm: beside each refusal stands what the plain loader would have done.

Checkpoints are in test_untrusted_checkpoints.py, pickles in test_image_labels.py and test_restricted_tensors.py,
archives of VOC in test_prepare_voc12.py.
"""

import contextlib
import errno
import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import zipfile
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets import archive_files
from datasets.archive_files import open_archive
from formats.cams import load_cams, load_named_arrays
from formats.errors import InputError
from formats.images import image_size, load_grey, load_image
from formats.pickles import load_object_array
from formats.voc_layout import load_ids

MIB = 1 << 20
BOMB = 16 * MIB  # what small files unpack to: several times of what reading them may take


class Touch:
    """Pickles as a call that leaves a file behind."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


def peak_of(function, *args) -> int:
    """Bytes that a call holds at its worst, whether it fails or not."""
    tracemalloc.start()
    with contextlib.suppress(Exception):
        function(*args)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


# lists of ids


@pytest.mark.parametrize(
    "name", ["../outside", "below/../../outside", "ABSOLUTE/outside", "./x", "/JPEGImages/../../x"]
)
def test_ids_lead_nowhere_else(tmp_path, name):
    name = name.replace("ABSOLUTE", str(tmp_path))
    folder = tmp_path / "labels"
    (folder / "below").mkdir(parents=True)
    (tmp_path / "ids.txt").write_text(f"a\n{name}\n")
    plain = Path(os.path.normpath(folder / f"{name}.png"))  # where the plain writer would write
    assert plain.parent != folder or name == "./x"
    with pytest.raises(InputError, match=r"ids\.txt holds '.*': an id is the name of a file"):
        load_ids(tmp_path / "ids.txt")


@pytest.mark.parametrize("name", ["..\\outside", "C:\\outside", "C:outside", "\\outside", "below\\..\\..\\outside"])
def test_ids_lead_nowhere_else_on_windows(tmp_path, name):
    (tmp_path / "ids.txt").write_text(f"{name}\n")
    plain = PureWindowsPath("D:/labels") / name
    assert ".." in plain.parts or not plain.is_relative_to("D:/labels")
    with pytest.raises(InputError, match="an id is the name of a file"):
        load_ids(tmp_path / "ids.txt")


@pytest.mark.parametrize("name", ["a\0b", "a\x1b[2Jb", "..", ".", ".jpg", "/JPEGImages/...jpg", "/JPEGImages/.jpg"])
def test_ids_that_are_no_names(tmp_path, name):
    (tmp_path / "ids.txt").write_text(f"a\n{name}\n")
    with pytest.raises(InputError, match="an id is the name of a file") as caught:
        load_ids(tmp_path / "ids.txt")
    assert str(caught.value).isprintable()  # no control character reaches the terminal


def test_forms_of_lists(tmp_path):
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


def test_attributes_of_a_tar_do_not_fill_the_memory(tmp_path):
    """They are read as a whole before the file that they belong to is known."""
    attributes = tarfile.TarInfo("attributes")
    attributes.type, attributes.size = tarfile.XHDTYPE, BOMB
    header = attributes.tobuf(tarfile.USTAR_FORMAT)
    path = tmp_path / "bomb.tar.gz"
    path.write_bytes(gzip.compress(header + bytes(BOMB) + bytes(10240), 1))
    assert path.stat().st_size < MIB
    assert peak_of(lambda: tarfile.open(path)) > BOMB
    assert peak_of(refuse_archive, path, "attributes have") < 4 * MIB
    refuse_archive(path, r"attributes of attributes have 16777216 bytes")


def test_archives_of_countless_files(tmp_path, monkeypatch):
    monkeypatch.setattr(archive_files, "MOST_MEMBERS", 100)
    write_tar(tmp_path / "many.tar", [(tarfile.TarInfo(f"a{index}"), b"") for index in range(101)])
    refuse_archive(tmp_path / "many.tar", r"many\.tar holds more than 100 files")
    monkeypatch.setattr(archive_files, "LARGEST_TOTAL", 100)
    write_tar(tmp_path / "large.tar", [(tarfile.TarInfo(name), bytes(60)) for name in "abc"])
    whole = (tmp_path / "large.tar").read_bytes()
    (tmp_path / "large.tar").write_bytes(whole[:2100])  # what follows is not looked at
    refuse_archive(tmp_path / "large.tar", "would unpack to 120 bytes")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as archive:
        for index in range(101):
            archive.writestr(f"a{index}", b"")
    refuse_archive(tmp_path / "many.zip", r"many\.zip holds more than 100 files")


def test_files_of_less_than_nothing(tmp_path):
    """Tarfile takes the size of a file as the way to the next: one below zero leads back, again and again."""
    for kind, message in (
        (tarfile.REGTYPE, "a has -1024 bytes"),
        (tarfile.XHDTYPE, "attributes of a have -1024 bytes"),
    ):
        member = tarfile.TarInfo("a")
        member.type, member.size = kind, -1024
        (tmp_path / "a.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
        refuse_archive(tmp_path / "a.tar", message)


def lying_zip(path, name: str, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> None:
    """A zip whose directory says that the file has 100 bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", len(content)), struct.pack("<L", 100)))


def test_a_zip_does_not_unpack_more_than_it_says(tmp_path):
    lying_zip(tmp_path / "bomb.zip", "mask.png", bytes(BOMB))

    def plain():
        with zipfile.ZipFile(tmp_path / "bomb.zip") as archive:
            archive.read("mask.png")

    assert peak_of(plain) > BOMB
    assert peak_of(refuse_archive, tmp_path / "bomb.zip", "CRC") < 4 * MIB
    refuse_archive(tmp_path / "bomb.zip", r"bomb\.zip is damaged.*CRC")


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_of_other_compressions(tmp_path, compression):
    """Of these zipfile unpacks all there is, even where it is asked for some bytes."""
    lying_zip(tmp_path / "bomb.zip", "cams.npy", bytes(BOMB), compression)

    def plain():
        with zipfile.ZipFile(tmp_path / "bomb.zip") as archive, archive.open("cams.npy") as file:
            file.read(100)

    assert peak_of(plain) > BOMB
    assert peak_of(refuse_archive, tmp_path / "bomb.zip", "cams") < 4 * MIB
    refuse_archive(tmp_path / "bomb.zip", r"cams\.npy is neither stored nor deflated")


@pytest.mark.parametrize("kind", ["bz2", "xz"])
def test_damage_inside_a_compressed_tar(tmp_path, kind):
    path = tmp_path / f"a.tar.{kind}"
    with tarfile.open(path, f"w:{kind}") as archive:
        member = tarfile.TarInfo("a")
        member.size = MIB
        archive.addfile(member, io.BytesIO(np.random.default_rng(0).bytes(MIB)))
    content = bytearray(path.read_bytes())
    place = len(content) * 19 // 20  # beyond what is read to open it
    content[place : place + 64] = bytes(64)
    path.write_bytes(content)
    refuse_archive(path, rf"a\.tar\.{kind} is damaged")


def test_a_zip_with_absurd_places(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"")
        archive.infolist()[0].filename = ""
    refuse_archive(tmp_path / "a.zip", "damaged")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a", b"a")
        archive.infolist()[0].header_offset = (1 << 64) - 1
    refuse_archive(tmp_path / "a.zip", "damaged")


def test_a_disk_that_fails_is_no_damage(tmp_path, monkeypatch):
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


def test_named_arrays_are_those_of_numpy(tmp_path):
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
        with pytest.raises(InputError, match=r"a\.npz cannot be read as named arrays \(Object arrays cannot be loaded"):
            load(path)
    assert not mark.exists()


@pytest.mark.parametrize("shape", ["(1152921504606846976,)", "(65536, 65536, 65536)", "(1 << 40,)", "(-1,)", "(3.0,)"])
def test_shapes_that_a_file_does_not_hold(tmp_path, shape):
    """Numpy takes memory for what a header says, which may end in a MemoryError."""
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
def test_maps_that_are_none(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=rf"a\.npz .*{message}"):
        load_cams(tmp_path / "a.npz")


def test_an_array_where_an_archive_belongs(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"a\.npz cannot be read as named arrays"):
        load_cams(tmp_path / "a.npz")


# pickles


def test_the_memo_of_a_pickle_does_not_fill_the_memory(tmp_path):
    """A value may be kept under any number, and the table of kept values is as long as the largest."""
    bomb = b"\x80\x02]r" + struct.pack("<L", 1 << 20) + b"."
    assert peak_of(pickle.loads, bomb) > BOMB
    stream = io.BytesIO()
    np.save(stream, np.array({}, object), allow_pickle=True)
    (tmp_path / "a.npy").write_bytes(stream.getvalue()[:128] + bomb)
    assert peak_of(load_object_array, tmp_path / "a.npy") < 4 * MIB
    with pytest.raises(InputError, match=r"a\.npy .*it keeps a value under the number 1048576"):
        load_object_array(tmp_path / "a.npy")


# pictures


def picture(kind: str, **settings) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (60, 40)).save(file, kind, **settings)
    return file.getvalue()


def encoded_by_opencv(suffix: str) -> bytes:
    return cv2.imencode(suffix, np.zeros((40, 60, 3), np.float32 if suffix in (".hdr", ".pfm") else np.uint8))[
        1
    ].tobytes()


@pytest.mark.parametrize("kind", ["GIF", "JPEG2000", ".ppm", ".ras", ".hdr", ".pfm"])
def test_pictures_of_other_formats_are_not_decoded(kind, tmp_path):
    content = encoded_by_opencv(kind) if kind.startswith(".") else picture(kind)
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED).shape == (40, 60, 3)
    (tmp_path / "a.png").write_bytes(content)
    for load in (load_image, load_grey, image_size):
        with pytest.raises(InputError, match=r"a\.png is not a PNG/JPEG/BMP/TIFF/WEBP file"):
            load(tmp_path / "a.png")
