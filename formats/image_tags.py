"""Image-level tags of photographs as other tools write them: which classes each image has.

A source is recognised by its content:

folder of folders   one folder per class, with images in it and below
VOC XML             a folder of <id>.xml
YOLO                a folder of <id>.txt with lines `class x y …`; data.yaml or classes.txt, there or up to two
                    folders above, has the names
COCO                JSON with images, annotations and categories
table               CSV with a column of file names, and either a column of classes or one column of 0 and 1 per class
class numbers       lines `<id> 0 14`, or cls_labels.npy; the names are in classes.txt beside it

Sources may name images by ids (paths relative to the folder of photographs) with or without suffix, by longer paths, or
by the ends of paths, if these are unique.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml

from formats.errors import InputError, MissingInputError, first_line, shorten
from formats.image_labels import read_cells, read_class_numbers, read_class_vectors, read_object_names
from formats.images import IMAGE_SUFFIXES, files_below, read_bytes
from formats.voc_layout import BACKGROUND_NAMES, decode_text, drop_image_suffix, parse_class_names

# headers of CSV columns, in lower case with underscores; the first that is there counts
ID_COLUMNS = ("file_name", "filename", "file", "path", "image_path", "image", "image_name", "id", "image_id", "name")
TAG_COLUMNS = ("classes", "labels", "tags", "categories", "class", "class_name", "label", "tag", "category")
PLURALS = TAG_COLUMNS[:4]  # of columns in which spaces separate classes, unless the table has `SEPARATORS`
SEPARATORS = re.compile("[;,|]")  # of class names
BITS = {"": False, "0": False, "1": True}
SPLITS = {"train", "val", "valid", "test"}  # folders above the classes in many data sets
YOLO_LINE = re.compile(r"\s*(\d+)(\s+[-+.e\d]+){4,}\s*", re.IGNORECASE)

Tags = Iterable[tuple[str, Iterable[str]]]  # name of each image in the source, and its classes
Source = tuple[str, Iterable[str], Tags]  # kind, classes (empty if the source has no order), tags


@dataclass(frozen=True)
class ImageTags:
    """Tags of photographs.

    kind         what the source is, in words
    classes      class names in the order of the source, or sorted if it has none
    classes_of   id → its classes; photographs that the source does not name are absent
    unknown      names in the source that are no photograph
    """

    kind: str
    classes: tuple[str, ...]
    classes_of: dict[str, set[str]]
    unknown: list[str]


def load_image_tags(source, ids: Iterable[str]) -> ImageTags:
    """Load the tags of the photographs `ids` from a file or folder; the module's docstring lists what it may be.

    Raises `InputError` for other content, names that fit several photographs, and class names that classes.txt or
    labels.csv cannot hold, such as background. A background class without images is left out.
    """
    source, ids = Path(source), list(ids)
    if not source.exists():
        raise MissingInputError(f"--tags {source} does not exist")
    kind, classes, tags = _read_folder(source, ids) if source.is_dir() else _read_file(source)
    ids_by_file: dict[str, list[str]] = {}  # name without folders → ids
    for image_id in ids:
        ids_by_file.setdefault(image_id.rpartition("/")[2], []).append(image_id)
    classes_of: dict[str, set[str]] = {}
    unknown = []
    for name, its_classes in tags:
        name = drop_image_suffix(name).replace("\\", "/")
        image_id = _find_id(name, ids_by_file.get(name.rpartition("/")[2], []), source)
        if image_id:
            classes_of.setdefault(image_id, set()).update(its_classes)
        else:
            unknown.append(name)
    used = set().union(*classes_of.values())
    if not used:
        there = f"{len(classes_of)} photographs without classes, and {len(unknown)} others ({shorten(unknown, 2)})"
        raise InputError(f"no photograph has a tag: --tags {source} ({kind}) names {there}; ids: {shorten(ids, 2)}")
    classes = tuple(name for name in classes or sorted(used) if name in used or not _is_background(name))
    _check_class_names(classes, source)
    return ImageTags(kind, classes, classes_of, sorted(set(unknown)))


def _find_id(name: str, ids: list[str], source: Path) -> str | None:
    """Return the id that a name ends with, or else the only one that ends with the name."""
    ends = [image_id for image_id in ids if f"/{name}".endswith(f"/{image_id}")]
    if ends:
        return max(ends, key=len)
    longer = [image_id for image_id in ids if f"/{image_id}".endswith(f"/{name}")]
    if len(longer) > 1:
        found = f"{source} names {name}, but there are {shorten(longer, 2)}"
        raise InputError(f"{found}: write paths from the folder of photographs")
    return longer[0] if longer else None


def _is_background(name: str) -> bool:
    return name.strip("_").lower() in BACKGROUND_NAMES


def _check_class_names(classes: tuple[str, ...], source: Path) -> None:
    """Raise `InputError` unless the other scripts read these names from classes.txt and labels.csv."""
    if background := list(filter(_is_background, classes)):
        raise InputError(f"--tags {source}: {background[0]} is label 0, no class: rename it, or remove these tags")
    if parse_class_names(list(classes), f"--tags {source}") != classes or any(map(SEPARATORS.search, classes)):
        odd = "empty, numbered, named ignore, or hold a separator"
        raise InputError(f"--tags {source}: rename classes that are {odd} ({shorten(classes)})")


# folders


def _read_folder(folder: Path, ids: list[str]) -> Source:
    files = files_below(folder)
    if annotations := [path for path in files if path.suffix.lower() == ".xml"]:
        return "VOC XML", (), [(_name_below(folder, path), read_object_names(path)) for path in annotations]
    texts = {path: _read_lines(path) for path in files if path.suffix.lower() == ".txt"}
    boxes = {path: lines for path, lines in texts.items() if not lines or YOLO_LINE.fullmatch(lines[0])}
    if any(boxes.values()):
        return _read_yolo(folder, boxes)
    images = [path.relative_to(folder) for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
    images = [path for path in images if len(path.parts) > 1]
    classes = {path.parts[0] for path in images}
    if not classes or {name.lower() for name in classes} <= SPLITS:
        there = shorten(sorted(classes) or [path.name for path in files], 3) or "nothing"
        expected = "one folder of images per class, VOC XML <id>.xml, or YOLO text <id>.txt"
        raise InputError(f"--tags {folder} holds {there}; expected {expected}")
    known = set(ids)  # a name with its class is an id if the tags are the folder of photographs itself
    names = [path if path.with_suffix("").as_posix() in known else Path(*path.parts[1:]) for path in images]
    return "folder per class", (), [(name.as_posix(), [path.parts[0]]) for name, path in zip(names, images)]


def _read_yolo(folder: Path, boxes: dict[Path, list[str]]) -> Source:
    classes = _read_class_names(folder, *folder.resolve().parents[:2])
    tags = []
    for path, lines in boxes.items():
        matches = [YOLO_LINE.fullmatch(line) for line in lines]
        for line, match in zip(lines, matches):
            if not match or int(match[1]) >= len(classes):
                expected = f"a class number from 0 to {len(classes) - 1} and coordinates"
                raise InputError(f"{path}: expected lines of {expected}, not {line[:40]!r}")
        # labels/ lies beside images/
        name = re.sub(r"^(.*/)?labels/", r"\1images/", _name_below(folder, path))
        tags.append((name, [classes[int(match[1])] for match in matches]))
    return "YOLO text", classes, tags


def _name_below(folder: Path, path: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _read_lines(path: Path) -> list[str]:
    return decode_text(read_bytes(path), path).strip().splitlines()


def _read_class_names(*folders: Path) -> list[str]:
    """Read class names by number from classes.txt or data.yaml in the first of these folders that has one."""
    for path in (folder / name for folder in folders for name in ("classes.txt", "data.yaml")):
        if path.is_file():
            return _read_yaml_names(path) if path.suffix == ".yaml" else [name.strip() for name in _read_lines(path)]
    written = f"write their names, one per line in the order of the numbers, into {folders[0] / 'classes.txt'}"
    raise MissingInputError(f"--tags holds class numbers: {written}")


def _read_yaml_names(path: Path) -> list[str]:
    """Read `names` of YOLO's YAML: a list, or a mapping from numbers to names."""
    try:
        names = yaml.safe_load(decode_text(read_bytes(path), path))["names"]
        return [str(names[number]) for number in range(len(names))]
    except (yaml.YAMLError, KeyError, TypeError):
        raise InputError(f"{path} has no `names` numbered from 0: write them into classes.txt beside it") from None


