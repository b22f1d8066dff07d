"""CAM files: round trips, arrays of any kind, and archives that are damaged, malicious or hold something else."""

import struct
import zipfile

import numpy as np
import pytest

from formats.cams import load_cams, save_cams
from formats.errors import InputError


def test_cams(tmp_path):
    cams = np.random.default_rng(0).random((2, 5, 6)).astype(np.float32)
    save_cams(tmp_path / "a.npz", cams, np.array([3, 7]))
    loaded, classes = load_cams(tmp_path / "a.npz")
    assert np.abs(loaded - cams).max() < 1e-3
    assert classes.tolist() == [3, 7]
    with np.load(tmp_path / "a.npz") as by_numpy:
        assert np.array_equal(by_numpy["cams"], cams.astype(np.float16))
        assert (by_numpy["classes"].tolist(), by_numpy["classes"].dtype) == ([3, 7], np.uint8)


@pytest.mark.parametrize("shape", ["(1152921504606846976,)", "(-1,)", "(3.0,)", "(1 << 40,)"])
def test_shapes_larger_than_the_file(tmp_path, shape):
    """numpy allocates the shape in the header, which may raise MemoryError."""
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(16)
        archive.writestr("cams.npy", content)
    with pytest.raises(InputError, match=r"a\.npz cannot be read as named arrays"):
        load_cams(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"cams": np.zeros((1, 2, 2), np.float16)}, r"holds cams float16 \[1, 2, 2\], not"),
        ({}, "holds nothing"),
        ({"cams": np.array([{}], object)}, "cannot be read as named arrays .*it holds pickled objects"),
        ({"cams": np.zeros((1, 2), np.float16), "classes": np.ones(1, np.uint8)}, r"cams float16 \[1, 2\]"),
        ({"cams": np.zeros((2, 2, 2), np.float16), "classes": np.ones(1, np.uint8)}, r"classes uint8 \[1\]"),
        ({"cams": np.array("x"), "classes": np.ones(1, np.uint8)}, "cams <U1"),
        ({"cams": np.zeros((1, 2, 2), np.float16), "classes": np.ones(1)}, "classes float64"),
        ({"cams": np.full((1, 2, 2), np.nan, np.float16), "classes": np.ones(1, np.uint8)}, "not finite"),
    ],
)
def test_files_that_are_not_cams(tmp_path, arrays, message):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=rf"a\.npz .*{message}"):
        load_cams(tmp_path / "a.npz")


def test_damaged_archives(tmp_path):
    path = tmp_path / "a.npz"
    np.save(tmp_path / "array.npy", np.zeros(3))
    np.savez(path, cams=np.zeros(9))
    for content in (b"", path.read_bytes()[:50], b"text", (tmp_path / "array.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npz cannot be read as named arrays"):
            load_cams(path)
