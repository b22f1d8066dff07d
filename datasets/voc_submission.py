"""Results on VOC 2012's test set as its server takes them: a .tar.gz of palette PNGs.

    results/VOC2012/Segmentation/comp6_test_cls/<id>.png     comp5: trained on VOC's own data alone

One for each photograph and of its size, 8 bits, VOC's palette, labels 0 to 20. Archives are never unpacked to disk.
"""

import gzip
import io
import math
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from datasets.archive_files import Archive, open_archive
from formats.atomic_files import atomic_path
from formats.errors import InputError, MissingInputError, first_line, shorten
from formats.images import PNG_BIT_DEPTH, open_image, read_bytes
from formats.labels import IGNORE_LABEL, VOC_PALETTE, decode_label
from formats.voc_layout import VOC_CLASSES, files_of_ids

FOLDERS = {name: f"results/VOC2012/Segmentation/{name}_test_cls" for name in ("comp6", "comp5")}
NUM_LABELS = len(VOC_CLASSES) + 1
LARGEST_ARCHIVE = 1 << 29  # bytes when unpacked; 1456 masks have a few millions
LARGEST_MASK = 1 << 24  # px; photographs of VOC have a quarter of a million
MODES = {"1": "grey", "L": "grey", "I;16": "grey", "RGB": "RGB", "P": "palette", "LA": "grey with alpha"}

Size = tuple[int, int] | None  # (H, W) of a photograph; None where it is not known


@dataclass(frozen=True)
class SubmissionReport:
    """`problems`: a line for each kind; the folder of the masks, and how many of them hold each label."""

    problems: list[str]
    folder: str
    masks_of_label: list[int]


def save_submission(path, folder, sizes: dict[str, Size], competition: str = "comp6") -> SubmissionReport:
    """Packs `<folder>/<id>.png` of every id of `sizes`; equal masks give equal bytes.

    What the server would refuse is an `InputError`, and an earlier archive stays as it was.
    """
    masks = files_of_ids(folder, sorted(sizes), ".png")
    with atomic_path(path) as temporary:
        _pack(temporary, masks, FOLDERS[competition])
        report = check_submission(temporary, sizes)
        if report.problems:
            raise InputError(f"{path} is not written, masks in {folder} would be refused: {'; '.join(report.problems)}")
    return report


def check_submission(path, sizes: dict[str, Size], num_labels: int = NUM_LABELS) -> SubmissionReport:
    """Looks for all that the server would refuse or count as wrong in an archive of the masks of `sizes`."""
    problem = _container_problem(Path(path))
    if problem:
        return SubmissionReport([problem], "", [0] * num_labels)
    try:
        with open_archive(path) as archive:
            return _check_archive(archive, sizes, num_labels)
    except InputError as error:
        return SubmissionReport([f"not a whole .tar.gz of masks ({error})"], "", [0] * num_labels)


class Problems:
    """Kind of problem → the names that have it, told in the order in which the kinds were met."""

    def __init__(self):
        self.names: dict[str, list[str]] = {}

    def add(self, kind: str, *names: str) -> None:
        if names:
            self.names.setdefault(kind, []).extend(names)

    def lines(self) -> list[str]:
        return [f"{kind}: {len(names)} ({shorten(names)})" for kind, names in self.names.items()]


