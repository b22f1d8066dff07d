"""Image labels from class vectors, annotations and tables."""

import numpy as np
import pytest

from formats.errors import InputError, MissingInputError
from formats.image_labels import load_image_labels, save_image_labels
from formats.pickles import load_object_array
from formats.voc_layout import VOC_CLASSES, load_ids

CLASSES = ("dog", "cat", "traffic light")
BILLION_LAUGHS = f"""<?xml version="1.0"?>
<!DOCTYPE annotation [<!ENTITY e0 "dog">{"".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 10))}]>
<annotation><object><name>&e9;</name></object></annotation>"""
EXTERNAL_ENTITY = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>
<annotation><object><name>&x;</name></object></annotation>"""


def annotation(*names: str) -> str:
    """Build a VOC annotation whose first object is difficult and whose last object has a named part."""
    objects = [f"<object><name>{name}</name><difficult>0</difficult></object>" for name in names]
    if objects:
        objects[0] = objects[0].replace("<difficult>0", "<difficult>1")
        objects[-1] = objects[-1].replace("</object>", "<part><name>head</name></part></object>")
    return f"<annotation><filename>a.jpg</filename>{''.join(objects)}</annotation>"


def test_class_vectors(tmp_path):
    path = tmp_path / "cls_labels.npy"
    save_image_labels(path, {"a": np.array([1, 0, 1]), "b": np.zeros(3)})
    assert load_image_labels(path, ["b", "a"], CLASSES).tolist() == [[False] * 3, [True, False, True]]
    assert np.load(path, allow_pickle=True).item()["a"].dtype == np.float32
    with pytest.raises(MissingInputError, match=r"lacks 1 of 2 ids \(c\)"):
        load_image_labels(path, ["a", "c"], CLASSES)
    with pytest.raises(InputError, match="a vector of 20 numbers"):
        load_image_labels(path, ["a"], VOC_CLASSES)
    np.save(path, {"a": np.array(["x", "y", "z"])}, allow_pickle=True)
    with pytest.raises(InputError, match=r"a has <U1 \[3\]"):
        load_image_labels(path, ["a"], CLASSES)
    np.save(path, np.array([{}, {}]), allow_pickle=True)
    with pytest.raises(InputError, match="holds a ndarray, not a dict"):
        load_image_labels(path, ["a"], CLASSES)
    with pytest.raises(MissingInputError, match=r"does not exist: name the classes .* by --image_labels"):
        load_image_labels(tmp_path / "none.npy", ["a"], CLASSES)


def test_keys_of_class_vectors(tmp_path):
    """IRN's keys are integers; others are names of files."""
    keys = {np.int32(2007000032): [1, 0, 0], 2007000039: [0, 1, 0], "c.jpg": [0, 0, 1], 28: [1, 1, 0]}
    np.save(tmp_path / "a.npy", keys, allow_pickle=True)
    rows = load_image_labels(tmp_path / "a.npy", ["2007_000032", "2007_000039", "c", "28"], CLASSES)
    assert rows.astype(int).tolist() == list(keys.values())


def test_class_numbers(tmp_path):
    path = tmp_path / "train_cls.txt"
    path.write_text("2007_000032 0 2 \n\nb.jpg 1\nc\n")
    rows = load_image_labels(path, ["c", "2007_000032", "b"], CLASSES).astype(int).tolist()
    assert rows == [[0, 0, 0], [1, 0, 1], [0, 1, 0]]
    with pytest.raises(MissingInputError, match=r"lacks 1 of 1 ids \(d\)"):
        load_image_labels(path, ["d"], CLASSES)


@pytest.mark.parametrize("line", ["a 3", "a -1", "a dog", "a 1.0", "a 0 1 0", "photo (1) 0"])
def test_odd_class_numbers_are_refused(tmp_path, line):
    (tmp_path / "a.txt").write_text(f"b 0\n{line}\n")
    with pytest.raises(InputError, match=r"a\.txt, line 2: .* different class numbers, counted from 0 to 2, not"):
        load_image_labels(tmp_path / "a.txt", ["a"], CLASSES)


