"""Label maps as files: 8-bit palette PNG with the VOC palette; 0 = background, 255 = ignore."""

import zlib
from collections.abc import Iterator
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image

from formats.atomic_files import atomic_path
from formats.errors import InputError, shorten
from formats.images import PNG_BIT_DEPTH, open_verified_png, read_bytes

IGNORE_LABEL = 255


def build_voc_palette() -> np.ndarray:
    """Build the VOC colour map, uint8 [256, 3], by the bits of the label, as VOC's development kit does."""
    bits = np.arange(256)[:, None] >> np.arange(3)  # [256, 3], every third bit belongs to a channel
    return sum((bits >> 3 * place & 1) << (7 - place) for place in range(8)).astype(np.uint8)


VOC_PALETTE = build_voc_palette()
LABEL_OF_COLOUR = {tuple(colour): label for label, colour in enumerate(VOC_PALETTE.tolist())}


def save_label(path, label: np.ndarray) -> None:
    """Save a label map, uint8 [H, W], as palette PNG."""
    assert label.ndim == 2 and label.dtype == np.uint8, f"{path}: {label.dtype} {list(label.shape)}"
    image = Image.fromarray(label)
    image.putpalette(VOC_PALETTE.tobytes())
    with atomic_path(path) as temporary:
        # run-length encoding is efficient for label maps and takes a third of the default's time
        image.save(temporary, "PNG", compress_type=zlib.Z_RLE)


def load_label(path) -> np.ndarray:
    """Load class indices, uint8 [H, W], from a palette or grey PNG, or from an RGB PNG: in colours of the VOC palette,
    or of three equal channels. Raises `InputError` for other modes, VOC's colours at other indices, and damaged files.
    """
    content = read_bytes(path)
    with open_verified_png(content, path) as image:
        if image.mode in ("RGB", "RGBA"):
            return _find_colours(np.asarray(image.convert("RGB")), path)
        if image.mode not in ("P", "L", "1"):
            raise InputError(f"{path} has the mode {image.mode}: save it as 8-bit palette PNG")
        label = np.array(image).astype(np.uint8)
        if image.mode == "P":
            _check_palette(label, image.palette.palette, path)
    bit_depth = content[PNG_BIT_DEPTH]
    if image.mode == "L" and bit_depth < 8:  # Pillow scales grey values of 2 and 4 bits to 0..255
        label //= 255 // (2**bit_depth - 1)
    return label


def lack_classes(paths) -> bool:
    """Return whether label maps hold 255, but no class; reading stops at the first class."""
    values: set[int] = set()
    for path in paths:
        values |= find_values(load_label(path))
        if values - {0, IGNORE_LABEL}:
            return False
    return IGNORE_LABEL in values


def absent_labels(paths, num_labels: int) -> list[int]:
    """List the classes 1..num_labels-1 that no label map holds; reading stops when all were seen."""
    absent = set(range(1, num_labels))
    for path in paths:
        absent -= find_values(load_label(path))
        if not absent:
            break
    return sorted(absent)


def find_values(label: np.ndarray) -> set[int]:
    """Find the values of a label map, uint8 [H, W]."""
    return set(np.flatnonzero(cv2.calcHist([label], [0], None, [256], [0, 256])).tolist())


def find_parts(label: np.ndarray) -> Iterator[tuple[int, np.ndarray, list[int]]]:
    """Yield label, mask bool [H, W], and [x, y, w, h, area] in px of each 8-connected part of a label map.

    label: uint8 [H, W]. Background and 255 have no parts.
    """
    for value in sorted(find_values(label) - {0, IGNORE_LABEL}):
        is_value = (label == value).astype(np.uint8)
        count, parts, boxes, _ = cv2.connectedComponentsWithStats(is_value, connectivity=8)
        for part in range(1, count):
            yield value, parts == part, boxes[part].tolist()


def check_labels(label: np.ndarray, num_labels: int, path) -> None:
    """Raise `InputError` unless a label map holds only 0..num_labels-1 and 255."""
    unknown = shorten(np.unique(label[(label >= num_labels) & (label != IGNORE_LABEL)]))
    if unknown:
        found = f"{path} holds the labels [{unknown}], but there are only 0 to {num_labels - 1} and 255"
        raise InputError(f"{found}: check classes.txt, or make the label again")


def paint_label(label: np.ndarray) -> np.ndarray:
    """Paint a label map in the colours of the VOC palette: uint8 [H, W] → RGB uint8 [H, W, 3]."""
    return VOC_PALETTE[label]


@lru_cache
def _voc_labels(palette: bytes) -> dict[int, int | None]:
    """Map each index of a palette to the label of its colour in VOC's, None for others; {} if no colour was moved."""
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3).tolist()
    labels = {index: LABEL_OF_COLOUR.get(tuple(colour)) for index, colour in enumerate(colours)}
    return labels if any(label not in (None, index) for index, label in labels.items()) else {}


def _check_palette(label: np.ndarray, palette: bytes, path) -> None:
    """Raise `InputError` if the labels have colours of VOC at other indices, as after an optimiser of PNG files."""
    places = _voc_labels(palette)
    labels = {value: places.get(value) for value in find_values(label)} if places else {}
    moved = next((value for value in sorted(labels) if labels[value] != value), None)
    if moved is not None and None not in labels.values() and len(set(labels.values())) == len(labels):
        found = f"{path} holds the label {moved} in the colour of VOC's label {labels[moved]}"
        raise InputError(f"{found}: save it as RGB if the colours are right, or as grey if the numbers are")


def _find_colours(rgb: np.ndarray, path) -> np.ndarray:
    """Convert RGB [H, W, 3] to labels [H, W] by the VOC palette or, if it lacks a colour, from three equal channels."""
    colours, places = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    unknown = next((colour for colour in colours.tolist() if tuple(colour) not in LABEL_OF_COLOUR), None)
    if unknown:
        if np.ptp(colours, axis=1).max() == 0:
            return rgb[:, :, 0].copy()
        raise InputError(f"{path} holds the colour {unknown}, which is not in VOC's palette: save it as palette PNG")
    labels = np.array([LABEL_OF_COLOUR[tuple(colour)] for colour in colours.tolist()], np.uint8)
    return labels[places].reshape(rgb.shape[:2])
