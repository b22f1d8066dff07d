"""Image files: RGB photographs uint8 [H, W, 3] and 8-bit grey maps uint8 [H, W] (saliency maps, object masks).

EXIF rotation is ignored, so that an image stays aligned with its mask. Pixels are decoded by OpenCV, which is faster
than Pillow; sizes and modes are read by Pillow from the header.
"""

import io
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from formats.atomic_files import write_bytes
from formats.errors import InputError, MissingInputError, first_line, require_folder

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")  # Pillow would try many more
PNG_BIT_DEPTH = 24  # index of the byte that holds the bits per channel of a PNG file
PILLOW_ERRORS = (  # raised by Pillow for damaged files, depending on the format
    *(OSError, EOFError, SyntaxError, ValueError, LookupError, struct.error),
    Image.DecompressionBombError,
)
LARGEST_SIDE_PX = 800  # of images whose features are computed; networks see little in larger ones
MAX_CHROMA = 8  # largest difference between the channels of a grey picture in a lossy format
GREY = cv2.IMREAD_ANYDEPTH | cv2.IMREAD_GRAYSCALE
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
    image_size(content, name)  # OpenCV would decode more formats, and more pixels than Pillow allows
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
    """Decode a grey map to uint8 [H, W]: a grey file, or three equal channels with or without a constant alpha channel.

    Of white on transparent, the alpha channel is the map. 16-bit images are reduced to their upper 8 bits, unless all
    values are below 256 (8-bit values in a 16-bit file). Raises `InputError` for colours and for other transparency.
    """
    with open_image(content, name) as header:
        mode, is_lossy = header.mode, header.format in ("JPEG", "MPO", "WEBP")
    if mode in ("1", "L") or mode.startswith(("I", "F")):
        image = _decode(content, name, GREY)
    else:
        image = _decode_grey_colours(content, name, is_lossy)
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


class GreyMap(NamedTuple):
    """File of a grey map, whose values are multiplied by `scale`: 255 for maps of 0 and 1, otherwise 1."""

    path: Path
    scale: int = 1


def scale_maps(paths: list[Path], warns: bool = True) -> list[GreyMap]:
    """Find the scale of the maps of a folder: if the largest value of all is 1, they are maps of 0 and 1.

    Reading stops at the first map with a value above 1. If all maps are empty, it `warns` on stderr. Raises
    `InputError` if no map can be read.
    """
    largest = -1
    for path in paths:
        with suppress(InputError):  # raised again where this map is used
            largest = max(largest, int(load_grey(path).max()))
        if largest > 1:
            break
    if largest < 0:
        load_grey(paths[0])  # raises
    if largest == 0 and warns:
        print(f"{paths[0].parent}: all {len(paths)} maps are empty (0)", file=sys.stderr)
    return [GreyMap(path, 255 if largest == 1 else 1) for path in paths]


def load_aligned_grey(grey_map: GreyMap, image_path, image_hw: tuple[int, int], read: Callable = read_bytes):
    """Load a map, such as saliency or edges, uint8 [H, W], of the size `image_hw` of the file `image_path`.

    `read` returns the bytes of a path. Raises `InputError` if the sizes differ.
    """
    grey = decode_grey(read(grey_map.path), grey_map.path)
    check_size(grey_map.path, grey.shape, image_path, image_hw)
    return grey if grey_map.scale == 1 else grey * np.uint8(grey_map.scale)


def load_mask(path) -> np.ndarray:
    """Load an object mask as bool [H, W]; see `binarize_mask`."""
    return binarize_mask(load_grey(path))


def binarize_mask(grey: np.ndarray) -> np.ndarray:
    """Convert grey values to bool [H, W]: above 128 is object (as in PySODMetrics); of a mask of 0 and 1, 1 is."""
    return grey > 128 if grey.max(initial=0) > 1 else grey == 1


def image_size(file, name=None) -> tuple[int, int]:
    """Read (H, W) from the header of an image file, given by its path or its content and a name for messages."""
    with open_image(file, name or file) as image:
        return image.height, image.width


def open_verified_png(content: bytes, name):
    """Open a PNG file as `open_image` does, after its checksums, which decoding ignores, were verified."""
    with open_image(content, name, formats=("PNG",)) as image:
        image.verify()  # the image cannot be used afterwards
    return open_image(content, name, formats=("PNG",))


