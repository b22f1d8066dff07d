"""VOC 2012 from its archives: VOCtrainval_11-May-2012.tar, VOC2012test.tar and SegmentationClassAug.zip.

An archive is a .zip, a .tar, a .tar.gz, or a folder that was unpacked before. Nothing is extracted: members are listed,
read into memory, and written only to places that `FILE_PATTERN` and `MASK_PATTERN` match, so that no archive leads
elsewhere.
"""

import gzip
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from formats.atomic_files import write_bytes
from formats.errors import InputError, MissingInputError, shorten
from formats.image_labels import load_image_labels, save_image_labels
from formats.images import read_bytes
from formats.voc_layout import find_voc_root, load_class_names, load_ids, parse_ids, save_ids
from utils.output_folder import hold_folder

AUG = "SegmentationClassAug"
NAME = r"[^./\\:][^/\\:]*"  # not hidden, as files of macOS are, and without separators and the colon of a drive
FILE_PATTERN = re.compile(
    rf"JPEGImages/{NAME}\.jpg|Annotations/{NAME}\.xml|SegmentationClass/{NAME}\.png"
    rf"|ImageSets/Segmentation/{NAME}\.txt|classes\.txt"
)
MASK_PATTERN = re.compile(rf"(.*/)?{NAME}\.png")
LIST_PLACE = "ImageSets/Segmentation/{}.txt"
DAMAGE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
NUM_IMAGES = {"train_id.txt": 1464, "train_aug_id.txt": 10582, "val_id.txt": 1449, "test_id.txt": 1456}  # of VOC 2012


def unpack_voc12(data_dir, list_dir, trainval_path, aug_path, test_path=None) -> None:
    """Write the tree of VOC 2012 below `data_dir`, and lists and image labels to `list_dir`, from these archives.

    Files of the right size are kept. Raises `InputError` before anything is written if an archive is a wrong one or
    lacks files, or if `list_dir` has other lists; and at the end if it has other image labels.
    """
    voc_root = Path(data_dir) / "VOCdevkit/VOC2012"
    check_tree_place(data_dir, voc_root)
    with (
        open_archive(trainval_path) as trainval,
        open_archive(aug_path) as aug,
        open_archive(test_path) if test_path else nullcontext() as test,
    ):
        # check what they hold
        files, masks = find_files(trainval, "train"), find_archived_masks(aug)
        ids = {name: read_ids(trainval, files, name) for name in ("train", "val")}
        ids["train_aug"] = sorted({PurePosixPath(place).stem for place in masks} - set(ids["val"]))
        labelled = sorted({*ids["train"], *ids["train_aug"], *ids["val"]})
        needed = {"JPEGImages/{}.jpg": labelled, "Annotations/{}.xml": labelled}
        needed["SegmentationClass/{}.png"] = ids["train"] + ids["val"]
        check_files(trainval, files, needed)
        if test:
            test_files = find_files(test, "test")
            ids["test"] = read_ids(test, test_files, "test")
            check_files(test, test_files, {"JPEGImages/{}.jpg": ids["test"]})
        lists = {Path(list_dir) / f"{name}_id.txt": its_ids for name, its_ids in ids.items()}
        check_lists(lists, trainval.path)

        # unpack
        unpack(trainval, files, voc_root)
        unpack(aug, masks, voc_root)
        if test:
            unpack(test, test_files, voc_root)

    # lists and image labels
    classes = load_class_names(voc_root)
    rows = load_image_labels(voc_root / "Annotations", labelled, classes)
    save_lists(lists, NUM_IMAGES, "VOC 2012")
    save_labels_once(Path(list_dir) / "cls_labels.npy", labelled, rows, classes, voc_root / "Annotations")


def check_tree_place(data_dir, root: Path) -> None:
    """Raise `InputError` if `data_dir` holds another tree than `root`, which the other scripts would use."""
    with suppress(MissingInputError):
        found = find_voc_root(data_dir, searches=False)
        if found.resolve() != root.resolve():
            raise InputError(f"--data_dir {data_dir} holds a VOC tree already, {found}: move it or name another folder")


def check_lists(lists: dict[Path, list[str]], source) -> None:
    """Raise `InputError` if a list exists with other ids than `source` gives."""
    for path, ids in lists.items():
        if path.is_file() and set(load_ids(path)) != set(ids):
            raise InputError(f"{path} lists other images than {source}: move it, or set another --list_dir")


def save_lists(lists: dict[Path, list[str]], num_images: dict[str, int], data_set: str) -> None:
    """Save lists that do not exist, and print how many images they hold; `num_images` of each name are expected."""
    for path, ids in lists.items():
        if not path.is_file():
            save_ids(path, ids)
        known = num_images[path.name]
        print(f"{path}: {len(ids)} images{'' if len(ids) == known else f'; warning: {data_set} has {known}'}")


