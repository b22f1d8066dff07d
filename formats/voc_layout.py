"""Layout of the VOC 2012 tree: its folders, classes and lists of ids.

    VOC2012/{JPEGImages, SegmentationClass, SegmentationClassAug, classes.txt}
    voc12/{cls_labels.npy, train_aug_id.txt, train_id.txt, val_id.txt}

`classes.txt` (names of the foreground classes, one per line) is for other data sets; without it the classes are VOC's.
Instead of JPEGImages there may be photographs.txt, which holds the path of a folder of photographs. These may have any
format and lie in folders below it. Their ids are paths relative to that folder, without suffix.
"""

import re
import unicodedata
from collections.abc import Collection
from pathlib import Path

from formats.atomic_files import write_text
from formats.errors import InputError, MissingInputError, folder_below, require_folder, shorten
from formats.images import IMAGE_SUFFIXES, images_below, read_bytes

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
MAX_CLASSES = 254  # labels are uint8; 0 is background and 255 is ignored
BACKGROUND_NAMES, IGNORE_NAME = ("background", "bg"), "ignore"  # in class lists, often between underscores
PHOTOGRAPH_PREFIX = re.compile(r"^/?JPEGImages/(?=[^/]+$)")  # of the lines in VOC's own lists
PAIR_OF_PATHS = re.compile(r"(.+?\.\w{3,4})\s.+\.\w{3,4}")
ID_AND_NUMBER = re.compile(r"(.*\S)\s+(?:-1|0|[1-9][0-9]{0,2})")
PATH_CHARACTERS = "\\:"  # an id must not lead out of its folder; Windows drives have colons
PHOTOGRAPHS_FILE = "photographs.txt"
LABEL_ROOT = Path("experiments/pseudo_labels")
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
VOC_PARENTS = ("", "VOCdevkit", "voc12/VOCdevkit", "data/voc12/VOCdevkit")  # relative to --data_dir
SEARCHED_LEVELS = 4  # folders below --data_dir, such as VOCtrainval_11-May-2012/VOCdevkit/VOC2012


def find_voc_root(data_dir, searches: bool = True) -> Path:
    """Find the folder that holds JPEGImages or photographs.txt: `data_dir`, a folder below it as in the README, or the
    parent of VOC2012; else, if `searches`, the only one within `SEARCHED_LEVELS` below `data_dir`.

    Raises `MissingInputError` if there is none, `InputError` if there are several.
    """
    data_dir = require_folder(data_dir, "--data_dir")
    places = [data_dir / parent / last for parent in VOC_PARENTS for last in ("", "VOC2012")]
    for root in places + ([data_dir.parent] if data_dir.name == "VOC2012" else []):
        if (root / "JPEGImages").is_dir() or (root / PHOTOGRAPHS_FILE).is_file():
            return root
    levels = range(1, SEARCHED_LEVELS + 1) if searches else ()
    found = [path.parent for level in levels for path in sorted(data_dir.glob("*/" * level + "JPEGImages/"))]
    if len(found) > 1:
        raise InputError(f"--data_dir {data_dir} holds JPEGImages in {shorten(found, 3)}: name one of these folders")
    if not found:
        there = shorten(sorted(path.name for path in data_dir.iterdir()), 3) or "nothing"
        raise MissingInputError(f"--data_dir: no JPEGImages in {data_dir} or folders below it; there is {there}")
    return found[0]


def load_class_names(voc_root) -> tuple[str, ...]:
    """Load the names of the foreground classes from classes.txt, VOC's if it is absent; see `parse_class_names`."""
    path = Path(voc_root) / "classes.txt"
    return read_class_names(path) if path.is_file() else VOC_CLASSES


def read_class_names(path) -> tuple[str, ...]:
    """Read the names of the foreground classes from a file; see `parse_class_names`."""
    return parse_class_names(decode_text(read_bytes(path), path).splitlines(), path)


def parse_class_names(lines: list[str], path) -> tuple[str, ...]:
    """Return the names of the foreground classes, one per line; label i + 1 is the class with index i.

    Left out is what annotation tools add: `__ignore__` (label 255) and background (label 0) in the first lines, and
    numbers from 0 or 1 before the names. Raises `InputError` for a background in a later line.
    """
    names = _without_numbers([line.strip() for line in lines if line.strip()])
    plain = [name.strip("_").lower() for name in names]
    first = int(plain[:1] == [IGNORE_NAME])
    first += plain[first : first + 1] in [[name] for name in BACKGROUND_NAMES]
    for number, name in enumerate(plain[first:], start=first + 1):
        if name in BACKGROUND_NAMES:
            raise InputError(f"{path}, name {number}: background is label 0: list it first, or leave it out")
    names = tuple(names[first:])
    if not 1 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise InputError(f"{path} holds {len(names)} names: it must hold 1 to {MAX_CLASSES} different names")
    return names


