"""What image files say of themselves before a pixel is decoded: their size, whether a JPEG is whole, and the chunks of
a PNG."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from input_errors import InputError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE = 0, 3  # colour types of a PNG
JPEG_SIGNATURE = b"\xff\xd8\xff"
JPEG_SCAN, JPEG_END = 0xDA, b"\xff\xd9"
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that a size follows
TIFF_WIDTH, TIFF_HEIGHT, TIFF_SHORT = 256, 257, 3


def size_in_header(content: bytes) -> tuple[int, int] | None:
    """(H, W) as a PNG, JPEG, BMP, TIFF or WebP file says; None for other files and damaged headers."""
    for signature, read_size in READERS.items():
        if content.startswith(signature):
            try:
                return read_size(content)
            except (struct.error, KeyError):
                return None
    return None


@dataclass(frozen=True)
class PngFormat:
    """What a PNG says of itself: size, bits of a channel, colour type, and its palette, uint8 [N, 3], if it has one."""

    size_hw: tuple[int, int]
    depth: int
    colour_type: int
    palette: np.ndarray | None


def png_chunks(content: bytes, name) -> list[tuple[bytes, bytes]]:
    """Kind and data of every chunk of a PNG, the header first; `name` is for the error message.

    Raises `InputError` where one claims more bytes than there are, for which OpenCV would take memory, or where one
    that pixels depend on is damaged.
    """
    if not content.startswith(PNG_SIGNATURE):
        raise InputError(f"{name} is not a PNG file: save it as one")
    chunks, place = [], len(PNG_SIGNATURE)
    while not chunks or chunks[-1][0] != b"IEND":
        length, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        data, checksum = content[place + 8 : place + 8 + length], content[place + 8 + length : place + 12 + length]
        is_damaged = kind[:1].isupper() and checksum != struct.pack(">I", zlib.crc32(kind + data))  # upper: critical
        lacks_header = not chunks and (kind != b"IHDR" or length != 13)
        if len(checksum) < 4 or is_damaged or lacks_header:
            raise InputError(f"{name} is damaged or cut short: replace or remove it")
        chunks.append((kind, data))
        place += 12 + length
    return chunks


def png_format(chunks: list[tuple[bytes, bytes]]) -> PngFormat:
    """The format of a PNG from its chunks, no pixel decoded."""
    width, height, depth, colour_type = struct.unpack(">IIBB", chunks[0][1][:10])
    palette = next((data for kind, data in chunks if kind == b"PLTE"), b"")
    colours = np.frombuffer(palette, np.uint8).reshape(-1, 3) if palette and len(palette) % 3 == 0 else None
    return PngFormat((height, width), depth, colour_type, colours)


def join_png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """The PNG that has these chunks."""
    parts = [PNG_SIGNATURE]
    for kind, data in chunks:
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
    return b"".join(parts)


def jpeg_is_cut_short(content: bytes) -> bool:
    """Whether a JPEG lacks the marker of its end, which coded pixels never look like."""
    if not content.startswith(JPEG_SIGNATURE):
        return False
    scans = [place for marker, place in _jpeg_segments(content) if marker == JPEG_SCAN]
    return not scans or content.find(JPEG_END, scans[0]) < 0


def _png_size(content: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from(">II", content, 16)
    return height, width


def _jpeg_size(content: bytes) -> tuple[int, int] | None:
    frames = (place for marker, place in _jpeg_segments(content) if marker in JPEG_FRAMES)
    return next((struct.unpack_from(">HH", content, place + 5) for place in frames), None)


def _jpeg_segments(content: bytes) -> Iterator[tuple[int, int]]:
    """Marker and place of each segment, up to the first that pixels follow; a thumbnail lies within a segment."""
    place = 2
    while place + 4 <= len(content):
        filler, marker, length = struct.unpack_from(">BBH", content, place)
        if filler != 0xFF or marker in (0x00, 0xFF):  # padding
            place += 1
            continue
        yield marker, place
        if marker == JPEG_SCAN:
            return
        place += 2 + length


def _bmp_size(content: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", content, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", content, 18)
    return abs(height), abs(width)  # rows from the top have a negative height


def _webp_size(content: bytes) -> tuple[int, int]:
    kind = content[12:16]
    if kind == b"VP8X":
        (width,), (height,) = struct.unpack_from("<I", content, 24), struct.unpack_from("<I", content, 26)
        width, height = (width & 0xFFFFFF) + 1, (height >> 8) + 1  # three bytes each
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    return height, width


def _tiff_size(content: bytes) -> tuple[int, int]:
    order = "<" if content.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, directory)
    entries = {}
    for place in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", content, place)
        (entries[tag],) = struct.unpack_from(f"{order}{'H' if kind == TIFF_SHORT else 'I'}", content, place + 8)
    return entries[TIFF_HEIGHT], entries[TIFF_WIDTH]


READERS = {
    PNG_SIGNATURE: _png_size,
    JPEG_SIGNATURE: _jpeg_size,
    b"BM": _bmp_size,
    b"RIFF": _webp_size,
    b"II*\0": _tiff_size,
    b"MM\0*": _tiff_size,
}
