"""What is wrong with a picture and the files that belong to it: found by reading them as the other scripts do."""

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from datasets.same_pictures import signature
from formats.cams import load_cams
from formats.errors import InputError, first_line
from formats.images import PNG_BIT_DEPTH, binarize_mask, check_size, decode_grey, decode_image, open_image, read_bytes
from formats.labels import IGNORE_LABEL, check_labels, decode_label

ERROR, NOTE = "error", "note"  # work cannot be right; legal, but worth knowing


@dataclass(frozen=True)
class Finding:
    """A fault of a file: how severe, of which kind, where."""

    severity: str
    what: str  # the kind of fault
    path: Path
    detail: str = ""


@dataclass(frozen=True)
class Picture:
    """An image and the files that must fit it, each with its kind, a key of `CHECKS`."""

    image: Path
    files: tuple[tuple[str, Path], ...] = ()
    num_labels: int = 0  # labels are 0..num_labels-1 and 255


def check_picture(picture: Picture) -> tuple[list[Finding], np.ndarray | None]:
    """→ what was found, and the image's signature, None where it cannot be read."""
    findings, image = [], None
    with as_finding(findings, "cannot be read", picture.image):
        content = read_bytes(picture.image)
        image = decode_image(content, picture.image)
        findings += [Finding(NOTE, f"{trait} image", picture.image) for trait in traits(content, picture.image)]
    for kind, path in picture.files:
        with as_finding(findings, "cannot be read", path):
            size_hw = CHECKS[kind](path, picture.num_labels, findings)
            if image is not None:
                with as_finding(findings, "sizes differ", path):
                    check_size(path, size_hw, picture.image, image.shape[:2])
    return findings, None if image is None else signature(image)


@contextmanager
def as_finding(findings: list[Finding], what: str, path: Path) -> Iterator[None]:
    """An `InputError` within becomes an error that is found."""
    try:
        yield
    except InputError as error:
        is_empty = path.is_file() and path.stat().st_size == 0
        findings.append(Finding(ERROR, "zero-byte file" if is_empty else what, path, first_line(error)))


def traits(content: bytes, path) -> list[str]:
    """What an image file has that the scripts ignore or convert: rotation, other colours, alpha, 16 bits."""
    with open_image(io.BytesIO(content), path) as image:
        mode, has_alpha, orientation = image.mode, image.has_transparency_data, _orientation(image)
    found = {
        "EXIF-rotated": orientation != 1,
        "grey": mode in ("1", "L", "LA") or mode.startswith("I"),
        "CMYK": mode == "CMYK",
        "16-bit": mode.startswith("I") or (image.format == "PNG" and content[PNG_BIT_DEPTH] == 16),
        "transparent": has_alpha,
    }
    return [trait for trait, is_so in found.items() if is_so]


def _orientation(image: Image.Image) -> int:
    try:
        # not image.getexif(), which decodes all pixels of a PNG
        return Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except (OSError, SyntaxError, ValueError, struct.error):  # damaged EXIF, which nobody reads here
        return 1


def _check_mask(path: Path, num_labels: int, findings: list[Finding], severity: str = ERROR) -> tuple[int, int]:
    """`severity`: of a mask whose values are all too low to count, as some of PASCAL-S's graded ones are."""
    content = read_bytes(path)
    grey = decode_grey(content, path)
    findings += [Finding(NOTE, f"{trait} mask", path) for trait in traits(content, path) if trait != "grey"]
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
    with as_finding(findings, "class id that does not exist", path):
        check_labels(label, num_labels, path)
    if not np.any((label > 0) & (label != IGNORE_LABEL)):
        findings.append(Finding(NOTE, "label without any class", path))
    return label.shape


def _check_map(path: Path, num_labels: int, findings: list[Finding]) -> tuple[int, int]:
    return decode_grey(read_bytes(path), path).shape


def _check_cams(path: Path, num_labels: int, findings: list[Finding]) -> tuple[int, int]:
    cams, classes = load_cams(path)
    with as_finding(findings, "class id that does not exist", path):
        check_labels(classes, num_labels, path)
    return cams.shape[1:]


CHECKS = {
    "mask": _check_mask,
    "test mask": partial(_check_mask, severity=NOTE),
    "label": _check_label,
    "saliency map": _check_map,
    "CAM": _check_cams,
}
