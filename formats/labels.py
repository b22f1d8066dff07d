"""Label maps as files: 8-bit palette PNG with the VOC palette; 0 = background, 255 = ignore.

A palette PNG differs from a grey one of equal depth in one header byte and the palette chunk. Reading and writing
change just these, so that OpenCV does the rest without ever turning indices into colours.
"""

import cv2
import numpy as np

from formats.atomic_files import write_bytes
from formats.errors import InputError
from formats.image_headers import GREY, PALETTE, check_pixels, join_png, png_chunks, png_format
from formats.images import read_bytes

IGNORE_LABEL = 255


def voc_palette() -> np.ndarray:
    """The VOC colour map, uint8 [256, 3]: the bits of the label, three at a time, from the highest colour bit down."""
    labels = np.arange(256)
    palette = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            palette[:, channel] |= ((labels >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return palette


VOC_PALETTE = voc_palette()


def save_label(path, label: np.ndarray) -> None:
    """Writes uint8 [H, W] as palette PNG."""
    if label.ndim != 2 or label.dtype != np.uint8:
        raise ValueError(f"{path}: a label map is uint8 [H, W], got {label.dtype} {list(label.shape)}")
    _, encoded = cv2.imencode(".png", label)
    header, *others = png_chunks(encoded.tobytes(), path)
    write_bytes(path, join_png([_of_colour_type(PALETTE, header), (b"PLTE", VOC_PALETTE.tobytes()), *others]))


def load_label(path) -> np.ndarray:
    """uint8 [H, W] of class indices from a palette or grey PNG; from RGB if every colour is one of the VOC palette.

    Raises `InputError` for anything else, naming the file.
    """
    return decode_label(read_bytes(path), path)


def decode_label(content: bytes, path) -> np.ndarray:
    """What `load_label` gives, from the bytes of a file; `path` is for the error message."""
    chunks = png_chunks(content, path)
    form = png_format(chunks)
    check_pixels(form.size_hw, path)
    if form.colour_type == PALETTE:
        kept = [chunk for chunk in chunks[1:] if chunk[0] not in (b"PLTE", b"tRNS")]
        content = join_png([_of_colour_type(GREY, chunks[0]), *kept])
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:  # absurd dimensions
        image = None
    if image is None:
        raise InputError(f"{path} is damaged: make it again")
    if image.ndim == 3 and image.shape[2] >= 3:
        return _labels_of_colours(image[:, :, 2::-1], path)
    if image.ndim != 2 or image.dtype != np.uint8:
        raise InputError(f"{path} holds {image.dtype} {list(image.shape)}: labels are 8-bit palette PNGs")
    if form.depth < 8:  # the decoder stretches 1, 2 and 4 bits to 0..255
        image = image // (255 // (2**form.depth - 1))
    return image


def check_labels(label: np.ndarray, num_labels: int, path) -> None:
    """Raises `InputError` unless a label map holds 0..num_labels-1 and 255 alone."""
    unknown = label[(label >= num_labels) & (label != IGNORE_LABEL)]
    if unknown.size:
        raise InputError(
            f"{path} holds the labels {np.unique(unknown).tolist()}, but there are only 0 to {num_labels - 1} and 255"
        )


def paint_label(label: np.ndarray) -> np.ndarray:
    """The colours of a label map: uint8 [H, W] → RGB uint8 [H, W, 3]."""
    return VOC_PALETTE[label]


def _labels_of_colours(rgb: np.ndarray, path) -> np.ndarray:
    weights = np.array([65536, 256, 1])
    codes = rgb.astype(np.int64) @ weights
    palette_codes = VOC_PALETTE.astype(np.int64) @ weights
    order = np.argsort(palette_codes)
    place = np.minimum(np.searchsorted(palette_codes[order], codes), 255)
    labels = order[place].astype(np.uint8)
    unknown = palette_codes[labels] != codes
    if unknown.any():
        colour = rgb[unknown][0].tolist()
        raise InputError(f"{path} holds the colour {colour}, which is not in the VOC palette: save it as palette PNG")
    return labels


def _of_colour_type(colour_type: int, header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    kind, data = header
    return kind, data[:9] + bytes([colour_type]) + data[10:]
