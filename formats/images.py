"""Photographs and 8-bit grey maps (saliency maps, object masks) as files.

Photographs are RGB uint8 [H, W, 3]; grey maps uint8 [H, W]. EXIF rotation is ignored, so that an image always
lies on its mask pixel by pixel, as PIL-based toolboxes read it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from formats.atomic_files import write_bytes
from formats.errors import InputError, MissingInputError, existing_folder, first_line
from formats.image_headers import check_header

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
KINDS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # those that are decoded; Pillow would try many more


REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8}


def read_bytes(path) -> bytes:
    """The content of a file; an `InputError` that names it where it cannot be read."""
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise MissingInputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def decode_image(content: bytes, name, reduction: int = 1) -> np.ndarray:
    """RGB uint8 [H, W, 3] from the bytes of an image file; `name` is for the error message.

    With a `reduction` of 2, 4 or 8 both sides are that many times smaller, which takes JPEG files less time.
    """
    if reduction == 1:
        return _decode(content, name, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    return _decode(content, name, REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION)[:, :, ::-1]


def load_image(path) -> np.ndarray:
    """RGB uint8 [H, W, 3]. Raises `InputError` if the file cannot be decoded."""
    return decode_image(read_bytes(path), path)


def save_image(path, image: np.ndarray) -> None:
    """Writes RGB uint8 [H, W, 3] in the format of the suffix (JPEG at quality 95)."""
    write_bytes(path, _encode(Path(path).suffix, image[:, :, ::-1], path))


def decode_grey(content: bytes, name) -> np.ndarray:
    """uint8 [H, W] from a grey or RGB file; of 16 bits the upper 8, unless all are 0 and it holds 8-bit values."""
    image = _decode(content, name, cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE | cv2.IMREAD_IGNORE_ORIENTATION)
    if image.dtype == np.uint16:
        image = (image >> 8 if image.max() > 255 else image).astype(np.uint8)
    if image.dtype != np.uint8:
        raise InputError(f"{name} holds {image.dtype}: save it with 8 bits")
    return image


def load_grey(path) -> np.ndarray:
    """A grey map, uint8 [H, W] in 0..255. Raises `InputError` if the file cannot be decoded."""
    return decode_grey(read_bytes(path), path)


def save_grey(path, grey: np.ndarray) -> None:
    """Writes a grey map, uint8 [H, W], as 8-bit PNG."""
    if grey.ndim != 2 or grey.dtype != np.uint8:
        raise ValueError(f"{path}: a grey map is uint8 [H, W], got {grey.dtype} {list(grey.shape)}")
    write_bytes(path, _encode(".png", grey, path))


def load_grey_of(path, image_path, image_hw: tuple[int, int], read: Callable = read_bytes) -> np.ndarray:
    """A map that belongs to an image, such as its saliency or edges, uint8 [H, W]; one of another size than the image
    is an `InputError`. `read` gives the bytes of a path."""
    grey = decode_grey(read(path), path)
    check_size(path, grey.shape, image_path, image_hw)
    return grey


def load_mask(path) -> np.ndarray:
    """An object mask as bool [H, W]: grey value over 128 (as in PySODMetrics), or 1 where 1 is the largest."""
    return binarize_mask(load_grey(path))


def binarize_mask(grey: np.ndarray) -> np.ndarray:
    """bool [H, W] from the grey values of a mask file; a mask stored as 0/1 is read as what it means."""
    return grey > 128 if grey.max(initial=0) > 1 else grey == 1


def image_size(path) -> tuple[int, int]:
    """(H, W) of an image file from its header alone, EXIF rotation ignored."""
    with opened(path, path) as image:
        return image.height, image.width


@contextmanager
def opened(file, name) -> Iterator[Image.Image]:
    """An image of which Pillow has read the header alone, from a path or a stream; `name` is for the error message."""
    try:
        with Image.open(file, formats=KINDS) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # as damage of many formats ends
        raise InputError(f"{name} is not an image that can be opened: {first_line(error)}") from None


def image_stems(folder) -> dict[str, Path]:
    """Stem → path of every image file of `folder`, in order of their names. Two files of one stem are an error."""
    folder = existing_folder(folder)
    found: dict[str, Path] = {}
    for path in image_paths(folder):
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem].name} share a stem: remove one of them")
        found[path.stem] = path
    return found


def image_paths(folder: Path) -> list[Path]:
    """Every image file of `folder`, in order of their names."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def check_size(path, size_hw, other, other_hw) -> None:
    """Raises `InputError` unless two files of one image, such as the image and its label, have one size."""
    if tuple(size_hw) != tuple(other_hw):
        raise InputError(
            f"{path} is {size_hw[1]}×{size_hw[0]} px, but {other} is {other_hw[1]}×{other_hw[0]} px: files of one "
            "image have one size, make the wrong one again"
        )


def _decode(content: bytes, name, flags: int) -> np.ndarray:
    check_header(content, name)
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error as error:
        raise InputError(f"{name} cannot be decoded: {first_line(error)}") from error
    if image is None:
        raise InputError(f"{name} is not an image that can be decoded: replace or remove it")
    return image


def _encode(suffix: str, image: np.ndarray, name) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix.lower() in (".jpg", ".jpeg") else []
    ok, encoded = cv2.imencode(suffix, np.ascontiguousarray(image), options)
    if not ok:
        raise ValueError(f"{name}: image of {image.dtype} {list(image.shape)} cannot be encoded")
    return encoded.tobytes()