def save_labels_once(path: Path, ids: list[str], rows: np.ndarray, classes: tuple[str, ...], source) -> None:
    """Save image labels, bool [N, C], unless they exist. Raises `InputError` if others than those of `source` do."""
    if not path.is_file():
        save_image_labels(path, dict(zip(ids, rows)))
    elif not np.array_equal(load_image_labels(path, ids, classes), rows):
        raise InputError(f"{path} differs from {source}: move it, or set another --list_dir")


@dataclass(frozen=True)
class Archive:
    """`sizes`: name of each regular file, with slashes → bytes, in the order of the archive."""

    path: Path
    sizes: dict[str, int]
    read_member: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        with _explain_damage(self.path):
            return self.read_member(name)


@contextmanager
def open_archive(path) -> Iterator[Archive]:
    """Open the regular files of a .zip, a .tar, a .tar.gz or a folder; the kind is detected from the content.

    Links, devices and folders in an archive are left out. Raises `InputError` if it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        yield Archive(path, _sizes_in_folder(path), lambda name: read_bytes(path / name))
        return
    if not path.exists():
        raise MissingInputError(f"{path} does not exist")
    with _explain_damage(path):
        if zipfile.is_zipfile(path):
            file = zipfile.ZipFile(path)
            sizes = {info.filename: info.file_size for info in file.infolist() if not info.is_dir()}
            archive = Archive(path, sizes, file.read)
        else:
            file = tarfile.open(path)
            members = {info.name.removeprefix("./"): info for info in file if info.isreg()}
            sizes = {name: info.size for name, info in members.items()}
            archive = Archive(path, sizes, lambda name: file.extractfile(members[name]).read())
    with file:
        yield archive


def _sizes_in_folder(folder: Path) -> dict[str, int]:
    paths = [Path(root) / name for root, _, names in os.walk(folder, followlinks=True) for name in names]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(paths) if path.is_file()}


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE_ERRORS:
        raise InputError(f"{path} is damaged, cut short, or neither .zip nor .tar: fetch it again") from None


def find_files(archive: Archive, list_name: str) -> dict[str, str]:
    """Map the path below VOC2012 of each needed file to its name in the archive.

    VOC2012 is the folder with the list `list_name` in ImageSets. Raises `InputError` unless there is exactly one.
    """
    ending = LIST_PLACE.format(list_name)
    roots = [name.removesuffix(ending) for name in archive.sizes if f"/{name}".endswith(f"/{ending}")]
    if len(roots) != 1:
        raise InputError(f"{archive.path} should hold one {ending}, found {len(roots)}: pass an archive of VOC 2012")
    below = {name.removeprefix(roots[0]): name for name in archive.sizes if name.startswith(roots[0])}
    return {place: name for place, name in below.items() if FILE_PATTERN.fullmatch(place)}


def find_archived_masks(archive: Archive) -> dict[str, str]:
    """Map the path below VOC2012 of each mask to its name in the archive: PNGs in SegmentationClassAug, or all PNGs if
    there is no such folder.
    """
    folders = {name: PurePosixPath(name).parent.name for name in archive.sizes if MASK_PATTERN.fullmatch(name)}
    names = [name for name, folder in folders.items() if folder == AUG] or list(folders)
    if not names or not {"SegmentationClass", "SegmentationObject"}.isdisjoint(map(folders.get, names)):
        raise InputError(f"{archive.path} should hold masks <id>.png of {AUG}: is it {AUG}.zip?")
    return {f"{AUG}/{PurePosixPath(name).name}": name for name in names}


def read_ids(archive: Archive, files: dict[str, str], list_name: str) -> list[str]:
    place = LIST_PLACE.format(list_name)
    check_files(archive, files, {LIST_PLACE: [list_name]})
    return parse_ids(archive.read(files[place]), f"{archive.path}: {place}")


def check_files(archive: Archive, files: dict[str, str], needed: dict[str, list[str]]) -> None:
    """Raise `InputError` unless `files` has all that are `needed`, given as pattern → names to insert."""
    places = [pattern.format(name) for pattern, names in needed.items() for name in names]
    missing = [place for place in places if place not in files]
    if missing:
        raise InputError(f"{archive.path} lacks {len(missing)} needed files ({shorten(missing)}): fetch it again")


def unpack(archive: Archive, files: dict[str, str], voc_root: Path) -> None:
    """Write each file to its place below `voc_root`, unless a file of its size is there."""
    present = _sizes_in_folder(voc_root)
    absent = {place: name for place, name in files.items() if present.get(place) != archive.sizes[name]}
    print(f"{archive.path}: {len(files)} files, {len(files) - len(absent)} of them already in {voc_root}", flush=True)
    if absent:
        hold_folder(voc_root)
    for place, name in tqdm(absent.items(), desc=archive.path.name, unit="file", mininterval=1, leave=False):
        write_bytes(voc_root / place, archive.read(name))
