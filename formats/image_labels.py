"""Image labels (the classes of each image) from `cls_labels.npy`, VOC's XML annotations, a table, or a text."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from formats.atomic_files import atomic_path
from formats.errors import InputError, MissingInputError, first_line, shorten
from formats.images import read_bytes
from formats.pickles import load_object_array
from formats.voc_layout import decode_text, drop_image_suffix, files_of_ids

IdsAndClasses = Iterator[tuple[str, Sequence[int]]]  # indices of the classes of each image


def load_image_labels(path, ids, classes: tuple[str, ...]) -> np.ndarray:
    """Load the classes of the images `ids`, bool [len(ids), len(classes)]. `path` is one of:

    - `cls_labels.npy`, a pickled dict of id → float [C]; only arrays are unpickled. An id may have the suffix of the
      image, or be an integer as in IRN: 2007000032 for 2007_000032
    - a folder of VOC annotations `<id>.xml`; difficult objects count, as in the public cls_labels.npy
    - a table `.csv` with the header `id,classes` or `id;classes`; class names are separated by spaces, semicolons or
      commas (names that hold spaces not by spaces), and rows with the same id are combined
    - a text `.txt` with lines of an id and its class numbers, counted from 0, as in L2G and OAA

    Raises `InputError` if the content is invalid or lacks an id.
    """
    suffix = Path(path).suffix.lower()
    if not Path(path).exists():
        raise MissingInputError(f"{path} does not exist: name the classes of the images by --image_labels")
    if Path(path).is_dir():
        found = _read_annotations(path, ids, classes)
    elif suffix == ".csv":
        found = _read_table(path, classes)
    elif suffix == ".txt":
        found = read_class_numbers(path, classes)
    else:
        found = read_class_vectors(path, classes, ids)
    rows: dict[str, np.ndarray] = {}
    for name, indices in found:
        rows.setdefault(name, np.zeros(len(classes), bool))[indices] = True
    missing = [name for name in ids if name not in rows]
    if missing:
        lacks = f"{path} lacks {len(missing)} of {len(ids)} ids ({shorten(missing)})"
        raise MissingInputError(f"{lacks}: add them, or remove them from the list")
    return np.stack([rows[name] for name in ids])


def save_image_labels(path, labels: dict[str, np.ndarray]) -> None:
    """Save a dict of id → class vector [C] as float32, in the format of the public `cls_labels.npy`."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.save(file, {name: np.asarray(row, np.float32) for name, row in labels.items()}, allow_pickle=True)


def read_class_vectors(path, classes, ids=None) -> IdsAndClasses:
    """Read the class indices of those `ids` that `cls_labels.npy` holds, by default of all its ids."""
    labels = load_object_array(path)
    labels = labels.item() if labels.shape == () else labels
    if not isinstance(labels, dict):
        raise InputError(f"{path} holds a {type(labels).__name__}, not a dict of id → class vector")
    labels = {_id_of_key(key): row for key, row in labels.items()}
    for name in labels if ids is None else filter(labels.__contains__, ids):
        row = np.asarray(labels[name])
        if row.shape != (len(classes),) or row.dtype.kind not in "biuf":
            found = f"{path}: {name} has {row.dtype} {list(row.shape)}"
            raise InputError(f"{found}, expected a vector of {len(classes)} numbers, one per class (see classes.txt)")
        if not np.isfinite(row).all():
            raise InputError(f"{path}: {name} has numbers that are not finite: create the file again")
        yield name, np.flatnonzero(row > 0.5)


def _id_of_key(key) -> str:
    if isinstance(key, (int, np.integer)):
        return re.sub(r"^(\d{4})(\d{6})$", r"\1_\2", str(key))  # as IRN writes ids of VOC
    return drop_image_suffix(str(key))


def read_class_numbers(path, classes) -> IdsAndClasses:
    """Read the class indices in the lines of a text, `id 0 14`."""
    for number, line in enumerate(decode_text(read_bytes(path), path).splitlines(), start=1):
        name, *words = line.split() or [""]
        indices = [int(word) if word.isdecimal() else len(classes) for word in words]
        if len(set(indices)) < len(indices) or max(indices, default=0) >= len(classes):
            expected = f"expected an id and different class numbers, counted from 0 to {len(classes) - 1}"
            raise InputError(f"{path}, line {number}: {expected}, not {shorten(words)!r}")
        yield drop_image_suffix(name), indices


def _read_annotations(folder, ids, classes) -> IdsAndClasses:
    for name, path in zip(ids, files_of_ids(folder, ids, ".xml")):
        yield name, [_find_class(class_name, classes, path) for class_name in read_object_names(path)]


def read_object_names(path: Path) -> list[str]:
    """Read every `object/name` of an annotation; the parts of a person are not objects."""
    try:  # expat fetches no external entities and limits the expansion of internal ones
        root = ElementTree.fromstring(read_bytes(path))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise InputError(f"{path} cannot be read as an annotation: {first_line(error)}") from None
    names = [item.findtext("name", "").strip() for item in root.findall("object")]
    if root.tag != "annotation" or not all(names):
        raise InputError(f"{path} is not a VOC annotation: expected <annotation> with a <name> in each <object>")
    return names


def _read_table(path, classes) -> IdsAndClasses:
    lines = read_cells(path)
    if not lines or [cell.lower() for cell in lines[0]] != ["id", "classes"]:
        raise InputError(f"{path} must begin with the line id,classes")
    for number, cells in enumerate(lines[1:], start=2):
        if not any(cells):
            continue
        if len(cells) != 2 or not cells[0]:
            found = f"{path}, line {number}: {len(cells)} columns instead of an id and its classes"
            raise InputError(f"{found}; classes separated by commas need quotes")
        where, names = f"{path}, line {number}, id {cells[0]}", _split_names(cells[1], classes)
        yield drop_image_suffix(cells[0]), [_find_class(name, classes, where) for name in names]


def read_cells(path) -> list[list[str]]:
    """Read the rows of a CSV file as stripped cells. They are separated by the comma, semicolon (as spreadsheets write
    in half of Europe) or tab that is most frequent in the first line."""
    text = decode_text(read_bytes(path), path)
    delimiter = max(",;\t", key=text.partition("\n")[0].count)
    try:
        table = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        return [[cell.strip() for cell in row] for row in table]
    except csv.Error as error:
        raise InputError(f"{path} cannot be read as a table: {error}") from None


def _split_names(text: str, classes) -> list[str]:
    """Split a cell into class names; names that contain spaces must be separated by commas or semicolons."""
    pieces = [piece.strip() for piece in re.split("[;,]", text)]
    return [name for piece in pieces for name in ([piece] if piece in classes else piece.split())]


def _find_class(name: str, classes, where) -> int:
    if name not in classes:
        raise InputError(f"{where}: unknown class {name!r}; known are {shorten(classes, 20)}")
    return classes.index(name)