def test_annotations(tmp_path):
    for name, objects in {"a": ["dog", "cat", "dog"], "b": [], "c": ["traffic light"]}.items():
        (tmp_path / f"{name}.xml").write_text(annotation(*objects))
    rows = load_image_labels(tmp_path, ["c", "a", "b"], CLASSES)
    assert rows.dtype == bool
    assert rows.astype(int).tolist() == [[0, 0, 1], [1, 1, 0], [0, 0, 0]]
    with pytest.raises(MissingInputError, match=r"1 of 2 files are missing \(d\.xml\)"):
        load_image_labels(tmp_path, ["a", "d"], CLASSES)
    with pytest.raises(InputError, match=r"a\.xml: unknown class 'dog'; known are cat, cow"):
        load_image_labels(tmp_path, ["a"], ("cat", "cow"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BILLION_LAUGHS, "cannot be read .*amplification"),
        (EXTERNAL_ENTITY, "cannot be read .*undefined entity"),
        (annotation("dog")[:-20], "cannot be read"),
        ("", "cannot be read"),
        ("<html></html>", "not a VOC annotation"),
        ("<annotation><object></object></annotation>", "not a VOC annotation"),
    ],
)
def test_odd_annotations_are_refused(tmp_path, content, message):
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        load_image_labels(tmp_path, ["a"], CLASSES)
    assert "a.xml" in str(caught.value)


def test_table_with_semicolons(tmp_path):
    """Spreadsheets write semicolons where the comma is the decimal separator."""
    (tmp_path / "a.csv").write_bytes("\ufeffid;classes\r\na;dog cat\r\nb;traffic light\r\n".encode())
    rows = load_image_labels(tmp_path / "a.csv", ["b", "a"], CLASSES)
    assert rows.sum(axis=1).tolist() == [1, 2]


def test_table(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,classes\r\n a ,dog cat\r\n\r\nb,\r\nc,"traffic light, dog"\r\nd,cat;traffic light\r\ne,dog\r\n'
        b",\r\ne,cat\r\n007.jpg,dog"
    )
    rows = load_image_labels(path, ["a", "b", "c", "d", "e", "007"], CLASSES).astype(int).tolist()
    assert rows == [[1, 1, 0], [0, 0, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]]
    with pytest.raises(MissingInputError, match=r"labels\.csv lacks 1 of 2 ids \(x\)"):
        load_image_labels(path, ["a", "x"], CLASSES)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,classes\na,dog\nb,cow", r"line 3, id b: unknown class 'cow'; known are dog, cat, traffic light"),
        ("id,classes\na,dog,cat", "line 2: 3 columns.*quotes"),
        ("id,classes\na", "line 2: 1 columns"),
        ("id,classes\n,dog", "line 2"),
        ("a,dog\n", "must begin with the line id,classes"),
        ("", "must begin with the line id,classes"),
        ('id,classes\na,"dog', "cannot be read"),
        (b"id,classes\na,\xff\xfe", "is not text in UTF-8"),
    ],
)
def test_odd_tables_are_refused(tmp_path, content, message):
    path = tmp_path / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=message) as caught:
        load_image_labels(path, ["a"], CLASSES)
    assert "labels.csv" in str(caught.value)


def test_the_public_class_vectors(real_data):
    """12031 images; the paper's split: 6249 of train_aug and 933 of train hold exactly one class."""
    path = real_data / "voc12-photos/voc12/cls_labels.npy"
    assert len(load_object_array(path).item()) == 12031
    counts = {}
    for name in ("train", "train_aug", "val"):
        rows = load_image_labels(path, load_ids(real_data / f"voc12-official-lists/{name}_id.txt"), VOC_CLASSES)
        counts[name] = (len(rows), int((rows.sum(axis=1) == 1).sum()))
    assert counts["train"] == (1464, 933)
    assert counts["train_aug"] == (10582, 6249)
    assert counts["val"][0] == 1449