def _pack(path: Path, masks: list[Path], folder: str) -> None:
    with (
        open(path, "wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,  # without a name and a time
        tarfile.open(fileobj=packed, mode="w") as archive,
    ):
        for mask in masks:
            content = read_bytes(mask)
            member = tarfile.TarInfo(f"{folder}/{mask.name}")  # without an owner and a time
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _container_problem(path: Path) -> str | None:
    """What tells an archive from a .tar.gz of a few megabytes before anything of it is held in memory."""
    if path.is_dir():
        return "a folder, not a .tar.gz"
    if not path.is_file():
        raise MissingInputError(f"{path} does not exist")
    size = 0
    try:
        with gzip.open(path) as file:
            while piece := file.read(1 << 20):
                size += len(piece)
                if size > LARGEST_ARCHIVE:
                    return f"unpacks to more than {LARGEST_ARCHIVE >> 20} MiB"
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        return f"not a whole .tar.gz ({first_line(error)})"
    return None


def _check_archive(archive: Archive, sizes: dict[str, Size], num_labels: int) -> SubmissionReport:
    problems, counts = Problems(), np.zeros(num_labels, int)
    masks = _find_masks(archive, sizes, problems)
    for name, member in masks.items():
        present = _check_mask(archive, member, sizes[name], num_labels, problems)
        counts[present[present < num_labels]] += 1
    return SubmissionReport(problems.lines(), ", ".join(_folders_of(masks)), counts.tolist())


def _find_masks(archive: Archive, sizes: dict[str, Size], problems: Problems) -> dict[str, str]:
    """Id → member, in the archive's order, of the masks that are there, be it in another folder."""
    masks, repeated, others, elsewhere = {}, list(archive.repeated), [], []
    for member in archive.sizes:
        path = PurePosixPath(member)
        if path.suffix != ".png" or path.stem not in sizes:
            others.append(member)
        elif path.stem in masks:
            repeated.append(member)
        else:
            masks[path.stem] = member
            if str(path.parent) not in FOLDERS.values():
                elsewhere.append(member)
    problems.add("masks of the list that are missing", *(name for name in sizes if name not in masks))
    problems.add("files that are no mask of the list", *others)
    problems.add("masks given twice", *repeated)
    problems.add(f"masks neither in {' nor in '.join(FOLDERS.values())}", *elsewhere)
    competitions = _folders_of(masks) & set(FOLDERS.values())
    if len(competitions) > 1:
        problems.add("competitions in one archive", *sorted(competitions))
    return masks


def _folders_of(masks: dict[str, str]) -> set[str]:
    return {str(PurePosixPath(member).parent) for member in masks.values()}


def _check_mask(archive: Archive, member: str, size_hw: Size, num_labels: int, problems: Problems) -> np.ndarray:
    """The values that a mask holds; none where it cannot be read as label map."""
    name, none = PurePosixPath(member).stem, np.zeros(0, np.uint8)
    try:
        content = archive.read(member)
        with open_image(io.BytesIO(content), member, formats=("PNG",)) as image:
            mode, mask_hw, palette = image.mode, (image.height, image.width), image.getpalette()
        _check_format(mode, content[PNG_BIT_DEPTH], mask_hw, name, size_hw, problems)
        if mode != "P" or math.prod(mask_hw) > LARGEST_MASK:
            return none
        present = np.unique(decode_label(content, member))
    except InputError:
        problems.add("masks that are damaged or no PNG", name)
        return none
    colours = np.array(palette).reshape(-1, 3)
    if len(colours) <= present[-1] or not np.array_equal(colours, VOC_PALETTE[: len(colours)]):
        problems.add("masks with another palette than VOC's", name)
    unknown = present[(present >= num_labels) & (present != IGNORE_LABEL)]
    if unknown.size:
        problems.add(f"masks with labels over {num_labels - 1}", f"{name}: {shorten(unknown)}")
    if IGNORE_LABEL in present:
        problems.add(f"masks with {IGNORE_LABEL}, which counts as wrong", name)
    return present


def _check_format(mode: str, depth: int, mask_hw: Size, name: str, size_hw: Size, problems: Problems) -> None:
    if mode != "P" or depth != 8:
        problems.add("masks that are no 8-bit palette PNGs", f"{name}: {depth} bits, {MODES.get(mode, mode)}")
    height, width = mask_hw
    if size_hw is not None and mask_hw != tuple(size_hw):
        sizes = f"{height} × {width}, not {size_hw[0]} × {size_hw[1]}"
        problems.add("masks of another size than their photograph", f"{name}: {sizes}")
    elif height * width > LARGEST_MASK:
        problems.add(f"masks of more than {LARGEST_MASK} px", f"{name}: {height} × {width}")
