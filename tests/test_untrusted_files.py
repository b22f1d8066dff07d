"""Files made to do harm: beside each refusal stands what the plain loader would have done.

Checkpoints are in test_untrusted_checkpoints.py, pickles in test_image_labels.py and test_restricted_tensors.py,
archives of VOC in test_prepare_voc12.py.
"""

import contextlib
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path, PureWindowsPath

import cv2
import numpy as np
import pytest
from PIL import Image

from datasets.picture_checks import Picture, check_picture
from formats import npz_files
from formats.cams import load_cams
from formats.errors import InputError
from formats.image_headers import size_in_header
from formats.images import image_size, load_grey, load_image, save_grey
from formats.labels import load_label
from formats.npz_files import load_named_arrays
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


def lying_zip(path, name: str, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> None:
    """A zip whose directory says that the file has 100 bytes."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(name, content)
    path.write_bytes(path.read_bytes().replace(struct.pack("<L", len(content)), struct.pack("<L", 100)))


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_a_zip_of_other_compressions(tmp_path, compression):
    """Of these zipfile unpacks all there is, even where it is asked for some bytes."""
    lying_zip(tmp_path / "bomb.zip", "cams.npy", bytes(BOMB), compression)

    def plain():
        with zipfile.ZipFile(tmp_path / "bomb.zip") as archive, archive.open("cams.npy") as file:
            file.read(100)

    assert peak_of(plain) > BOMB
    assert peak_of(load_named_arrays, tmp_path / "bomb.zip") < 4 * MIB
    with pytest.raises(InputError, match=r"bomb\.zip .*cams\.npy is neither stored nor deflated"):
        load_named_arrays(tmp_path / "bomb.zip")


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
        with pytest.raises(InputError, match=r"a\.npz cannot be read as named arrays \(cams\.npy is pickled"):
            load(path)
    assert not mark.exists()


def test_arrays_do_not_fill_the_memory(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, cams=np.zeros((1, 2048, 2048), np.float32), classes=np.ones(1, np.uint8))
    assert path.stat().st_size < MIB
    with np.load(path) as arrays:
        assert peak_of(lambda: arrays["cams"]) > BOMB
    monkeypatch.setattr(npz_files, "LARGEST_ARCHIVE", MIB)
    assert peak_of(load_cams, path) < 4 * MIB
    with pytest.raises(InputError, match=r"a\.npz .*unpacks to 1677\d+ bytes, more than 1 MiB"):
        load_cams(path)

    lying_zip(path, "cams.npy", npy("{'descr': '|u1', 'fortran_order': False, 'shape': (16777216,)}", bytes(BOMB)))
    assert peak_of(load_cams, path) < 4 * MIB
    with pytest.raises(InputError, match=r"a\.npz"):
        load_cams(path)


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


def test_a_part_of_a_png_does_not_fill_the_memory(tmp_path):
    """OpenCV takes the memory that the length of a part asks for, here 3 GiB, before it looks for its bytes."""
    save_grey(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    place = whole.index(b"IDAT") - 4
    (tmp_path / "a.png").write_bytes(whole[:place] + b"\xc0\0\0\0" + whole[place + 4 :])
    for load in (load_grey, load_image, load_label):
        with pytest.raises(InputError, match=r"a\.png is damaged or cut short"):
            load(tmp_path / "a.png")


def test_a_picture_whose_comment_unpacks_to_too_much(tmp_path):
    comment = b"a\0\0" + zlib.compress(bytes(BOMB))
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"zTXt", comment), (b"IDAT", zlib.compress(b"\0\0")), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    with pytest.raises(InputError, match=r"a\.png is not an image that can be opened: Decompressed data too large"):
        image_size(tmp_path / "a.png")
    findings, _ = check_picture(Picture(tmp_path / "a.png"))
    assert [finding.what for finding in findings] == ["cannot be read"]


# sizes of pictures: what is decoded is 40 × 60


def picture(kind: str, **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)).save(
        file, kind, **settings
    )
    return file.getvalue()


def jpeg_with_a_bare_marker() -> bytes:
    """Behind a marker without length, 0xFFE0 is no length either: that many bytes on lies another frame."""
    content = b"\xff\xd8\xff\xd0" + picture("JPEG")[2:]
    return content.ljust(4 + 0xFFE0, b"\0") + b"\xff\xc0\0\x11\x08\0\2\0\3\3" + bytes(9) + b"\xff\xda\0\0\xff\xd9"


def tiff_with_sides(kind: int, width: int, height: int, repeated: bool) -> bytes:
    """Its directory is written once more behind its end; `repeated`: with these sides behind the true ones."""
    content = picture("TIFF")
    (start,) = struct.unpack_from("<I", content, 4)
    (count,) = struct.unpack_from("<H", content, start)
    entries = [content[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
    sides = [struct.pack("<HHII", 256, kind, 1, width), struct.pack("<HHII", 257, kind, 1, height)]
    entries = [entries[0], sides[0], entries[1], sides[1], *entries[2:]] if repeated else [*sides, *entries[2:]]
    directory = struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return content[:4] + struct.pack("<I", len(content)) + content[8:] + directory


def tiff_with_long_sides() -> bytes:
    """Sides of eight bytes lie elsewhere: where they lie is no size."""
    end = len(tiff_with_sides(16, 0, 0, repeated=False))
    return tiff_with_sides(16, end, end + 8, repeated=False) + struct.pack("<QQ", 60, 40)


def webp_without_chunk() -> bytes:
    """Coded pixels directly in the container, as libwebp reads them too."""
    pixels = picture("WEBP", lossless=True)[20:]
    return b"RIFF" + struct.pack("<I", 4 + len(pixels)) + b"WEBP" + pixels


@pytest.mark.parametrize(
    "make",
    [jpeg_with_a_bare_marker, lambda: tiff_with_sides(4, 3, 2, True), tiff_with_long_sides, webp_without_chunk],
    ids=["bare marker", "repeated", "long", "without chunk"],
)
def test_headers_do_not_hide_the_size_of_a_picture(make):
    content = make()
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR).shape == (40, 60, 3)
    try:
        assert size_in_header(content, "a") == (40, 60)
    except InputError as refused:
        assert str(refused) == "a is damaged or cut short: replace or remove it"


def encoded_by_opencv(suffix: str) -> bytes:
    return cv2.imencode(suffix, np.zeros((40, 60, 3), np.float32 if suffix in (".hdr", ".pfm") else np.uint8))[
        1
    ].tobytes()


@pytest.mark.parametrize("kind", ["GIF", "JPEG2000", "BigTIFF", ".ppm", ".ras", ".hdr", ".pfm"])
def test_pictures_whose_size_is_not_known_are_not_decoded(kind, tmp_path):
    if kind == "BigTIFF":
        content = picture("TIFF", big_tiff=True)
    else:
        content = encoded_by_opencv(kind) if kind.startswith(".") else picture(kind)
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED).shape == (40, 60, 3)
    (tmp_path / "a.png").write_bytes(content)
    for load in (load_image, load_grey):
        with pytest.raises(InputError, match=r"a\.png is not an image: save it as PNG, JPEG"):
            load(tmp_path / "a.png")
    if not kind.startswith("Big"):
        with pytest.raises(InputError, match=r"a\.png is not an image"):
            image_size(tmp_path / "a.png")
