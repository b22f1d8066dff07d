"""Label maps: agreement with PIL, round trips, colours, damaged files."""

import numpy as np
import pytest
from PIL import Image

from formats.errors import InputError, MissingInputError
from formats.images import save_image
from formats.labels import VOC_PALETTE, absent_labels, lack_classes, load_label, save_label

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
    Image.fromarray(np.full((4, 4, 3), (7, 7, 8), np.uint8)).save(tmp_path / "b.png")
    with pytest.raises(InputError, match=r"b\.png holds the colour \[7, 7, 8\]"):
        load_label(tmp_path / "b.png")
    Image.fromarray(np.dstack([label] * 3)).save(tmp_path / "c.png")  # (3, 3, 3) is not a colour of VOC
    assert np.array_equal(load_label(tmp_path / "c.png"), label)


DARK_RED, GREEN, ROSE = ([*VOC_PALETTE[label].tolist()] for label in (1, 2, 15))
PALETTES = {  # colours of the values 0, 1, 2 and, if another, 255
    "renumbered": ([0, 0, 0], ROSE, DARK_RED, None),
    "background moved": (DARK_RED, [0, 0, 0], GREEN, None),
    "own colours": ([0, 0, 0], ROSE, [250, 0, 0], None),
    "one black for all": ([0, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]),
    "own colours, the rest black": ([0, 0, 0], DARK_RED, GREEN, [0, 0, 0]),
    "values as greys": ([0, 0, 0], [1, 1, 1], [2, 2, 2], [255, 255, 255]),
}


@pytest.mark.parametrize("kind", PALETTES)
def test_palettes(kind, tmp_path):
    """Labels are the indices, unless they have colours of VOC that stand for other labels."""
    *colours, last = PALETTES[kind]
    label = np.array([[0, 1, 2, 2 if last is None else 255]], np.uint8)
    image = Image.fromarray(label)
    image.putpalette(np.array([*colours, *[[0, 0, 0]] * 252, last or [9, 9, 9]], np.uint8).tobytes())
    image.save(tmp_path / "a.png")
    if last is None and kind != "own colours":
        with pytest.raises(InputError, match=r"a\.png holds the label \d in the colour of VOC's label \d+: save"):
            load_label(tmp_path / "a.png")
    else:
        assert np.array_equal(load_label(tmp_path / "a.png"), label)


def test_labels_that_are_absent(tmp_path):
    for name, values in (("a", [0, 255]), ("b", [0, 2]), ("c", [3, 1])):
        save_label(tmp_path / f"{name}.png", np.array([values], np.uint8))
    paths = [tmp_path / f"{name}.png" for name in "abc"]
    assert absent_labels(paths, 6) == [4, 5]
    assert absent_labels([*paths, tmp_path / "none.png"], 4) == []  # reading stops when all were seen
    assert lack_classes(paths[:1])
    assert not lack_classes(paths)


def test_damaged_labels(tmp_path):
    save_label(tmp_path / "a.png", np.zeros((40, 40), np.uint8))
    whole = (tmp_path / "a.png").read_bytes()
    for length in (0, 20, 60, len(whole) - 14):
        (tmp_path / "cut.png").write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"cut\.png"):
            load_label(tmp_path / "cut.png")
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