@contextmanager
def open_image(file, name, formats=FORMATS) -> Iterator[Image.Image]:
    """Open an image by Pillow, which reads its header, from a path or bytes; `name` appears in error messages.

    Raises `InputError` if the file has another format, is damaged, or exceeds Pillow's limit of 178,956,970 px.
    """
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=formats) as image:
            yield image
    except InputError:  # of the block
        raise
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a {'/'.join(formats)} file, or is damaged: replace or remove it") from None
    except PILLOW_ERRORS as error:
        raise InputError(f"{name} cannot be read as an image: {first_line(error)}") from None


def image_stems(folder) -> dict[str, Path]:
    """Map the stem of every image file in `folder` to its path, sorted by name. Two files of one stem are an error."""
    found: dict[str, Path] = {}
    for path in image_paths(require_folder(folder)):
        if path.stem in found:
            raise InputError(f"{path} and {found[path.stem].name} share a stem: remove one of them")
        found[path.stem] = path
    return found


def image_paths(folder: Path) -> list[Path]:
    """List every image file in `folder`, sorted by name."""
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()]
    return [path for path in paths if not path.name.startswith(".")]


def images_below(folder, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Map the id of every image with these suffixes, in `folder` and below, to its path, sorted by id.

    The id is the path relative to `folder`, with "/" and without suffix. Raises `InputError` for two files of one id.
    """
    folder, found = require_folder(folder), {}
    for path in files_below(folder):
        image_id = path.relative_to(folder).with_suffix("").as_posix()
        if path.suffix.lower() not in suffixes:
            continue
        if image_id in found:
            raise InputError(f"{path} and {found[image_id].name} have the same id {image_id}: remove or rename one")
        found[image_id] = path
    return dict(sorted(found.items()))


def files_below(folder) -> list[Path]:
    """List the files in `folder` and below, sorted; without hidden ones, and those in hidden folders."""
    found = []
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(root) / name for name in names if not name.startswith(".")]
    return sorted(found)


def shrink_image(image: np.ndarray, longest_px: int) -> np.ndarray:
    """Reduce an image, uint8 [H, W, 3], to a longer side of at most `longest_px`."""
    factor = longest_px / max(image.shape[:2])
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]  # w, h
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA) if factor < 1 else image


def check_size(path, size_hw, other, other_hw) -> None:
    """Raise `InputError` unless two files of one image, such as the image and its label, have the same size."""
    if tuple(size_hw) != tuple(other_hw):
        size, other_size = (f"{width}×{height} px" for height, width in (size_hw, other_hw))
        way_out = f"resize it to {other_size}, or create it again"
        if tuple(size_hw) == tuple(other_hw)[::-1]:
            way_out = "EXIF rotation is ignored, so turn one of them, or create it again from the image as it is stored"
        raise InputError(f"{path} is {size}, but {other} is {other_size}: {way_out}")


def _decode(content: bytes, name, flags: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise InputError(f"{name} is damaged or truncated: replace or remove it")
    return image


def _decode_grey_colours(content: bytes, name, is_lossy: bool) -> np.ndarray:
    """Decode a grey map from a file with colours or transparency, as described in `decode_grey`: [H, W]."""
    channels = cv2.split(_decode(content, name, cv2.IMREAD_UNCHANGED))
    if len(channels) == 4 and np.ptp(channels[3]) > 0:
        opaque = channels[3] > 0
        if all((channel[opaque] == np.iinfo(channel.dtype).max).all() for channel in channels[:3]):
            return channels[3]
        way_out = "save it as 8-bit grey; of a cut-out, save the alpha channel alone, e.g. by rembg i -om"
        raise InputError(f"{name} holds transparency, so it is no grey map: {way_out}")
    if max(cv2.absdiff(channels[0], channel).max() for channel in channels[:3]) > MAX_CHROMA * is_lossy:
        raise InputError(f"{name} holds colours, so it is no grey map: save it as 8-bit grey")
    return _decode(content, name, GREY) if is_lossy else channels[0]


def _encode(suffix: str, image: np.ndarray) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix.lower() in (".jpg", ".jpeg") else []
    return cv2.imencode(suffix, np.ascontiguousarray(image), options)[1].tobytes()
