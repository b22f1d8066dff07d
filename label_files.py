"""Label maps as files: 8-bit palette PNG with the VOC palette; 0 = background, 255 = ignore.

A palette PNG differs from a grey one of equal depth in one header byte and the palette chunk. Reading and writing
change just these, so that OpenCV does the rest without ever turning indices into colours.
"""

import struct
import zlib
from dataclasses import dataclass

import cv2
import numpy as np

from atomic_files import write_bytes
from image_files import PNG_SIGNATURE, read_bytes
from input_errors import InputError

IGNORE_LABEL = 255
GREY, PALETTE = 0, 3  # colour types of the PNG header


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
    chunks = list(_chunks(encoded.tobytes(), path))
    header = chunks[0][1]
    indexed = header[:9] + bytes([PALETTE]) + header[10:]
    chunks[:1] = [(b"IHDR", indexed), (b"PLTE", VOC_PALETTE.tobytes())]
    write_bytes(path, _assemble(chunks))


def load_label(path) -> np.ndarray:
    """uint8 [H, W] of class indices from a palette or grey PNG; from RGB if every colour is one of the VOC palette.

    Raises `InputError` for anything else, naming the file.
    """
    return decode_label(read_bytes(path), path)


def decode_label(content: bytes, path) -> np.ndarray:
    """What `load_label` gives, from the bytes of a file; `path` is for the error message."""
    chunks = _png_chunks(content, path)
    header = chunks[0][1]
    depth, colour_type = header[8], header[9]
    if colour_type == PALETTE:
        grey_header = header[:9] + bytes([GREY]) + header[10:]
        kept = [(kind, data) for kind, data in chunks[1:] if kind not in (b"PLTE", b"tRNS")]
        content = _assemble([(b"IHDR", grey_header), *kept])
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
    if depth < 8:  # the decoder stretches 1, 2 and 4 bits to 0..255
        image = image // (255 // (2**depth - 1))
    return image


@dataclass(frozen=True)
class PngFormat:
    """What a PNG says of itself: size, bits of a channel, colour type, and its palette, uint8 [N, 3], if it has one."""

    size_hw: tuple[int, int]
    depth: int
    colour_type: int
    palette: np.ndarray | None


def png_format(content: bytes, path) -> PngFormat:
    """The format of a PNG from its bytes, no pixel decoded; `path` is for the error message."""
    chunks = _png_chunks(content, path)
    width, height, depth, colour_type = struct.unpack(">IIBB", chunks[0][1][:10])
    palette = next((data for kind, data in chunks if kind == b"PLTE"), b"")
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3) if palette and len(palette) % 3 == 0 else None
    return PngFormat((height, width), depth, colour_type, colours)


def check_labels(label: np.ndarray, num_labels: int, path) -> None:
    """Raises `InputError` unless a label map holds 0..num_labels-1 and 255 alone."""
    present = np.unique(label)
    unknown = present[(present >= num_labels) & (present != IGNORE_LABEL)]
    if unknown.size:
        raise InputError(
            f"{path} holds the labels {unknown.tolist()}, but there are only 0 to {num_labels - 1} and 255"
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


def _png_chunks(content: bytes, path) -> list[tuple[bytes, bytes]]:
    if not content.startswith(PNG_SIGNATURE):
        raise InputError(f"{path} is not a PNG file: labels are 8-bit palette PNGs")
    return list(_chunks(content, path))


def _chunks(content: bytes, path):
    place = len(PNG_SIGNATURE)
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        kind = content[place + 4 : place + 8]
        data = content[place + 8 : place + 8 + length]
        stored = content[place + 8 + length : place + 12 + length]
        if stored != struct.pack(">I", zlib.crc32(kind + data)) or (
            place == len(PNG_SIGNATURE) and (kind != b"IHDR" or length != 13)
        ):
            raise InputError(f"{path} is damaged or cut short: make it again")
        yield kind, data
        place += length + 12
    if place == len(PNG_SIGNATURE):
        raise InputError(f"{path} is damaged or cut short: make it again")


def _assemble(chunks) -> bytes:
    parts = [PNG_SIGNATURE]
    for kind, data in chunks:
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
    return b"".join(parts)
