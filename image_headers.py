"""What image files say of themselves before a pixel is decoded: their size, and whether a JPEG is whole."""

import struct
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
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
