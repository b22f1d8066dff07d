"""Image files: RGB photographs uint8 [H, W, 3] and 8-bit grey maps uint8 [H, W] (saliency maps, object masks).

EXIF rotation is ignored, so that an image stays aligned with its mask. Pixels are decoded by OpenCV, which is faster
than Pillow; sizes and modes are read by Pillow from the header.
"""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from formats.atomic_files import write_bytes
from formats.errors import InputError, MissingInputError, existing_folder, first_line

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # Pillow would try many more
PNG_BIT_DEPTH = 24  # index of the byte that holds the bits per channel of a PNG file
PILLOW_ERRORS = (  # raised by Pillow for damaged files, depending on the format
    *(OSError, EOFError, SyntaxError, ValueError, LookupError, struct.error),
    Image.DecompressionBombError,
)
REDUCED_COLOR = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def read_bytes(path) -> bytes:
    """Read a whole file. Raises `InputError` naming the file if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise MissingInputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def decode_image(content: bytes, name, reduction: int = 1) -> np.ndarray:
    """Decode an image file to RGB uint8 [H, W, 3]; `name` appears in error messages.

    A `reduction` of 2, 4 or 8 divides both sides by that factor, which makes decoding JPEG files faster.
    """
    if reduction == 1:
        return _decode(content, name, cv2.IMREAD_COLOR_RGB)
    return _decode(content, name, REDUCED_COLOR[reduction])[:, :, ::-1]


def load_image(path) -> np.ndarray:
    """Load RGB uint8 [H, W, 3]. Raises `InputError` if the file cannot be decoded."""
    return decode_image(read_bytes(path), path)


def save_image(path, image: np.ndarray) -> None:
    """Save RGB uint8 [H, W, 3] in the format given by the suffix (JPEG at quality 95)."""
    write_bytes(path, _encode(Path(path).suffix, image[:, :, ::-1]))


def decode_grey(content: bytes, name) -> np.ndarray:
    """Decode a grey or RGB file to uint8 [H, W].

    16-bit images are reduced to their upper 8 bits, unless all values are below 256 (8-bit values in a 16-bit file).
    """
    image = _decode(content, name, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE)
    if image.dtype == np.uint16:
        image = (image >> 8 if image.max() > 255 else image).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{name} holds {image.dtype} values: save it with 8 bits")
    return image


def load_grey(path) -> np.ndarray:
    """Load a grey map, uint8 [H, W] in 0..255. Raises `InputError` if the file cannot be decoded."""
    return decode_grey(read_bytes(path), path)


def save_grey(path, grey: np.ndarray) -> None:
    """Save a grey map, uint8 [H, W], as 8-bit PNG."""
    assert grey.ndim == 2 and grey.dtype == np.uint8, f"{path}: {grey.dtype} {list(grey.shape)}"
    write_bytes(path, _encode(".png", grey))


def load_aligned_grey(path, image_path, image_hw: tuple[int, int], read: Callable = read_bytes) -> np.ndarray:
    """Load a map of an image, such as its saliency or edges, uint8 [H, W].

    `read` returns the bytes of a path. Raises `InputError` if the map does not have the size of the image.
    """
    grey = decode_grey(read(path), path)
    check_size(path, grey.shape, image_path, image_hw)
    return grey


def load_mask(path) -> np.ndarray:
    """Load an object mask as bool [H, W]; see `binarize_mask`."""
    return binarize_mask(load_grey(path))


def binarize_mask(grey: np.ndarray) -> np.ndarray:
    """Convert grey values to bool [H, W]: above 128 is object (as in PySODMetrics); of a mask of 0 and 1, 1 is."""
    return grey > 128 if grey.max(initial=0) > 1 else grey == 1


def image_size(path) -> tuple[int, int]:
    """Read (H, W) of an image file from its header; EXIF rotation is ignored."""
    with open_image(path, path) as image:
        return image.height, image.width


def decode_size(content: bytes, name) -> tuple[int, int]:
    """Do the same as `image_size` with the bytes of a file, `name` in error messages."""
    with open_image(io.BytesIO(content), name) as image:
        return image.height, image.width


@contextmanager
def open_image(file, name, formats=FORMATS) -> Iterator[Image.Image]:
    """Open an image by Pillow, which reads its header, from a path or a stream; `name` appears in error messages.

    Raises `InputError` if the file has another format, is damaged, or exceeds Pillow's limit of 178,956,970 px.
    """
    try:
        with Image.open(file, formats=formats) as image:
            yield image
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a {'/'.join(formats)} file, or is damaged: replace or remove it") from None
    except PILLOW_ERRORS as error:
        raise InputError(f"{name} cannot be read as an image: {first_line(error)}") from None


def image_stems(folder) -> dict[str, Path]:
    """Map the stem of every image file in `folder` to its path, sorted by name. Two files of one stem are an error."""
    found: dict[str, Path] = {}
    for path in image_paths(existing_folder(folder)):
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem].name} share a stem: remove one of them")
        found[path.stem] = path
    return found


def image_paths(folder: Path) -> list[Path]:
    """List every image file in `folder`, sorted by name."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return [path for path in paths if not path.name.startswith(".")]


def check_size(path, size_hw, other, other_hw) -> None:
    """Raise `InputError` unless two files of one image, such as the image and its label, have the same size."""
    if tuple(size_hw) != tuple(other_hw):
        found = f"{path} is {size_hw[1]}×{size_hw[0]} px, but {other} is {other_hw[1]}×{other_hw[0]} px"
        raise InputError(f"{found}: files of one image must have the same size; create the wrong one again")


def _decode(content: bytes, name, flags: int) -> np.ndarray:
    decode_size(content, name)  # OpenCV would decode more formats, and more pixels than Pillow allows
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{name} is damaged or truncated: replace or remove it")
    return image


def _encode(suffix: str, image: np.ndarray) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix.lower() in (".jpg", ".jpeg") else []
    return cv2.imencode(suffix, np.ascontiguousarray(image), options)[1].tobytes()
