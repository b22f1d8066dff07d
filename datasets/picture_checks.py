"""Find faults of a picture and of the files that belong to it, by reading them as the other scripts do."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from datasets.duplicates import compute_signature
from formats.cams import load_cams
from formats.errors import InputError, first_line
from formats.images import PNG_BIT_DEPTH, binarize_mask, check_size, decode_grey, decode_image, open_image, read_bytes
from formats.labels import IGNORE_LABEL, check_labels, decode_label

ERROR, NOTE = "error", "note"  # the data cannot be used; the data can be used, but may be unexpected


@dataclass(frozen=True)
class Finding:
    """A fault of a file."""

    severity: str
    what: str  # the kind of fault
    path: Path
    detail: str = ""


@dataclass(frozen=True)
class Picture:
    """An image and the files that belong to it, as pairs (kind, path); `CHECKS` lists the kinds."""

    image: Path
    files: tuple[tuple[str, Path], ...] = ()
    num_labels: int = 0  # labels are 0..num_labels-1 and 255


def check_picture(picture: Picture) -> tuple[list[Finding], np.ndarray | None]:
    """Check an image and its files. Returns the findings and the image's signature, `None` if it cannot be read."""
    findings, image = [], None
    with record_errors(findings, "cannot be read", picture.image):
        content = read_bytes(picture.image)
        image = decode_image(content, picture.image)
        findings += [Finding(NOTE, f"{trait} image", picture.image) for trait in find_traits(content, picture.image)]
    for kind, path in picture.files:
        with record_errors(findings, "cannot be read", path):
            size_hw = CHECKS[kind](path, picture.num_labels, findings)
            if image is not None:
                with record_errors(findings, "sizes differ", path):
                    check_size(path, size_hw, picture.image, image.shape[:2])
    return findings, None if image is None else compute_signature(image)


@contextmanager
def record_errors(findings: list[Finding], what: str, path: Path) -> Iterator[None]:
    """Turn an `InputError` of the block into a finding."""
    try:
        yield
    except InputError as error:
        is_empty = path.is_file() and path.stat().st_size == 0
        findings.append(Finding(ERROR, "zero-byte file" if is_empty else what, path, first_line(error)))


def find_traits(content: bytes, path) -> list[str]:
    """List the properties of an image file that the scripts ignore or convert."""
    with open_image(io.BytesIO(content), path) as image:
        mode, has_alpha, orientation = image.mode, image.has_transparency_data, _read_orientation(image)
    traits = {
        "EXIF-rotated": orientation != 1,
        "grey": mode in ("1", "L", "LA") or mode.startswith("I"),
        "CMYK": mode == "CMYK",
        "16-bit": mode.startswith("I") or (image.format == "PNG" and content[PNG_BIT_DEPTH] == 16),
        "transparent": has_alpha,
    }
    return [name for name, applies in traits.items() if applies]


def _read_orientation(image: Image.Image) -> int:
    try:
        # image.getexif() of a PNG would decode all pixels
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, struct.error):  # damaged EXIF data, which no script reads
        return 1


def _check_mask(path: Path, num_labels: int, findings: list[Finding], severity: str = ERROR) -> tuple[int, int]:
    """Check an object mask; `severity` applies if all values are too low to count as object.

    Some graded masks of PASCAL-S are that low.
    """
    content = read_bytes(path)
    grey = decode_grey(content, path)
    findings += [Finding(NOTE, f"{trait} mask", path) for trait in find_traits(content, path) if trait != "grey"]
    between = np.count_nonzero((grey > 0) & (grey < 255)) / grey.size
    if not grey.any():
        findings.append(Finding(NOTE, "empty mask", path))
    elif not binarize_mask(grey).any():
        findings.append(Finding(severity, "mask without object", path, f"no value over 128: {grey.max()}"))
    elif between and grey.max() > 1:
        findings.append(Finding(NOTE, "mask is not binary", path, f"{between:.1%} of it lies between 0 and 255"))
    return grey.shape


def _check_label(path: Path, num_labels: int, findings: list[Finding]) -> tuple[int, int]:
    label = decode_label(read_bytes(path), path)
    with record_errors(findings, "class id that does not exist", path):
        check_labels(label, num_labels, path)
    if not np.any((label > 0) & (label != IGNORE_LABEL)):
        findings.append(Finding(NOTE, "label without any class", path))
    return label.shape


def _check_map(path: Path, num_labels: int, findings: list[Finding]) -> tuple[int, int]:
    return decode_grey(read_bytes(path), path).shape


def _check_cams(path: Path, num_labels: int, findings: list[Finding]) -> tuple[int, int]:
    cams, classes = load_cams(path)
    with record_errors(findings, "class id that does not exist", path):
        check_labels(classes, num_labels, path)
    return cams.shape[1:]


CHECKS = {  # kind of file → function that adds findings and returns (H, W)
    "mask": _check_mask,
    "test mask": partial(_check_mask, severity=NOTE),
    "label": _check_label,
    "saliency map": _check_map,
    "CAM": _check_cams,
}
