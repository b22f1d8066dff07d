"""Label maps: agreement with PIL, round trips, colours, damaged files."""

import numpy as np
import pytest
from PIL import Image

from formats.errors import InputError, MissingInputError
from formats.images import save_image
from formats.labels import VOC_PALETTE, decode_label, load_label, save_label

RNG = np.random.default_rng(0)


def test_palette_is_that_of_voc():
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128), 255: (224, 224, 192)}
    assert {label: tuple(VOC_PALETTE[label].tolist()) for label in known} == known


@pytest.mark.parametrize("shape", [(1, 9), (33, 47)])
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
    for length in (0, 20, 60, len(whole) - 14):
        with pytest.raises(InputError, match=r"^cut\.png"):
            decode_label(whole[:length], "cut.png")
    with pytest.raises(MissingInputError, match="does not exist"):
        load_label(tmp_path / "none.png")
    save_image(tmp_path / "a.jpg", np.zeros((5, 5, 3), np.uint8))
    with pytest.raises(InputError, match="not a PNG"):
        load_label(tmp_path / "a.jpg")


def test_labels_of_voc_equal_pil(real_data):
    paths = sorted((real_data / "voc12-val-masks").rglob("*.png"))[::50]
    assert paths
    for path in paths:
        with Image.open(path) as image:
            assert np.array_equal(load_label(path), np.array(image)), path
