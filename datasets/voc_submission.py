"""Results on the test set of VOC 2012 in the form that its evaluation server accepts: a .tar.gz of palette PNGs.

It holds results/VOC2012/Segmentation/comp6_test_cls/<id>.png for each photograph: a mask of its size, with VOC's
palette and labels 0 to 20.
"""

import gzip
import io
import tarfile
import zlib
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

from formats.atomic_files import atomic_path
from formats.errors import InputError, MissingInputError, first_line, shorten
from formats.images import open_verified_png, read_bytes
from formats.labels import IGNORE_LABEL, VOC_PALETTE
from formats.voc_layout import VOC_CLASSES, files_of_ids

SUBMISSION_FOLDER = "results/VOC2012/Segmentation/comp6_test_cls"  # comp5: networks trained on VOC's own data alone
NUM_LABELS = len(VOC_CLASSES) + 1

Size = tuple[int, int]  # (H, W) of a photograph
Problems = dict[str, list[str]]  # kind of problem → the masks or files that have it


def save_submission(path, folder, sizes: dict[str, Size]) -> None:
    """Pack `<folder>/<id>.png` of every id of `sizes`; equal masks give equal bytes.

    Raises `InputError` if the server would refuse a mask; an earlier archive then remains.
    """
    masks = files_of_ids(folder, sorted(sizes), ".png")
    with atomic_path(path) as temporary:
        _pack(temporary, masks)
        problems, _ = check_submission(temporary, sizes)
        if problems:
            raise InputError(f"{path} is not written, masks in {folder} would be refused: {'; '.join(problems[:2])}")


def check_submission(path, sizes: dict[str, Size]) -> tuple[list[str], list[int]]:
    """Find everything that the server would refuse or count as wrong in an archive of masks of the ids of `sizes`.

    Returns the problems, one line per kind, and the number of masks that contain each label.
    """
    problems, counts = defaultdict(list), np.zeros(NUM_LABELS, int)
    try:
        masks = _read_masks(path, sizes, problems)
    except FileNotFoundError:
        raise MissingInputError(f"{path} does not exist") from None
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError, IsADirectoryError) as error:
        return [f"not a whole .tar.gz of masks ({first_line(error)})"], counts.tolist()
    for name, content in masks.items():
        present = _check_mask(name, content, sizes[name], problems)
        counts[present[present < NUM_LABELS]] += 1
    lines = [f"{kind}: {len(names)} ({shorten(names, 2)})" for kind, names in problems.items()]
    return lines, counts.tolist()


def _pack(path: Path, masks: list[Path]) -> None:
    with (
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,  # without a name and a time
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for mask in masks:
            content = read_bytes(mask)
            member = tarfile.TarInfo(f"{SUBMISSION_FOLDER}/{mask.name}")  # without an owner and a time
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _read_masks(path, sizes: dict[str, Size], problems: Problems) -> dict[str, bytes]:
    """Map ids to the content of their masks, also of those in a wrong folder."""
    masks = {}
    with tarfile.open(path, "r:gz") as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            if member.isdir():
                continue
            if not member.isreg() or place.suffix != ".png" or place.stem not in sizes:
                problems["files that are not masks of listed ids"].append(str(place))
            elif place.stem in masks:
                problems["masks given twice"].append(str(place))
            else:
                masks[place.stem] = archive.extractfile(member).read()
                if str(place.parent) != SUBMISSION_FOLDER:
                    problems[f"masks not in {SUBMISSION_FOLDER}"].append(str(place))
    missing = [name for name in sizes if name not in masks]
    if missing:
        problems["masks of the list that are missing"] = missing
    return masks


def _check_mask(name: str, content: bytes, size_hw: Size, problems: Problems) -> np.ndarray:
    """Find faults of a mask. Returns the labels in it, uint8 [N]; none if it cannot be read."""
    try:
        with open_verified_png(content, name) as image:
            mask, mode, palette = np.asarray(image), image.mode, image.getpalette()
    except InputError:
        problems["masks that are damaged or no PNG"].append(name)
        return np.zeros(0, np.uint8)
    if mask.shape[:2] != tuple(size_hw):
        detail = f"{name}: {mask.shape[0]} × {mask.shape[1]}, not {size_hw[0]} × {size_hw[1]}"
        problems["masks whose size differs from their photograph"].append(detail)
    if mode != "P":
        problems["masks that are not palette PNGs"].append(f"{name}: mode {mode}")
        return np.zeros(0, np.uint8)
    present, colours = np.unique(mask), np.reshape(palette, (-1, 3))
    if len(colours) <= present[-1] or not np.array_equal(colours, VOC_PALETTE[: len(colours)]):
        problems["masks whose palette is not VOC's"].append(name)
    unknown = present[(present >= NUM_LABELS) & (present != IGNORE_LABEL)]
    if unknown.size:
        problems[f"masks with labels over {NUM_LABELS - 1}"].append(f"{name}: {shorten(unknown)}")
    if IGNORE_LABEL in present:
        problems[f"masks with {IGNORE_LABEL}, which counts as wrong"].append(name)
    return present
