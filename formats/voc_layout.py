"""The VOC 2012 tree: where its folders lie, its classes and its lists of ids.

    VOC2012/{JPEGImages, SegmentationClass, SegmentationClassAug, classes.txt}
    voc12/{cls_labels.npy, train_aug_id.txt, train_id.txt, val_id.txt}

`classes.txt` (foreground names, one per line) belongs to data of one's own; without it VOC's twenty classes hold.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from formats.atomic_files import write_text
from formats.errors import InputError, MissingInputError, existing_folder, shorten
from formats.images import read_bytes

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)
# fmt: on
MAX_CLASSES = 254  # labels are bytes: 0 is background, 255 is ignored
VOC_PHOTOGRAPH = re.compile(r"^/?JPEGImages/(?=[^/]+\.jpg$)")  # how VOC's own lists begin
OF_PATHS = "/\\:"  # separators, and the colon of a drive: no id may lead out of its folder
LABEL_ROOT = Path("experiments/pseudo_labels")
MOST_NAMED = 20  # missing files for which others of their stem are looked for
MASK_FOLDERS = ("SegmentationClass", "SegmentationClassAug")
BELOW_DATA_DIR = ("", "VOCdevkit", "voc12/VOCdevkit", "data/voc12/VOCdevkit")


def find_voc_root(data_dir) -> Path:
    """The folder that holds JPEGImages: `data_dir` itself, a place below it in the README's tree, or that beside
    VOC2012."""
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise MissingInputError(f"--data_dir: folder {data_dir} does not exist")
    places = [data_dir / below / last for below in BELOW_DATA_DIR for last in ("", "VOC2012")]
    for root in places + ([data_dir.parent] if data_dir.name == "VOC2012" else []):
        if (root / "JPEGImages").is_dir():
            return root
    raise MissingInputError(f"--data_dir: no JPEGImages in {data_dir}, nor below it as in VOCdevkit/VOC2012/JPEGImages")


def load_class_names(voc_root) -> tuple[str, ...]:
    """Names of the foreground classes; label i + 1 belongs to name i."""
    path = Path(voc_root) / "classes.txt"
    if not path.is_file():
        return VOC_CLASSES
    lines = decode_text(read_bytes(path), path).splitlines()
    names = tuple(line.strip() for line in lines if line.strip())
    if names and names[0].lower() == "background":
        raise InputError(f"{path} begins with background, which is label 0 already: name the foreground classes alone")
    if not 1 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise InputError(f"{path} holds {len(names)} names: between 1 and {MAX_CLASSES} different ones are needed")
    return names


def list_path(list_dir, name: str) -> Path:
    """A list given by its name lies in `list_dir`; one given by a path with a folder lies there."""
    return Path(name) if is_path(name) else Path(list_dir) / name


def is_path(name: str) -> bool:
    """Whether a name says which folder it lies in."""
    return "/" in name or "\\" in name


def load_ids(path) -> list[str]:
    """The ids of a list, one per line; blank lines and Windows line ends are accepted.

    A line of VOC's own form (`/JPEGImages/<id>.jpg /Segmentation…/<id>.png`) counts as its id.
    """
    return parse_ids(read_bytes(path), path)


def parse_ids(content: bytes, name) -> list[str]:
    """The ids of a list from the bytes of its file; `name` is for the error message."""
    ids = ids_in(content, name)
    for image_id in ids:
        check_id(image_id, name)
    if not ids:
        raise InputError(f"{name} is empty: it must name one image id per line")
    repeated = len(ids) - len(set(ids))
    if repeated:
        raise InputError(f"{name} names {repeated} ids more than once: remove the repetitions")
    return ids


def ids_in(content: bytes, name) -> list[str]:
    """The ids of a list as they stand in it, be they none, repeated or no names of files."""
    lines = decode_text(content, name).splitlines()
    return [VOC_PHOTOGRAPH.sub("", line.split()[0]).removesuffix(".jpg") for line in lines if line.strip()]


def check_id(image_id: str, name) -> None:
    """Raises `InputError` for an id that would lead out of its folder; `name` is that of its list."""
    if image_id in ("", ".", "..") or not image_id.isprintable() or set(image_id) & set(OF_PATHS):
        raise InputError(f"{name} names {image_id!r}: an id is the name of a file, without folder and suffix")


def decode_text(content: bytes, name) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not text in UTF-8 ({error.reason}): save it as such") from None


def save_ids(path, ids) -> None:
    """Writes a list, one id per line."""
    write_text(path, "".join(f"{name}\n" for name in ids))


@dataclass(frozen=True)
class FilesOfIds(Sequence):
    """`<folder>/<id><suffix>` of every id. A path is made when it is asked for: it takes ten times the memory of an id,
    of which all lists here have one."""

    folder: Path
    ids: list[str]
    suffix: str

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, place: int) -> Path:
        return self.folder / (self.ids[place] + self.suffix)


def files_of_ids(folder, ids: list[str], suffix: str) -> FilesOfIds:
    """The files of all ids; one directory listing tells which are missing (an `InputError`)."""
    folder = existing_folder(folder)
    present = {path.name for path in folder.iterdir()}
    missing = [name for name in ids if name + suffix not in present]
    if missing:
        others = sorted(name for name in present if Path(name).stem in missing[:MOST_NAMED])
        there = (
            f"; there is {shorten(others)}, but files here end in {suffix}: convert or rename them" if others else ""
        )
        raise MissingInputError(
            f"{folder}: {len(missing)} of {len(ids)} files are missing ({shorten(name + suffix for name in missing)}): "
            f"add them, or take their ids from the list{there}"
        )
    return FilesOfIds(folder, ids, suffix)


def mask_folder(voc_root, name: str) -> Path:
    """The folder `name` of masks: beside JPEGImages, or where the tree divides between VOC2012 and its parent, in the
    other one."""
    root = Path(voc_root)
    places = [root / name, root / "VOC2012" / name] + ([root.parent / name] if root.name == "VOC2012" else [])
    return next((folder for folder in places if folder.is_dir()), places[0])


def truth_folder(voc_root, ids) -> Path:
    """SegmentationClassAug, if it is there and SegmentationClass lacks masks of `ids`, as it does of VOC's train_aug;
    else SegmentationClass."""
    folder, more = (mask_folder(voc_root, name) for name in MASK_FOLDERS)
    there = {path.stem for path in folder.iterdir()} if folder.is_dir() else set()
    return more if more.is_dir() and not there.issuperset(ids) else folder


def masks_that_exist(voc_root, ids) -> dict[str, Path]:
    """Id → mask of those ids that have one, in the folder that `truth_folder` names."""
    folder = truth_folder(voc_root, ids)
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return {name: folder / f"{name}.png" for name in ids if f"{name}.png" in there}


def label_folder(label_name: str, voc_root) -> Path:
    """Where the labels of `--label_name` lie: a path, a folder of the VOC tree, or a name below experiments/."""
    candidates = [Path(label_name), mask_folder(voc_root, label_name)]
    made = LABEL_ROOT / label_name
    candidates = [*candidates, made] if is_path(label_name) else [made, *reversed(candidates)]
    for folder in candidates:
        if folder.is_dir():
            return folder
    raise MissingInputError(
        f"--label_name {label_name}: none of {', '.join(map(str, candidates))} exists; "
        "make_pseudo_labels.py makes labels"
    )


def new_label_folder(label_name: str) -> Path:
    """Where labels called `label_name` are written: a folder's path as it is, a bare name below experiments/."""
    return Path(label_name) if is_path(label_name) else LABEL_ROOT / label_name
