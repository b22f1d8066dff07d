"""VOC 2012 from its archives: VOCtrainval_11-May-2012.tar, VOC2012test.tar and SegmentationClassAug.zip.

An archive is a .zip, a .tar, a .tar.gz, or a folder that was unpacked before. Nothing is extracted: members are listed,
read into memory, and written only to places that `NEEDED` and `MASK` match, so that no archive leads elsewhere.
"""

import gzip
import os
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from formats.atomic_files import write_bytes
from formats.errors import InputError, MissingInputError, first_line, shorten
from formats.image_labels import load_image_labels, save_image_labels
from formats.images import read_bytes
from formats.labels import check_labels, decode_label, load_label
from formats.voc_layout import find_voc_root, load_ids, parse_ids, save_ids
from utils.output_folder import hold_folder

AUG = "SegmentationClassAug"
NAME = r"[^./\\:][^/\\:]*"  # not hidden, as files of macOS are, and without separators and the colon of a drive
NEEDED = re.compile(
    rf"JPEGImages/{NAME}\.jpg|Annotations/{NAME}\.xml|SegmentationClass/{NAME}\.png"
    rf"|ImageSets/Segmentation/{NAME}\.txt|classes\.txt"
)
MASK = re.compile(rf"(.*/)?{NAME}\.png")
DAMAGE = (zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError)
NUM_IMAGES = {"train": 1464, "train_aug": 10582, "val": 1449, "test": 1456}  # of VOC 2012
NUM_SINGLE_CLASS = {"train": 933, "train_aug": 6249}


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
    """The regular files of a .zip, a .tar, a .tar.gz or a folder; the kind is detected from the content.

    Links, devices and folders in an archive are left out. Raises `InputError` if it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        yield Archive(path, _sizes_in_folder(path), lambda name: read_bytes(path / name))
        return
    if not path.is_file():
        raise MissingInputError(f"{path} does not exist")
    with _explain_damage(path):
        is_zip = zipfile.is_zipfile(path)
        file = zipfile.ZipFile(path) if is_zip else tarfile.open(path)
    with file:
        with _explain_damage(path):
            if is_zip:
                sizes = {info.filename: info.file_size for info in file.infolist() if not info.is_dir()}
                archive = Archive(path, sizes, file.read)
            else:
                members = {info.name.removeprefix("./"): info for info in file if info.isreg()}
                file.fileobj.seek(file.offset)
                if file.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:  # tarfile stops silently
                    raise tarfile.ReadError("no end of the archive after the last file")
                sizes = {name: info.size for name, info in members.items()}
                archive = Archive(path, sizes, lambda name: file.extractfile(members[name]).read())
        yield archive


def _sizes_in_folder(folder: Path) -> dict[str, int]:
    paths = [Path(root) / name for root, _, names in os.walk(folder, followlinks=True) for name in names]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(paths) if path.is_file()}


@contextmanager
def _explain_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise InputError(
            f"{path} is damaged, cut short, or neither .zip nor .tar: fetch it again ({first_line(error)})"
        ) from None


def find_voc_members(archive: Archive, list_name: str) -> dict[str, str]:
    """Map the path below VOC2012 of each needed file to its name in the archive. VOC2012 is the folder that contains
    the list `list_name` in ImageSets.

    Raises `InputError` unless there is exactly one such folder.
    """
    ending = list_place(list_name)
    roots = [name.removesuffix(ending) for name in archive.sizes if f"/{name}".endswith(f"/{ending}")]
    if len(roots) != 1:
        found = f"{len(roots)} (in {shorten(roots)})" if roots else "none"
        raise InputError(f"{archive.path} should hold one {ending}, found {found}: pass an archive of VOC 2012")
    below = {name.removeprefix(roots[0]): name for name in archive.sizes if name.startswith(roots[0])}
    return {place: name for place, name in below.items() if NEEDED.fullmatch(place)}


def find_mask_members(archive: Archive) -> dict[str, str]:
    """Map the path below VOC2012 of each mask to its name in the archive: masks in SegmentationClassAug, or all PNGs if
    there is no such folder.
    """
    pngs = [name for name in archive.sizes if MASK.fullmatch(name)]
    pngs = [name for name in pngs if PurePosixPath(name).parent.name == AUG] or pngs
    others = {"SegmentationClass", "SegmentationObject"} & {PurePosixPath(name).parent.name for name in pngs}
    if others or not pngs:
        found = f"those of {', '.join(sorted(others))}" if others else "none"
        raise InputError(f"{archive.path} should hold masks <id>.png, found {found}: is it {AUG}.zip?")
    members: dict[str, str] = {}
    for name in pngs:
        first = members.setdefault(f"{AUG}/{PurePosixPath(name).name}", name)
        if first != name:
            raise InputError(f"{archive.path} holds {first} and {name}: remove one of the two masks")
    return members


def list_place(list_name: str) -> str:
    return f"ImageSets/Segmentation/{list_name}.txt"


def read_ids(archive: Archive, members: dict[str, str], list_name: str) -> list[str]:
    """The ids of ImageSets/Segmentation/<list_name>.txt."""
    place = list_place(list_name)
    if place not in members:
        raise InputError(f"{archive.path} holds no {place}: is it the archive of VOC 2012?")
    return parse_ids(archive.read(members[place]), f"{archive.path}: {place}")


def find_train_aug_ids(archive: Archive, masks: dict[str, str], val_ids: list[str]) -> list[str]:
    """The ids of the masks that are not in val, sorted by name."""
    ids = sorted({PurePosixPath(place).stem for place in masks} - set(val_ids))
    if not ids:
        raise InputError(f"{archive.path} holds masks of val alone: is it {AUG}.zip?")
    return ids


def check_members(archive: Archive, members: dict[str, str], ids: dict[str, list[str]]) -> None:
    """Raise `InputError` unless every id has its photograph, those of train and val their mask, and there are
    annotations."""
    wanted = [f"JPEGImages/{name}.jpg" for name in dict.fromkeys([*ids["train"], *ids["val"], *ids["train_aug"]])]
    wanted += [f"SegmentationClass/{name}.png" for name in [*ids["train"], *ids["val"]]]
    missing = [place for place in wanted if place not in members]
    if not any(place.startswith("Annotations/") for place in members):
        missing.append("Annotations/*.xml")
    if missing:
        raise InputError(f"{archive.path} lacks {len(missing)} files that are needed ({shorten(missing)})")


def check_data_dir(data_dir, voc_root: Path) -> None:
    """Raise `InputError` if `data_dir` already contains another VOC tree, which the other scripts would use instead of
    `voc_root`.
    """
    try:
        found = find_voc_root(data_dir)
    except MissingInputError:
        return
    if found.resolve() != voc_root.resolve():
        raise InputError(
            f"--data_dir {data_dir} holds a VOC tree already, {found}: move it away or name another folder"
        )


def check_lists(list_dir: Path, ids: dict[str, list[str]]) -> None:
    """Raise `InputError` if a list is there already that names other images."""
    for name, members in ids.items():
        path = list_dir / f"{name}_id.txt"
        if path.is_file() and set(load_ids(path)) != set(members):
            raise InputError(
                f"{path} lists other images than the archives contain: move it away, or choose another --list_dir"
            )


def unpack(archive: Archive, members: dict[str, str], voc_root: Path, num_labels: int | None = None) -> None:
    """Write each member to its place below `voc_root`, unless a file of its size is there.

    With `num_labels` the members are masks: raises `InputError` for one that holds other labels.
    """
    absent = {place: name for place, name in members.items() if _file_size(voc_root / place) != archive.sizes[name]}
    num_present = len(members) - len(absent)
    print(f"{archive.path}: {len(members)} files, {num_present} of them already in {voc_root}", flush=True)
    if absent:
        hold_folder(voc_root)
    for place, name in tqdm(absent.items(), desc=archive.path.name, unit="file", mininterval=1, leave=False):
        content = archive.read(name)
        if num_labels:
            check_labels(decode_label(content, f"{archive.path}: {name}"), num_labels, f"{archive.path}: {name}")
        write_bytes(voc_root / place, content)


def _file_size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def unpack_test(path, voc_root: Path, list_dir: Path) -> list[str]:
    """Add the photographs of the test archive; returns the ids of its list."""
    with open_archive(path) as archive:
        members = find_voc_members(archive, "test")
        ids = read_ids(archive, members, "test")
        check_lists(list_dir, {"test": ids})
        photographs = {place: name for place, name in members.items() if place.startswith("JPEGImages/")}
        missing = [name for name in ids if f"JPEGImages/{name}.jpg" not in photographs]
        if missing:
            raise InputError(f"{path} lacks {len(missing)} of {len(ids)} photographs ({shorten(missing)})")
        unpack(archive, photographs | {list_place("test"): members[list_place("test")]}, voc_root)
    return ids


def find_image_labels(voc_root: Path, ids: list[str], classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Id → bool [C], from the annotation of the image, or from its mask if it has none."""
    annotated = [name for name in ids if (voc_root / f"Annotations/{name}.xml").is_file()]
    labels = dict(zip(annotated, load_image_labels(voc_root / "Annotations", annotated, classes)))
    for name in ids:
        if name not in labels:
            masks = [voc_root / folder / f"{name}.png" for folder in (AUG, "SegmentationClass")]
            label = load_label(masks[0] if masks[0].is_file() else masks[1])
            labels[name] = np.isin(np.arange(1, len(classes) + 1), label)
    print(f"image labels: {len(annotated)} from annotations, {len(ids) - len(annotated)} from masks")
    return labels


