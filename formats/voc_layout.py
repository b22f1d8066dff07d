"""Layout of the VOC 2012 tree: its folders, classes and lists of ids.

    VOC2012/{JPEGImages, SegmentationClass, SegmentationClassAug, classes.txt}
    voc12/{cls_labels.npy, train_aug_id.txt, train_id.txt, val_id.txt}

`classes.txt` (names of the foreground classes, one per line) is for other data sets; without it the classes are VOC's.
"""

import re
from pathlib import Path

from formats.atomic_files import write_text
from formats.errors import InputError, MissingInputError, existing_folder, folder_below, shorten
from formats.images import read_bytes

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
MAX_CLASSES = 254  # labels are uint8; 0 is background and 255 is ignored
PHOTOGRAPH_PREFIX = re.compile(r"^/?JPEGImages/(?=[^/]+\.jpg$)")  # of the lines in VOC's own lists
PATH_CHARACTERS = "/\\:"  # an id must not lead out of its folder; Windows drives have colons
LABEL_ROOT = Path("experiments/pseudo_labels")
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
VOC_PARENTS = ("", "VOCdevkit", "voc12/VOCdevkit", "data/voc12/VOCdevkit")  # relative to --data_dir


def find_voc_root(data_dir) -> Path:
    """Find the folder that holds JPEGImages: `data_dir`, a folder below it as in the README, or the parent of VOC2012.
    Raises `MissingInputError` if there is none.
    """
    data_dir = existing_folder(data_dir)
    places = [data_dir / parent / last for parent in VOC_PARENTS for last in ("", "VOC2012")]
    for root in places + ([data_dir.parent] if data_dir.name == "VOC2012" else []):
        if (root / "JPEGImages").is_dir():
            return root
    raise MissingInputError(f"--data_dir: no JPEGImages in {data_dir}, or below it as in VOCdevkit/VOC2012/JPEGImages")


def load_class_names(voc_root) -> tuple[str, ...]:
    """Load the names of the foreground classes; label i + 1 is the class with index i."""
    path = Path(voc_root) / "classes.txt"
    if not path.is_file():
        return VOC_CLASSES
    lines = decode_text(read_bytes(path), path).splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if names and names[0].lower() == "background":
        raise InputError(f"{path} begins with background, which is label 0 already: list only the foreground classes")
    if not 1 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise InputError(f"{path} holds {len(names)} names: it must hold 1 to {MAX_CLASSES} different names")
    return names


def list_path(list_dir, name: str) -> Path:
    """Return the path of a list: a plain name is in `list_dir`, a path with a folder is kept."""
    return Path(name) if _is_path(name) else Path(list_dir) / name


def load_ids(path) -> list[str]:
    """Load the ids of a list, one per line; lines may have the form of VOC's own lists
    (`/JPEGImages/<id>.jpg /Segmentation…/<id>.png`).

    Raises `InputError` for an empty list, repeated ids, and ids that are not file names.
    """
    return parse_ids(read_bytes(path), path)


def parse_ids(content: bytes, name) -> list[str]:
    """Do the same as `load_ids` with the bytes of a file, `name` in error messages."""
    ids = split_ids(content, name)
    for image_id in ids:
        check_id(image_id, name)
    if not ids:
        raise InputError(f"{name} is empty: it must hold one image id per line")
    if repeated := len(ids) - len(set(ids)):
        raise InputError(f"{name} holds {repeated} ids more than once: remove the repetitions")
    return ids


def split_ids(content: bytes, name) -> list[str]:
    """Split a list into ids without checking them."""
    lines = decode_text(content, name).splitlines()
    return [PHOTOGRAPH_PREFIX.sub("", line.split()[0]).removesuffix(".jpg") for line in lines if line.strip()]


def check_id(image_id: str, name) -> None:
    """Raise `InputError` for an id that would lead out of its folder; `name` is the list that holds it."""
    if image_id in ("", ".", "..") or not image_id.isprintable() or set(image_id) & set(PATH_CHARACTERS):
        raise InputError(f"{name} holds {image_id!r}: an id is the name of a file, without folder and suffix")


def decode_text(content: bytes, name) -> str:
    """Decode UTF-8, with or without a byte order mark; `name` appears in the error message."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not text in UTF-8 ({error.reason}): save it in UTF-8") from None


def save_ids(path, ids) -> None:
    """Save a list, one id per line."""
    write_text(path, "".join(f"{name}\n" for name in ids))


def files_of_ids(folder, ids: list[str], suffix: str) -> list[Path]:
    """Return the paths of the files of all ids. Raises `MissingInputError` if any file is missing."""
    folder = existing_folder(folder)
    missing = [ids[index] for index in absent_files(folder, ids, suffix)]
    if missing:
        present = _names_in(folder)
        others = sorted(name for name in present if Path(name).stem in missing[:20])
        hint = f"; there is {shorten(others)}, but files must end in {suffix}: convert or rename them" if others else ""
        found = f"{len(missing)} of {len(ids)} files are missing ({shorten(name + suffix for name in missing)})"
        raise MissingInputError(f"{folder}: {found}: add them, or remove their ids from the list{hint}")
    return [folder / (name + suffix) for name in ids]


def absent_files(folder: Path, ids: list[str], suffix: str) -> list[int]:
    """Indices of the ids without a file in `folder`."""
    present = _names_in(folder)
    return [index for index, name in enumerate(ids) if name + suffix not in present]


def mask_folder(voc_root, name: str) -> Path:
    """Return the mask folder `name`: next to JPEGImages if it exists there, else in or beside VOC2012/."""
    root = Path(voc_root)
    places = [root / name, root / "VOC2012" / name] + ([root.parent / name] if root.name == "VOC2012" else [])
    return next((folder for folder in places if folder.is_dir()), places[0])


def truth_folder(voc_root, ids) -> Path:
    """Return the folder of the masks of `ids`: SegmentationClass, or SegmentationClassAug if the former lacks some, as
    it does of VOC's train_aug.
    """
    folder, augmented = (mask_folder(voc_root, name) for name in MASK_FOLDERS)
    return augmented if augmented.is_dir() and absent_files(folder, ids, ".png") else folder


def find_masks(voc_root, ids) -> dict[str, Path]:
    """Map the ids that have a mask in `truth_folder` to its path."""
    folder = truth_folder(voc_root, ids)
    absent = set(absent_files(folder, ids, ".png"))
    return {name: folder / f"{name}.png" for index, name in enumerate(ids) if index not in absent}


def label_folder(label_name: str, voc_root) -> Path:
    """Find the labels of `--label_name`: a path, a folder of the VOC tree, or a name below experiments/. Raises
    `MissingInputError` if there are none.
    """
    candidates = [LABEL_ROOT / label_name, mask_folder(voc_root, label_name), Path(label_name)]
    if _is_path(label_name):
        candidates.reverse()
    for folder in candidates:
        if folder.is_dir():
            return folder
    places = f"a folder, nor in {LABEL_ROOT} or {voc_root}"
    raise MissingInputError(f"--label_name {label_name} is neither {places}: run make_pseudo_labels.py to make it")


def new_label_folder(label_name: str) -> Path:
    """Return the folder to write labels to: a path is kept, a plain name is below experiments/."""
    folder = Path(label_name) if _is_path(label_name) else folder_below(LABEL_ROOT, label_name, "--label_name")
    if folder.is_file():
        raise InputError(f"--label_name {label_name} is a file: name a folder")
    return folder


def _is_path(name: str) -> bool:
    """Return whether a name contains a folder."""
    return "/" in name or "\\" in name


def _names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()
