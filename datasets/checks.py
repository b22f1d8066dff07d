"""Faults of data: in the layout of a data set, in its files, and pictures that training and test data share.

The checks add to a list of findings, so that one run reports everything.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import ExifTags, Image

from formats import images
from formats.cams import load_cams
from formats.errors import InputError, shorten
from formats.image_labels import load_image_labels
from formats.images import binarize_mask, check_size, decode_grey, read_bytes
from formats.labels import IGNORE_LABEL, check_labels, lack_classes, load_label
from formats.voc_layout import (
    MASK_FOLDERS,
    check_id,
    find_all_photographs,
    mask_folder,
    photograph_folder,
    split_ids,
    truth_folder,
)

ERROR, NOTE = "error", "note"  # the data cannot be used; the data can be used, but may be unexpected
USES = SALIENCY_TRAINING, VOC_TRAINING, TEST = "saliency training", "VOC training", "test"  # of a picture
SUFFIXES = {"image": ".jpg", "label": ".png", "saliency map": ".png", "CAM": ".npz"}  # of files named by ids

# signatures: two different photographs of 1520 correlate by 0.61 at most; a photograph and its copy at a quarter of the
# size and JPEG quality 50 by at least 0.92
SIDE_PX = 24
BLUR_SIGMA_PX = 2.0
MIN_CONTRAST = 0.5  # standard deviation in grey levels; below it there is only noise
MIN_CORRELATION = 0.8
BLOCK_ROWS = 1024  # rows of the correlation matrix computed at a time


@dataclass(frozen=True)
class Finding:
    """A fault of a file."""

    severity: str
    what: str  # the kind of fault
    path: Path
    detail: str = ""


@dataclass(frozen=True)
class Picture:
    """An image, its use, and the files that belong to it as pairs (kind, path); `CHECKS` lists the kinds."""

    image: Path
    use: str
    files: list[tuple[str, Path]]
    num_labels: int = 0  # labels are 0..num_labels-1 and 255


@contextmanager
def record_errors(findings: list[Finding], what: str, path: Path) -> Iterator[None]:
    """Turn an `InputError` of the block into a finding."""
    try:
        yield
    except InputError as error:
        is_empty = path.is_file() and path.stat().st_size == 0
        findings.append(Finding(ERROR, "zero-byte file" if is_empty else what, path, str(error)))


# layout


def check_saliency_set(data_set: Path, use: str, findings: list[Finding]) -> list[Picture]:
    """Check that images and masks of `<data set>/{Images, Masks}` are complete. Returns the pictures."""
    photographs, masks = (find_stems(data_set / name, findings) for name in ("Images", "Masks"))
    if not photographs:
        findings.append(Finding(ERROR, "folder without images", data_set / "Images"))
    findings += [Finding(ERROR, "image without mask", path) for stem, path in photographs.items() if stem not in masks]
    findings += [Finding(ERROR, "mask without image", path) for stem, path in masks.items() if stem not in photographs]
    kind = "test mask" if use == TEST else "mask"
    mask_of = {stem: [(kind, path)] for stem, path in masks.items()}
    return [Picture(path, use, mask_of.get(stem, [])) for stem, path in photographs.items()]


def find_stems(folder: Path, findings: list[Finding]) -> dict[str, Path]:
    """Map every stem to its first image file; further files with the same stem are findings."""
    first: dict[str, Path] = {}
    for path in images.image_paths(folder) if folder.is_dir() else []:
        if first.setdefault(path.stem, path) != path:
            findings.append(Finding(ERROR, "duplicate stem", path, f"beside {first[path.stem].name}"))
    return first


def check_lists(paths: list[Path], photographs: Path, findings: list[Finding]) -> dict[Path, list[str]]:
    """Check lists of ids: each alone, and train* (except trainval*) against val* and test*.

    Returns the valid ids of each list, each once.
    """
    lists = {path: check_list(path, photographs, findings) for path in paths}
    tested = find_test_ids(lists)
    for path, ids in lists.items():
        if path.name.startswith("train") and not path.name.startswith("trainval"):
            both = [name for name in ids if name in tested]
            findings += [Finding(ERROR, "id in training and test list", path, name) for name in both]
    return lists


def check_list(path: Path, photographs: Path, findings: list[Finding]) -> list[str]:
    valid = []
    with record_errors(findings, "cannot be read", path):
        counts = Counter(split_ids(read_bytes(path), path, photographs))
        if not counts:
            raise InputError(f"{path} contains no id")
        for name, count in counts.items():
            if count > 1:
                findings.append(Finding(ERROR, "id listed twice", path, name))
            with record_errors(findings, "id is not a file name", path):
                check_id(name, path)
                valid.append(name)
    return valid


def find_test_ids(lists: dict[Path, list[str]]) -> set[str]:
    return {name for path, ids in lists.items() if path.name.startswith(("val", "test")) for name in ids}


def check_image_labels(path: Path, lists: dict[Path, list[str]], classes, findings: list[Finding]) -> None:
    """Check that all listed ids have image labels, except in test lists, whose labels are not public."""
    if not path.exists():
        findings.append(Finding(NOTE, "no image labels", path, "train_classification.py needs them"))
        return
    for list_path, ids in lists.items():
        if ids and not list_path.name.startswith("test"):
            with record_errors(findings, "image labels cannot be used", path):
                rows = load_image_labels(path, ids, classes)
                without = [name for name, row in zip(ids, rows) if not row.any()]
                findings += [Finding(NOTE, "image labels without any class", path, name) for name in without]


def check_voc(
    voc_root: Path, lists: dict[Path, list[str]], folders: list[tuple[str, Path]], num_labels: int, findings
) -> list[Picture]:
    """Check that the listed ids have files in a VOC tree and in further `folders`, given as (kind, path).

    Returns the pictures of all listed ids that have a photograph.
    """
    photographs = ("image", photograph_folder(voc_root))
    find_stems(voc_root / "JPEGImages", findings)
    places = dict.fromkeys([*(("label", mask_folder(voc_root, name)) for name in MASK_FOLDERS), *folders])
    listed = dict.fromkeys(name for ids in lists.values() for name in ids)
    ids_in = {place: list_ids(*place, listed) for place in places}
    paths = find_all_photographs(voc_root)
    ids_in[photographs] = set(paths)

    lists_of_missing: dict[tuple[str, Path], list[str]] = defaultdict(list)
    for path, ids in lists.items():
        truth = "label", truth_folder(voc_root, ids)
        needed = {photographs: ERROR}  # severity if all are missing
        if (voc_root / "JPEGImages").is_dir():  # photographs of users have no masks
            needed[truth] = NOTE
        needed |= {place: ERROR if ids_in[place].isdisjoint(listed) else NOTE for place in folders}
        for (kind, folder), severity in needed.items():
            missing = [name for name in ids if name not in ids_in[kind, folder]]
            if missing and len(missing) == len(ids):
                if (kind, folder) == truth:
                    detail = f"{folder} lacks them; only scores need masks"
                else:
                    there = shorten(sorted(file.name for file in folder.glob("*")), 3) or "nothing"
                    detail = f"{folder} holds {there}, but files must be named <id>{SUFFIXES[kind]}"
                findings.append(Finding(severity, f"list without any {kind}", path, detail))
                continue
            for name in missing:
                lists_of_missing[kind, file_of(kind, folder, name)].append(path.name)
    for (kind, path), names in lists_of_missing.items():
        findings.append(Finding(ERROR, f"id without {kind}", path, f"in {', '.join(names)}"))
    for kind, folder in places:
        alone = sorted(ids_in[kind, folder] - ids_in[photographs])
        findings += [Finding(NOTE, f"{kind} without image", file_of(kind, folder, name)) for name in alone]
        check_folder(kind, [file_of(kind, folder, name) for name in listed if name in ids_in[kind, folder]], findings)

    tested, pictures = find_test_ids(lists), []
    for name in listed:
        if name in ids_in[photographs]:
            files = [(kind, file_of(kind, folder, name)) for kind, folder in places if name in ids_in[kind, folder]]
            use = TEST if name in tested else VOC_TRAINING
            pictures.append(Picture(paths[name], use, files, num_labels))
    return pictures


def check_folder(kind: str, paths: list[Path], findings: list[Finding]) -> None:
    """Check all files of a folder together: labels of 0 and 255 without any class, and maps that are all empty."""
    with suppress(InputError):  # of a damaged file, which is found with its picture
        if kind == "label" and lack_classes(paths):
            findings.append(Finding(ERROR, "only 0 and 255, no class", paths[0].parent, "save a class as 1"))
        if kind == "saliency map" and paths and not any(images.load_grey(path).any() for path in paths):
            findings.append(Finding(NOTE, "all saliency maps are empty", paths[0].parent))


def list_ids(kind: str, folder: Path, nested: Iterable[str]) -> set[str]:
    """List the ids that have a file in a folder, and those of `nested` below it; a missing folder has none."""
    ids = {path.name.removesuffix(SUFFIXES[kind]) for path in folder.glob(f"*{SUFFIXES[kind]}")}
    return ids | {name for name in nested if "/" in name and file_of(kind, folder, name).is_file()}


def file_of(kind: str, folder: Path, image_id: str) -> Path:
    return folder / (image_id + SUFFIXES[kind])


# files, read as the other scripts read them


def check_picture(picture: Picture) -> tuple[list[Finding], np.ndarray | None]:
    """Check an image and its files. Returns the findings and the image's signature, `None` if it has none."""
    findings, image = [], None
    with record_errors(findings, "cannot be read", picture.image):
        content = read_bytes(picture.image)
        image = images.decode_image(content, picture.image)
        findings += [Finding(NOTE, f"{trait} image", picture.image) for trait in find_traits(content, picture.image)]
    for kind, path in picture.files:
        with record_errors(findings, "cannot be read", path):
            size_hw = CHECKS[kind](path, picture.num_labels, findings)
            if image is not None:
                with record_errors(findings, "sizes differ", path):
                    check_size(path, size_hw, picture.image, image.shape[:2])
    return findings, None if image is None else compute_signature(image)


