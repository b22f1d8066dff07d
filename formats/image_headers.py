"""What image files say of themselves before a pixel is decoded: their size, whether they are whole, and the chunks of a
PNG."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from formats.errors import InputError

MAX_PIXELS = 178_956_970  # where Pillow refuses too; larger files are more often attacks or mistakes than pictures
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, PALETTE = 0, 3  # colour types of a PNG
JPEG_SIGNATURE = b"\xff\xd8\xff"
JPEG_SCAN, JPEG_END = 0xDA, b"\xff\xd9"
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers that a size follows
JPEG_BARE = {0x01, *range(0xD0, 0xDA)}  # markers that nothing follows
TIFF_WIDTH, TIFF_HEIGHT, TIFF_SHORT, TIFF_LONG = 256, 257, 3, 4


def check_header(content: bytes, name) -> None:
    """Raises `InputError` for what no decoder is to see: what `size_in_header` refuses, and too many pixels."""
    check_pixels(size_in_header(content, name), name)


def check_pixels(size_hw: tuple[int, int], name) -> None:
    """Raises `InputError` for more pixels than are decoded."""
    height, width = size_hw
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{name} has {width}×{height} = {width * height} px, more than the {MAX_PIXELS} that are admitted: make it "
            "smaller or remove it"
        )


def size_in_header(content: bytes, name) -> tuple[int, int]:
    """(H, W) as a file says. Raises `InputError` where it is of no known kind, or damaged as far as headers tell: other
    kinds, whose size is not known before they are decoded, are not read at all. `name` is for the error message."""
    if content.startswith(PNG_SIGNATURE):
        return png_format(png_chunks(content, name)).size_hw
    for signature, read_size in READERS.items():
        if content.startswith(signature):
            try:
                return read_size(content)
            except (struct.error, LookupError, ValueError):
                raise _damaged(name) from None
    raise InputError(f"{name} is not an image: save it as PNG, JPEG, BMP, TIFF or WebP, or remove it")


def _damaged(name) -> InputError:
    return InputError(f"{name} is damaged or cut short: replace or remove it")


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
            raise _damaged(name)
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


def _jpeg_size(content: bytes) -> tuple[int, int]:
    """Raises an error, too, where the end is missing, which OpenCV before 5 fills up."""
    segments = list(_jpeg_segments(content))
    frames, scans = ([place for marker, place in segments if marker in of] for of in (JPEG_FRAMES, {JPEG_SCAN}))
    content.rindex(JPEG_END, scans[0])  # coded pixels never look like it
    return struct.unpack_from(">HH", content, frames[0] + 5)


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
        place += 2 if marker in JPEG_BARE else 2 + length


def _bmp_size(content: bytes) -> tuple[int, int]:
    (header,) = struct.unpack_from("<I", content, 14)
    width, height = struct.unpack_from("<HH" if header == 12 else "<ii", content, 18)
    return abs(height), abs(width)  # rows from the top have a negative height


def _webp_size(content: bytes) -> tuple[int, int]:
    return WEBP_READERS[content[8:16]](content)


def _canvas_size(content: bytes) -> tuple[int, int]:
    (width,), (height,) = struct.unpack_from("<I", content, 24), struct.unpack_from("<I", content, 26)
    return (height >> 8) + 1, (width & 0xFFFFFF) + 1  # three bytes each


def _lossless_size(content: bytes) -> tuple[int, int]:
    (bits,) = struct.unpack_from("<I", content, 21)
    return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1


def _lossy_size(content: bytes) -> tuple[int, int]:
    width, height = struct.unpack_from("<HH", content, 26)
    return height & 0x3FFF, width & 0x3FFF  # the upper bits are scales


def _tiff_size(content: bytes) -> tuple[int, int]:
    order = "<" if content.startswith(b"II") else ">"
    (directory,) = struct.unpack_from(f"{order}I", content, 4)
    (count,) = struct.unpack_from(f"{order}H", content, directory)
    sides = {}
    for place in range(directory + 2, directory + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", content, place)
        if tag in (TIFF_WIDTH, TIFF_HEIGHT) and tag not in sides:  # decoders take the first as well
            (sides[tag],) = struct.unpack_from(order + {TIFF_SHORT: "H", TIFF_LONG: "I"}[kind], content, place + 8)
    return sides[TIFF_HEIGHT], sides[TIFF_WIDTH]


WEBP_READERS = {b"WEBPVP8X": _canvas_size, b"WEBPVP8L": _lossless_size, b"WEBPVP8 ": _lossy_size}
READERS = {
    JPEG_SIGNATURE: _jpeg_size,
    b"BM": _bmp_size,
    b"RIFF": _webp_size,
    b"II*\0": _tiff_size,
    b"MM\0*": _tiff_size,
}
