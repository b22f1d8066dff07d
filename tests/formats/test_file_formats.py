"""Label, saliency map, CAM and image files: agreement with PIL, round trips, damaged and unusual files."""

import io
import os
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from formats.atomic_files import atomic_path, write_bytes
from formats.cams import load_cams, save_cams
from formats.errors import InputError, MissingInputError
from formats.images import (
    decode_grey,
    decode_image,
    decode_size,
    image_size,
    image_stems,
    load_grey,
    load_image,
    load_mask,
    save_grey,
    save_image,
)
from formats.labels import VOC_PALETTE, decode_label, load_label, save_label

RNG = np.random.default_rng(0)


def test_palette_is_that_of_voc():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {label: tuple(VOC_PALETTE[label].tolist()) for label in known} == known


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 1), (33, 47)])
def test_label_round_trip_and_pil(tmp_path, shape):
    label = RNG.integers(0, 256, shape).astype(np.uint8)
    save_label(tmp_path / "a.png", label)
    assert np.array_equal(load_label(tmp_path / "a.png"), label)
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "P"
        assert np.array_equal(np.array(image), label)
        assert np.array_equal(np.array(image.getpalette()).reshape(-1, 3), VOC_PALETTE)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("mode", ["L", "P"])
def test_labels_of_every_bit_depth(tmp_path, bits, mode):
    label = RNG.integers(0, 2**bits, (13, 22)).astype(np.uint8)
    image = Image.fromarray(label)
    if mode == "P":
        image = image.convert("L")
        image.putpalette(RNG.integers(0, 256, 768).astype(np.uint8).tobytes())
        image.save(tmp_path / "a.png", bits=bits, transparency=0)
    else:
        image.save(tmp_path / "a.png")
    assert np.array_equal(load_label(tmp_path / "a.png"), label)