def find_traits(content: bytes, path) -> list[str]:
    """List the properties of an image file that the scripts ignore or convert."""
    orientation = 1
    with images.open_image(content, path) as image:
        mode, has_alpha = image.mode, image.has_transparency_data
        with suppress(*images.PILLOW_ERRORS):  # damaged EXIF data, which no script reads
            # image.getexif() of a PNG would decode all pixels
            orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    traits = {
        "EXIF rotation is ignored:": orientation != 1,
        "grey": mode in ("1", "L", "LA") or mode.startswith("I"),
        "CMYK": mode == "CMYK",
        "16-bit": mode.startswith("I") or (image.format == "PNG" and content[images.PNG_BIT_DEPTH] == 16),
        "transparent": has_alpha,
    }
    return [name for name, applies in traits.items() if applies]


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
    label = load_label(path)
    with record_errors(findings, "class id that does not exist", path):
        check_labels(label, num_labels, path)
    if not np.any((label > 0) & (label != IGNORE_LABEL)):
        findings.append(Finding(NOTE, "label without any class", path))
    return label.shape


def _check_cams(path: Path, num_labels: int, findings: list[Finding]) -> tuple[int, int]:
    cams, classes = load_cams(path)
    with record_errors(findings, "class id that does not exist", path):
        check_labels(classes, num_labels, path)
    return cams.shape[1:]


