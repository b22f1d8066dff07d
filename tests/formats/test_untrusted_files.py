"""Malicious lists, archives and arrays. Each test first shows that the attack works on a plain loader.

Checkpoints are in test_untrusted_checkpoints.py, pickles in test_image_labels.py and test_external_labels.py, archives
of VOC in test_prepare_voc12.py.
"""

import contextlib
import os
import struct
import zipfile
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest

from formats.cams import load_cams, load_named_arrays
from formats.errors import InputError
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
        with pytest.raises(InputError, match=r"a\.npz cannot be read as named arrays \(Object arrays cannot be loaded"):
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