def _without_numbers(names: list[str]) -> list[str]:
    """Remove the numbers before all names if they count from 0 or 1."""
    pairs = [name.split(maxsplit=1) for name in names]
    numbers = [pair[0] for pair in pairs if len(pair) == 2]
    counts = (list(map(str, range(first, first + len(names)))) for first in (0, 1))
    return [pair[1] for pair in pairs] if numbers in counts else names


def list_path(list_dir, name: str) -> Path:
    """Return the path of a list: a plain name is in `list_dir`, a path with a folder is kept."""
    return Path(name) if _is_path(name) else Path(list_dir) / name


def load_ids(path, images: Path | Collection[str] = ()) -> list[str]:
    """Load the ids of a list, one per line, with or without the suffix of the image.

    A line of several words is an id if it is the stem of one of the `images`, given by their folder or their stems;
    else a pair of paths, as in VOC's own lists (`/JPEGImages/<id>.jpg /Segmentation…/<id>.png`), or an id with class
    numbers. Raises `InputError` for an empty list, repeated ids, ids that are not file names, and ambiguous lines.
    """
    if not Path(path).exists():
        raise MissingInputError(f"list {path} does not exist: name another by --list, --train_list or --val_list")
    return parse_ids(read_bytes(path), path, images)


def parse_ids(content: bytes, name, images: Path | Collection[str] = ()) -> list[str]:
    """Do the same as `load_ids` with the bytes of a file, `name` in error messages."""
    ids = split_ids(content, name, images)
    for image_id in ids:
        check_id(image_id, name)
    if not ids:
        raise InputError(f"{name} is empty: it must hold one image id per line")
    if repeated := len(ids) - len(set(ids)):
        raise InputError(f"{name} holds {repeated} ids more than once: remove the repetitions")
    return ids


def split_ids(content: bytes, name, images: Path | Collection[str] = ()) -> list[str]:
    """Split a list into ids without checking whether they are file names, and repeated."""
    stems = images
    if isinstance(images, Path):
        stems = {path.stem for path in images.iterdir()} if images.name == "JPEGImages" else images_below(images)
    lines = enumerate(decode_text(content, name).splitlines(), start=1)
    return [_read_id(line.strip(), f"{name}, line {number}", stems) for number, line in lines if line.strip()]


def _read_id(line: str, where: str, stems: Collection[str]) -> str:
    readings = [line]
    if pair := PAIR_OF_PATHS.fullmatch(line):
        readings.append(pair[1])
    while shorter := ID_AND_NUMBER.fullmatch(readings[-1]):
        readings.append(shorter[1])
    ids = [drop_image_suffix(PHOTOGRAPH_PREFIX.sub("", reading)) for reading in readings]
    present = [image_id for image_id in ids if image_id in stems]
    if len(present) > 1:
        choice = f"write {present[0]}.jpg for the first, {present[1]}.jpg for the second"
        raise InputError(f"{where}: there are images {present[0]!r} and {present[1]!r}: {choice}")
    image_id = (present or ids)[-1]
    if image_id != ids[0] and line.split()[-1] == "-1":
        found = f"{where}: -1 marks an image without the class of the list, as in VOC's ImageSets/Main"
        raise InputError(f"{found}: use a list of ImageSets/Segmentation, or keep only the first column")
    if "," in image_id and not present:
        raise InputError(f"{where}: no image has this name, which has commas: write one id per line")
    return image_id


def drop_image_suffix(name: str) -> str:
    """Remove the suffix of an image file, in any case, from the end of an id."""
    return name[: name.rindex(".")] if name.lower().endswith(IMAGE_SUFFIXES) else name


def check_id(image_id: str, name) -> None:
    """Raise `InputError` for an id that would lead out of its folder; `name` is the list that holds it."""
    parts = image_id.split("/")
    if not {"", ".", ".."}.isdisjoint(parts) or not image_id.isprintable() or set(image_id) & set(PATH_CHARACTERS):
        found = f"{name} holds {image_id!r}: an id is the name of a file, without suffix"
        raise InputError(f"{found}, or its path from the folder of the photographs")