CHECKS = {  # kind of file → function that adds findings and returns (H, W)
    "mask": _check_mask,
    "test mask": partial(_check_mask, severity=NOTE),
    "label": _check_label,
    "saliency map": lambda path, num_labels, findings: images.load_grey(path).shape,
    "CAM": _check_cams,
}


# pictures in two sets: renamed, encoded again or scaled, but not cropped or mirrored


def find_shared_pictures(signatures: dict[str, dict[Path, np.ndarray]]) -> list[Finding]:
    """Find saliency training pictures in test data (an error) and in VOC's training lists (a note).

    `signatures`: use → image → signature. A saliency network trained on pictures of VOC has seen object masks of them,
    so the results no longer use image labels only.
    """
    findings = []
    for use, severity in ((TEST, ERROR), (VOC_TRAINING, NOTE)):
        what = f"{SALIENCY_TRAINING} picture in {use} data"
        for path, other, similarity in find_duplicates(signatures[SALIENCY_TRAINING], signatures[use]):
            findings.append(Finding(severity, what, path, f"{other} shows the same ({similarity:.3f})"))
    return findings


def compute_signature(image: np.ndarray) -> np.ndarray | None:
    """Compute the signature int8 [576] of an image, RGB uint8 [H, W, 3]; `None` for a picture without contrast.

    It is the grey image at 24×24 px minus a blurred copy, so that two skies differ by their clouds.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = small - cv2.GaussianBlur(small, (0, 0), BLUR_SIGMA_PX)
    if detail.std() < MIN_CONTRAST:
        return None
    return np.rint(detail * (127 / np.abs(detail).max())).astype(np.int8).ravel()


def find_duplicates(first: dict[Path, np.ndarray], second: dict) -> Iterator[tuple[Path, Path, float]]:
    """Yield (image in `first`, image in `second`, correlation) of all pairs of signatures of the same picture."""
    paths, others = list(first), list(second)
    rows, columns = (_normalize(signatures.values()) for signatures in (first, second))
    for start in range(0, len(rows), BLOCK_ROWS):
        correlations = rows[start : start + BLOCK_ROWS] @ columns.T
        for row, column in np.argwhere(correlations > MIN_CORRELATION):
            yield paths[start + row], others[column], float(correlations[row, column])


def _normalize(signatures) -> np.ndarray:
    """Stack signatures to float32 [N, 576] with rows of mean 0 and length 1."""
    rows = np.array(list(signatures), np.float32).reshape(-1, SIDE_PX**2)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
