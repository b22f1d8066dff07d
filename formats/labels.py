"""Label maps as files: 8-bit palette PNG with the VOC palette; 0 = background, 255 = ignore."""

import io
import zlib

import numpy as np
from PIL import Image

from formats.atomic_files import atomic_path
from formats.errors import InputError
from formats.images import PNG_BIT_DEPTH, open_image, read_bytes

IGNORE_LABEL = 255


def build_voc_palette() -> np.ndarray:
    """Build the VOC colour map, uint8 [256, 3], by the bits of the label, as VOC's development kit does."""
    bits = np.arange(256)[:, None] >> np.arange(3)  # [256, 3], every third bit belongs to a channel
    return sum((bits >> 3 * place & 1) << (7 - place) for place in range(8)).astype(np.uint8)


VOC_PALETTE = build_voc_palette()


def save_label(path, label: np.ndarray) -> None:
    """Save a label map, uint8 [H, W], as palette PNG."""
    assert label.ndim == 2 and label.dtype == np.uint8, f"{path}: {label.dtype} {list(label.shape)}"
    image = Image.fromarray(label)
    image.putpalette(VOC_PALETTE.tobytes())
    with atomic_path(path) as temporary:
        # run-length encoding is efficient for label maps and takes a third of the default's time
        image.save(temporary, "PNG", compress_type=zlib.Z_RLE)


def load_label(path) -> np.ndarray:
    """Load class indices, uint8 [H, W], from a palette or grey PNG, or from an RGB PNG in colours of the VOC palette.

    Raises `InputError` if it has another mode, more than 8 bits, or is damaged.
    """
    return decode_label(read_bytes(path), path)


def decode_label(content: bytes, path) -> np.ndarray:
    """Do the same as `load_label` with the bytes of a file; `path` appears in error messages."""
    with open_image(io.BytesIO(content), path, formats=("PNG",)) as image:
        image.verify()  # checksums, which decoding ignores; Pillow wants the file to be opened again afterwards
    with open_image(io.BytesIO(content), path, formats=("PNG",)) as image:
        if image.mode in ("RGB", "RGBA"):
            return _find_colours(np.asarray(image.convert("RGB")), path)
        if image.mode not in ("P", "L", "1"):
            raise InputError(f"{path} has the mode {image.mode}: labels are 8-bit palette PNGs")
        label = np.array(image).astype(np.uint8)
    bit_depth = content[PNG_BIT_DEPTH]
    if image.mode == "L" and bit_depth < 8:  # Pillow scales grey values of 2 and 4 bits to 0..255
        label //= 255 // (2**bit_depth - 1)
    return label


def check_labels(label: np.ndarray, num_labels: int, path) -> None:
    """Raise `InputError` unless a label map holds only 0..num_labels-1 and 255."""
    unknown = np.unique(label[(label >= num_labels) & (label != IGNORE_LABEL)]).tolist()
    if unknown:
        raise InputError(f"{path} holds the labels {unknown}, but there are only 0 to {num_labels - 1} and 255")


def paint_label(label: np.ndarray) -> np.ndarray:
    """Paint a label map in the colours of the VOC palette: uint8 [H, W] → RGB uint8 [H, W, 3]."""
    return VOC_PALETTE[label]


def _find_colours(rgb: np.ndarray, path) -> np.ndarray:
    """Convert RGB [H, W, 3] to labels [H, W]; colours outside the VOC palette are an `InputError`."""
    palette = VOC_PALETTE.tolist()
    colours, places = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    unknown = next((colour for colour in colours.tolist() if colour not in palette), None)
    if unknown:
        raise InputError(f"{path} holds the colour {unknown}, which is not in VOC's palette: save it as palette PNG")
    labels = np.array([palette.index(colour) for colour in colours.tolist()], np.uint8)
    return labels[places].reshape(rgb.shape[:2])