def save_lists(list_dir: Path, ids: dict[str, list[str]]) -> None:
    """Write the lists that are missing."""
    for name, members in ids.items():
        if not (list_dir / f"{name}_id.txt").is_file():
            save_ids(list_dir / f"{name}_id.txt", members)


def save_labels(path: Path, labels: dict[str, np.ndarray], classes: tuple[str, ...]) -> None:
    """Write the image labels, or raise `InputError` if the file is there with other labels."""
    if not path.is_file():
        save_image_labels(path, labels)
    elif not np.array_equal(load_image_labels(path, list(labels), classes), list(labels.values())):
        raise InputError(
            f"{path} contains labels that differ from the annotations: move it away or name another --list_dir"
        )


def report_counts(ids: dict[str, list[str]], labels: dict[str, np.ndarray]) -> None:
    """Print the numbers of images, and of images of one class, with a warning where VOC 2012 has others."""
    lacking = set(ids["train"]) - set(ids["train_aug"])
    if lacking:
        print(f"warning: {AUG} lacks {len(lacking)} masks of train ({shorten(sorted(lacking))})")
    for name, members in ids.items():
        counts = {"images": (len(members), NUM_IMAGES[name])}
        if name in NUM_SINGLE_CLASS:
            single = sum(int(labels[member].sum() == 1) for member in members)
            counts["images of one class"] = (single, NUM_SINGLE_CLASS[name])
        for what, (count, known) in counts.items():
            warning = "" if count == known else f"; warning: VOC 2012 has {known}"
            print(f"{name}_id.txt: {count} {what}{warning}")