# files


def _read_file(path: Path) -> Source:
    content = read_bytes(path)
    is_array = content.startswith(b"\x93NUMPY")
    text = "" if b"\0" in content[:1000] else decode_text(content, path).strip()
    if text.startswith(("{", "[")):
        return _read_coco(path, text)
    cells = read_cells(path) if text else [[]]
    header = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in cells[0]]
    if not set(header).isdisjoint(ID_COLUMNS):
        return _read_table(path, header, cells)
    if is_array or re.match(r"\S+(\s+\d+)+\s*$", text, re.MULTILINE):
        classes = _read_class_names(path.parent)
        numbered = (read_class_vectors if is_array else read_class_numbers)(path, classes)
        return "class numbers", classes, [(name, [classes[index] for index in its]) for name, its in numbered]
    if len(header) > 1 and path.suffix.lower() == ".csv":
        raise InputError(f"--tags {path} has no column file_name, image, path or id, but {shorten(cells[0], 6)}")
    expected = "COCO JSON, CSV in UTF-8 with a header such as id,classes, lines `<id> 0 14`, or cls_labels.npy"
    raise InputError(f"--tags {path} is of no known kind; expected {expected}")


def _read_coco(path: Path, text: str) -> Source:
    try:
        content = json.loads(text)
        names = {image["id"]: str(image["file_name"]) for image in content["images"]}
        categories = {category["id"]: str(category["name"]) for category in content["categories"]}
        tags = [(name, ()) for name in names.values()]
        tags += [(names[item["image_id"]], [categories[item["category_id"]]]) for item in content["annotations"]]
    except (KeyError, TypeError, ValueError) as error:
        expected = "COCO JSON of images (id, file_name), categories (id, name), annotations (image_id, category_id)"
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise InputError(f"{path} cannot be read as {expected}: {reason}") from None
    return "COCO JSON", [categories[number] for number in sorted(categories)], tags