def test_labels_as_colours(tmp_path):
    label = RNG.choice([0, 3, 20, 255], (9, 8)).astype(np.uint8)
    Image.fromarray(VOC_PALETTE[label]).save(tmp_path / "a.png")
    assert np.array_equal(load_label(tmp_path / "a.png"), label)
    Image.fromarray(np.full((4, 4, 3), 7, np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png holds the colour \[7, 7, 7\]"):
        load_label(tmp_path / "b.png")


def test_damaged_labels(tmp_path):
    save_label(tmp_path / "a.png", np.zeros((40, 40), np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    for length in (0, 4, 20, 60, len(whole) - 14):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.png"):
            load_label(tmp_path / "cut.png")
    with pytest.raises(MissingInputError, match="does not exist"):
        load_label(tmp_path / "none.png")
    save_image(tmp_path / "a.jpg", np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(InputError, match="not a PNG"):
        load_label(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="uint8"):
        save_label(tmp_path / "x.png", np.zeros((4, 4)))


def test_labels_of_voc_equal_pil(real_data):
    paths = sorted((real_data / "voc12-val-masks").rglob("*.png"))[::50]
    assert paths
    for path in paths:
        with Image.open(path) as image:
            assert np.array_equal(load_label(path), np.array(image)), path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "1", "LA"])
def test_maps_in_any_mode(tmp_path, mode):
    grey = RNG.integers(0, 2, (6, 9)).astype(np.uint8) * 255
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "a.png")
    assert np.array_equal(load_grey(tmp_path / "a.png"), grey)


def test_masks(tmp_path):
    for name, levels, expected in (
        ("grey", [0, 127, 128, 129, 255], [0, 0, 0, 1, 1]),
        ("ones", [0, 1, 0, 1, 1], [0, 1, 0, 1, 1]),
        ("empty", [0] * 5, [0] * 5),
    ):
        save_grey(tmp_path / f"{name}.png", np.array([levels], np.uint8))
        assert load_mask(tmp_path / f"{name}.png").tolist() == [[bool(value) for value in expected]]


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P"])
def test_images_in_any_mode(tmp_path, mode):
    suffix = ".jpg" if mode == "CMYK" else ".png"
    Image.fromarray(np.full((8, 6, 3), 102, np.uint8)).convert(mode).save(tmp_path / f"a{suffix}")
    image = load_image(tmp_path / f"a{suffix}")
    assert image.shape == (8, 6, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - 102).max() <= 6


def test_exif_rotation_is_ignored(tmp_path):
    image = Image.fromarray(RNG.integers(0, 256, (6, 10, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (6, 10, 3)


def test_unreadable_images(tmp_path):
    for content in (b"", b"no image", struct.pack(">I", 7)):
        (tmp_path / "a.jpg").write_bytes(content)
        with pytest.raises(InputError, match=r"a\.jpg is not a PNG/JPEG"):
            load_image(tmp_path / "a.jpg")


PHOTOGRAPH = RNG.integers(0, 256, (24, 40, 3)).astype(np.uint8)
RARE = {
    **{f"PNG {mode}": ("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")},
    "PNG interlaced": ("PNG", "P", {"bits": 4, "optimize": True}),
    "PNG animated": ("PNG", "RGB", {"save_all": True, "append_images": [Image.fromarray(PHOTOGRAPH[::-1])]}),
    **{f"JPEG {mode}": ("JPEG", mode, {"progressive": True}) for mode in ("L", "RGB", "CMYK", "YCbCr")},
    "JPEG with restarts": ("JPEG", "RGB", {"restart_marker_rows": 1, "optimize": True, "comment": b"\xff\xc0\xff\xda"}),
    "JPEG of two": ("MPO", "RGB", {"save_all": True, "append_images": [Image.fromarray(PHOTOGRAPH[:9])]}),
    **{f"BMP {mode}": ("BMP", mode, {}) for mode in ("1", "L", "P", "RGBA")},
    **{f"TIFF {name}": ("TIFF", "RGB", {"compression": name}) for name in ("tiff_lzw", "tiff_deflate", "packbits")},
    **{f"TIFF {mode}": ("TIFF", mode, {}) for mode in ("1", "L", "P", "RGBA", "I;16")},
    "TIFF of two": ("TIFF", "RGB", {"save_all": True, "append_images": [Image.fromarray(PHOTOGRAPH[:9])]}),
    "WebP animated": ("WEBP", "RGB", {"save_all": True, "append_images": [Image.fromarray(PHOTOGRAPH[::-1])]}),
    "WebP with alpha": ("WEBP", "RGBA", {"lossless": True, "icc_profile": b"x" * 300}),
}


@pytest.mark.parametrize("kind", RARE)
def test_rare_kinds_of_files_are_read(kind):
    """Pillow reads the size that OpenCV decodes."""
    format, mode, settings = RARE[kind]
    if mode == "I;16":
        picture = Image.fromarray(PHOTOGRAPH[:, :, 0].astype(np.uint16))
    else:
        picture = Image.fromarray(PHOTOGRAPH).convert(mode)
    file = io.BytesIO()
    picture.save(file, format, **settings)
    assert decode_image(file.getvalue(), "a").shape == (24, 40, 3)
    assert decode_size(file.getvalue(), "a") == (24, 40)


def test_a_thumbnail_is_not_the_picture():
    """Camera files have a small JPEG in their EXIF data, and may have other data after their end."""
    image = Image.fromarray(RNG.integers(0, 256, (60, 80, 3)).astype(np.uint8))
    thumbnail, file = io.BytesIO(), io.BytesIO()
    image.resize((8, 6)).save(thumbnail, "JPEG")
    image.save(file, "JPEG", exif=b"Exif\0\0" + thumbnail.getvalue())
    content = file.getvalue() + b"\xff\xda a video"
    assert decode_size(content, "a") == (60, 80)
    assert decode_image(content, "a").shape == (60, 80, 3)


@pytest.mark.parametrize("kind", ["JPEG", "JPEG progressive", "PNG", "BMP", "TIFF", "WEBP"])
def test_truncated_images(kind):
    """Neither a missing half nor a missing byte of the pixel data is filled in."""
    file = io.BytesIO()
    Image.fromarray(PHOTOGRAPH).save(file, kind.split()[0], progressive="progressive" in kind)
    content = file.getvalue()
    pixels_end = content.rindex(b"IEND") - 8 if kind == "PNG" else len(content)  # before the checksum
    for length in (0, 4, 20, pixels_end // 2, pixels_end - 20, pixels_end - 1):
        for decode in (decode_image, decode_grey):
            with pytest.raises(InputError, match=r"^a "):
                decode(content[:length], "a")


def test_damaged_pixels_of_a_png(tmp_path):
    """Checksums detect a single wrong bit."""
    save_label(tmp_path / "a.png", RNG.integers(0, 9, (40, 40)).astype(np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    for place in RNG.integers(whole.index(b"IDAT") + 4, len(whole) - 12, 50):
        content = bytearray(whole)
        content[place] ^= 1
        for decode in (decode_label, decode_grey, decode_image):
            with pytest.raises(InputError, match=r"^a "):
                decode(bytes(content), "a")


@pytest.mark.parametrize("kind", ["GIF", "JPEG2000", ".ppm", ".ras", ".hdr", ".pfm"])
def test_images_in_other_formats_are_not_decoded(kind, tmp_path):
    """OpenCV could decode them."""
    if kind.startswith("."):
        dtype = np.float32 if kind in (".hdr", ".pfm") else np.uint8
        content = cv2.imencode(kind, np.zeros((40, 60, 3), dtype))[1].tobytes()
    else:
        file = io.BytesIO()
        Image.new("RGB", (60, 40)).save(file, kind)
        content = file.getvalue()
    assert cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED).shape == (40, 60, 3)
    (tmp_path / "a.png").write_bytes(content)
    for load in (load_image, load_grey, image_size):
        with pytest.raises(InputError, match=r"a\.png is not a PNG/JPEG/BMP/TIFF/WEBP file"):
            load(tmp_path / "a.png")


def test_images_above_the_pixel_limit_are_not_decoded(tmp_path, monkeypatch):
    """An image of 13378×13378 px exceeds Pillow's limit by little, though its file is small."""
    save_label(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    header = b"IHDR" + struct.pack(">II", 13378, 13378) + whole[24:29]
    png = whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]
    (tmp_path / "a.png").write_bytes(png)
    monkeypatch.setattr("cv2.imdecode", None)
    for load in (load_image, load_grey, load_label):
        with pytest.raises(InputError, match=r"a\.png cannot be read as an image: .*178970884 pixels"):
            load(tmp_path / "a.png")


def test_stems(tmp_path):
    save_image(tmp_path / "b.png", np.zeros((2, 2, 3), np.uint8))
    save_image(tmp_path / "a.JPG", np.zeros((2, 2, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    assert list(image_stems(tmp_path)) == ["a", "b"]
    save_image(tmp_path / "a.png", np.zeros((2, 2, 3), np.uint8))
    with pytest.raises(InputError, match="share a stem"):
        image_stems(tmp_path)


def test_cams(tmp_path):
    cams = RNG.random((2, 5, 6)).astype(np.float32)
    save_cams(tmp_path / "a.npz", cams, np.array([3, 7]))
    loaded, classes = load_cams(tmp_path / "a.npz")
    assert np.abs(loaded - cams).max() < 1e-3
    assert classes.tolist() == [3, 7]
    with np.load(tmp_path / "a.npz") as by_numpy:
        assert np.array_equal(by_numpy["cams"], cams.astype(np.float16))
        assert (by_numpy["classes"].tolist(), by_numpy["classes"].dtype) == ([3, 7], np.uint8)
    whole = (tmp_path / "a.npz").read_bytes()
    for content in (b"", whole[:50], b"text"):
        (tmp_path / "b.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"b\.npz"):
            load_cams(tmp_path / "b.npz")
    with pytest.raises(ValueError, match="2 classes"):
        save_cams(tmp_path / "c.npz", cams[:1], np.array([3, 7]))


def test_a_failed_write_keeps_the_old_file(tmp_path):
    write_bytes(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]