def decode_text(content: bytes, name) -> str:
    """Decode UTF-8, with or without a byte order mark; `name` appears in the error message."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not text in UTF-8 ({error.reason}): save it in UTF-8") from None


def save_ids(path, ids) -> None:
    """Save a list, one id per line."""
    write_text(path, "".join(f"{name}\n" for name in ids))


def photograph_folder(voc_root) -> Path:
    """Return JPEGImages, or the folder that photographs.txt names. Raises `InputError` if that does not exist."""
    path = Path(voc_root) / PHOTOGRAPHS_FILE
    if not path.is_file():
        return Path(voc_root) / "JPEGImages"
    return require_folder(decode_text(read_bytes(path), path).strip(), str(path))


def find_all_photographs(voc_root) -> dict[str, Path]:
    """Map the ids of all photographs to their paths."""
    folder = photograph_folder(voc_root)
    is_voc = not (Path(voc_root) / PHOTOGRAPHS_FILE).is_file()
    return {path.stem: path for path in folder.glob("*.jpg")} if is_voc else images_below(folder)


def find_photographs(voc_root, ids: list[str]) -> list[Path]:
    """Return the paths of the photographs of all ids. Raises `MissingInputError` if any is missing."""
    folder = photograph_folder(voc_root)
    if not (Path(voc_root) / PHOTOGRAPHS_FILE).is_file():
        return files_of_ids(folder, ids, ".jpg")
    present = find_all_photographs(voc_root)
    missing = [name for name in ids if name not in present]
    if missing:
        found = f"{folder} lacks {len(missing)} of {len(ids)} photographs ({shorten(missing, 3)})"
        raise MissingInputError(f"{found}: add them, or remove their ids from the list")
    return [present[name] for name in ids]


def files_of_ids(folder, ids: list[str], suffix: str) -> list[Path]:
    """Return the paths of the files of all ids. Raises `MissingInputError` if any file is missing."""
    folder = require_folder(folder)
    missing = [ids[index] for index in absent_files(folder, ids, suffix)]
    if missing:
        found = f"{len(missing)} of {len(ids)} files are missing ({shorten((n + suffix for n in missing), 3)})"
        hint = hint_at_names(missing, names_in(folder, ids), suffix)
        raise MissingInputError(f"{folder}: {found}: add them, or remove their ids from the list{hint}")
    return [folder / (name + suffix) for name in ids]


def hint_at_names(missing: list[str], present: Collection[str], suffix: str) -> str:
    """Return the end of a message about missing files `<id><suffix>`: similar names among those `present`, or ""."""
    composed = {unicodedata.normalize("NFC", image_id) for image_id in missing}
    same = sorted(name for name in present if unicodedata.normalize("NFC", Path(name).stem) in composed)
    starts = tuple(image_id + mark for image_id in missing[:20] for mark in "._-")
    similar = same or sorted(name for name in present if name.startswith(starts))
    expected = f"but files must be named <id>{suffix}: convert or rename them"
    if any(name.endswith(suffix) for name in same):
        expected = "in another Unicode form: copy the names of the files into the list"
    return f"; there is {shorten(similar, 2)}, {expected}" if similar else ""


def absent_files(folder: Path, ids: list[str], suffix: str) -> list[int]:
    """Indices of the ids without a file in `folder`."""
    present = names_in(folder, ids)
    return [index for index, name in enumerate(ids) if name + suffix not in present]


def mask_folder(voc_root, name: str) -> Path:
    """Return the mask folder `name`: next to JPEGImages if it exists there, else in or beside VOC2012/."""
    root = Path(voc_root)
    places = [root / name, root / "VOC2012" / name] + ([root.parent / name] if root.name == "VOC2012" else [])
    return next((folder for folder in places if folder.is_dir()), places[0])


def truth_folder(voc_root, ids) -> Path:
    """Return the folder of the masks of `ids`: SegmentationClass, or SegmentationClassAug if the former lacks some."""
    folder, augmented = (mask_folder(voc_root, name) for name in MASK_FOLDERS)
    return augmented if augmented.is_dir() and absent_files(folder, ids, ".png") else folder


def find_masks(voc_root, ids) -> dict[str, Path]:
    """Map the ids that have a mask in `truth_folder` to its path."""
    folder = truth_folder(voc_root, ids)
    present = names_in(folder, ids)
    return {name: folder / f"{name}.png" for name in ids if f"{name}.png" in present}


def label_folder(label_name: str, voc_root) -> Path:
    """Find the labels of `--label_name`: a path, a folder of the VOC tree, or a name below `LABEL_ROOT`."""
    candidates = [LABEL_ROOT / label_name, mask_folder(voc_root, label_name), Path(label_name)]
    if _is_path(label_name):
        candidates.reverse()
    for folder in candidates:
        if folder.is_dir():
            return folder
    places = f"a folder, nor in {LABEL_ROOT} or {voc_root}"
    raise MissingInputError(f"--label_name {label_name} is neither {places}: run make_pseudo_labels.py to make it")


def new_label_folder(label_name: str) -> Path:
    """Return the folder to write labels to: a path is kept, a plain name is below `LABEL_ROOT`."""
    folder = Path(label_name) if _is_path(label_name) else folder_below(LABEL_ROOT, label_name, "--label_name")
    if folder.is_file():
        raise InputError(f"--label_name {label_name} is a file: name a folder")
    return folder


def _is_path(name: str) -> bool:
    return "/" in name or "\\" in name


def names_in(folder: Path, ids: Collection[str]) -> set[str]:
    """Names of the files of a folder; if some of the ids are paths, the paths from it of all files below it."""
    if any("/" in name for name in ids):
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