def _read_table(path: Path, header: list[str], cells: list[list[str]]) -> Source:
    rows = {number: row for number, row in enumerate(cells[1:], start=2) if any(row)}
    id_column = next(header.index(name) for name in ID_COLUMNS if name in header)
    for number, row in rows.items():
        if len(row) != len(header) or not row[id_column]:
            found = f"{path}, line {number}: {len(row)} columns instead of {len(header)}, or no {header[id_column]}"
            raise InputError(f"{found}; classes separated by commas need quotes")
    if tag_columns := [header.index(name) for name in TAG_COLUMNS if name in header]:
        texts = [(row[id_column], row[tag_columns[0]]) for row in rows.values()]
        has_spaces = header[tag_columns[0]] in PLURALS and not any(SEPARATORS.search(text) for _, text in texts)
        split = str.split if has_spaces else SEPARATORS.split
        return (
            "table",
            (),
            [(name, [" ".join(piece.split()) for piece in split(text) if piece.strip()]) for name, text in texts],
        )
    columns = {column: title for column, title in enumerate(cells[0]) if title and column != id_column}
    for number, row in rows.items():
        for column, title in columns.items():
            if row[column] not in BITS:
                found = f"{path}, line {number}: {title} is {row[column]!r}, not 0 or 1"
                raise InputError(f"{found}: name the column of class names `classes`, or remove this column")
    tags = [(row[id_column], [columns[column] for column in columns if BITS[row[column]]]) for row in rows.values()]
    return "table, one column per class", columns.values(), tags
