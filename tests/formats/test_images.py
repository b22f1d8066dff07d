"""Images, saliency maps and masks: every mode and format, damaged and unusual files."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from formats.errors import InputError
from formats.images import (
    check_size,
    decode_grey,
    decode_image,
    image_size,
    image_stems,
    load_aligned_grey,
    load_grey,
    load_image,
    load_mask,
    save_grey,
    save_image,
    scale_maps,
)
from formats.labels import load_label, save_label

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "1", "LA"])
def test_maps_in_any_mode(tmp_path, mode):
    grey = RNG.integers(0, 2, (6, 9)).astype(np.uint8) * 255
    image = Image.fromarray(grey.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(grey).convert(mode)
    image.save(tmp_path / "a.png")
    assert np.array_equal(load_grey(tmp_path / "a.png"), grey)


def encode(picture: np.ndarray, format: str = "PNG", **settings) -> bytes:
    file, image = io.BytesIO(), Image.fromarray(picture)
    if "palette" in settings:
        image.putpalette(settings.pop("palette"))
    image.save(file, format, **settings)
    return file.getvalue()


RAMP = np.repeat(np.array([0, 1, 90, 255], np.uint8), 400).reshape(40, 40)
HEAT = cv2.applyColorMap(RAMP, cv2.COLORMAP_JET)
OPAQUE, WHITE = np.full_like(RAMP, 7), np.full_like(RAMP, 255)
INVERSE = np.repeat(np.arange(256, dtype=np.uint8)[::-1], 3).tobytes()
MAPS = {
    "constant alpha": encode(np.dstack([RAMP, RAMP, RAMP, OPAQUE])),
    "grey, constant alpha": encode(np.dstack([RAMP, OPAQUE])),
    "palette of greys": encode(255 - RAMP, palette=INVERSE),
    "16-bit colours": cv2.imencode(".png", np.dstack([RAMP.astype(np.uint16) * 257] * 3))[1].tobytes(),
    "WebP": encode(np.dstack([RAMP] * 3), "WEBP", lossless=True),
    "white on transparent": encode(np.dstack([np.where(RAMP, 255, 9)] * 3 + [RAMP]).astype(np.uint8)),
    "white on transparent, grey": encode(np.dstack([WHITE, RAMP])),
}
NO_MAPS = {
    "heat map": (encode(HEAT), "colours"),
    "heat map, JPEG": (encode(HEAT, "JPEG"), "colours"),
    "red mask": (encode(RAMP // 255, palette=bytes([0, 0, 0, 128, 0, 0])), "colours"),
    "cut-out": (encode(np.dstack([HEAT, RAMP])), "transparency"),
    "black on transparent": (encode(np.dstack([RAMP * 0, RAMP])), "transparency"),
}


@pytest.mark.parametrize("kind", MAPS)
def test_pictures_that_show_a_grey_map(kind):
    assert np.array_equal(decode_grey(MAPS[kind], "a"), RAMP)


@pytest.mark.parametrize("format", ["JPEG", "WEBP"])
def test_lossy_grey_maps_are_as_before(format):
    content = encode(np.dstack([RNG.integers(0, 256, (40, 40)).astype(np.uint8)] * 3), format)
    expected = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert np.array_equal(decode_grey(content, "a"), expected)


@pytest.mark.parametrize("kind", NO_MAPS)
def test_pictures_that_are_no_grey_map(kind):
    content, found = NO_MAPS[kind]
    with pytest.raises(InputError, match=rf"^a\.png holds {found}, so it is no grey map: save it as 8-bit grey"):
        decode_grey(content, "a.png")


@pytest.mark.parametrize(
    ("largest", "scale"), [([1, 0, 1], 255), ([0, 0, 0], 1), ([1, 0, 2], 1), ([0, 90, 1], 1), ([None, 1], 255)]
)
def test_scale_of_the_maps_of_a_folder(largest, scale, tmp_path, capsys):
    """Of 0 and 1 only if all are; None: a damaged map."""
    paths = [tmp_path / f"{number}.png" for number in range(len(largest))]
    for path, value in zip(paths, largest):
        path.write_bytes(b"no picture") if value is None else save_grey(path, np.array([[0, value]], np.uint8))
    maps = scale_maps(paths)
    assert maps == [(path, scale) for path in paths]
    assert load_aligned_grey(maps[1], "a.jpg", (1, 2)).tolist() == [[0, scale * largest[1]]]
    assert ("all 3 maps are empty" in capsys.readouterr().err) == (not any(largest))
    with pytest.raises(InputError, match=r"none\.png does not exist"):  # no map can be read
        scale_maps([tmp_path / "none.png"])


@pytest.mark.parametrize(
    ("size_hw", "way_out"), [((30, 40), "EXIF rotation is ignored, so turn"), ((20, 15), "resize it to 30×40 px")]
)
def test_sizes_that_differ(size_hw, way_out):
    with pytest.raises(InputError, match=rf"a\.png is {size_hw[1]}×{size_hw[0]} px, but b\.jpg is 30×40 px: {way_out}"):
        check_size("a.png", size_hw, "b.jpg", (40, 30))


def test_masks(tmp_path):
    for name, levels, expected in (
        ("grey", [0, 127, 128, 129, 255], [0, 0, 0, 1, 1]),
        ("ones", [0, 1, 0, 1, 1], [0, 1, 0, 1, 1]),
        ("empty", [0] * 5, [0] * 5),
    ):
        save_grey(tmp_path / f"{name}.png", np.array([levels], np.uint8))
        assert load_mask(tmp_path / f"{name}.png").tolist() == [[bool(value) for value in expected]]


def test_exif_rotation_is_ignored(tmp_path):
    image = Image.fromarray(RNG.integers(0, 256, (6, 10, 3)).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert load_image(tmp_path / "a.jpg").shape == (6, 10, 3)


PHOTOGRAPH = RNG.integers(0, 256, (24, 40, 3)).astype(np.uint8)
KINDS = {
    **{f"PNG {mode}": ("PNG", mode, {}) for mode in ("1", "L", "LA", "P", "RGBA")},
    "PNG animated": ("PNG", "RGB", {"save_all": True, "append_images": [Image.fromarray(PHOTOGRAPH[::-1])]}),
    **{f"JPEG {mode}": ("JPEG", mode, {"progressive": True, "quality": 95}) for mode in ("L", "RGB", "CMYK", "YCbCr")},
    "JPEG of two": ("MPO", "RGB", {"save_all": True, "append_images": [Image.fromarray(PHOTOGRAPH[:9])]}),
    **{f"BMP {mode}": ("BMP", mode, {}) for mode in ("L", "P", "RGBA")},
    **{f"TIFF {mode}": ("TIFF", mode, {"compression": "tiff_lzw"}) for mode in ("L", "P", "RGBA")},
    "WebP animated": ("WEBP", "RGB", {"save_all": True, "append_images": [Image.fromarray(PHOTOGRAPH[::-1])]}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind(kind):
    """Pixels are those of Pillow, up to compression."""
    format, mode, settings = KINDS[kind]
    picture, file = Image.fromarray(PHOTOGRAPH).convert(mode), io.BytesIO()
    picture.save(file, format, **settings)
    image = decode_image(file.getvalue(), "a")
    assert (image.shape, image.dtype) == ((24, 40, 3), np.uint8)
    assert image_size(file.getvalue(), "a") == (24, 40)
    with Image.open(file) as expected:
        assert np.abs(image.astype(int) - np.asarray(expected.convert("RGB"))).mean() < 4


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
        (tmp_path / "a.png").write_bytes(content)
        for load in (load_label, load_grey, load_image):
            with pytest.raises(InputError, match=r"a\.png "):
                load(tmp_path / "a.png")


def test_images_in_other_formats_are_not_decoded(tmp_path):
    """OpenCV could decode them."""
    content = cv2.imencode(".ppm", np.zeros((40, 60, 3), np.uint8))[1]
    assert cv2.imdecode(content, cv2.IMREAD_UNCHANGED).shape == (40, 60, 3)
    (tmp_path / "a.png").write_bytes(content.tobytes())
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
