"""prepare_data.py own: tags of every kind are read alike, and mistakes take one line."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import bytes_in, run_main

from formats.errors import InputError
from formats.image_labels import load_image_labels, save_image_labels
from formats.image_tags import load_image_tags
from formats.images import images_below
from formats.voc_layout import load_class_names, load_ids, photograph_folder, split_ids

IDS = ["cats/img 1", "dogs/img 1", "dogs/img_2", "été/ö"]  # of the photographs; the last has no tag
NAMES = ["bird", "traffic light", "cat"]  # not sorted, as in YOLO and COCO
TAGS = {"cats/img 1": ["cat", "traffic light"], "dogs/img 1": ["cat"], "dogs/img_2": ["traffic light"]}
BOX = "0.5 0.5 0.2 0.2"


def write(path: Path, content: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture
def photographs(tmp_path) -> Path:
    """Empty files in nested folders, which only their names tell apart, and files that are no photographs."""
    names = ["cats/img 1.jpg", "dogs/img 1.PNG", "dogs/img_2.jpeg", "été/ö.webp"]
    for name in [*names, "notes.md", ".cache/a.jpg", "dogs/._b.jpg"]:
        write(tmp_path / "photos" / name)
    return tmp_path / "photos"


def write_table(root: Path) -> Path:
    rows = [f"{name}.jpg,{'; '.join(classes)}\n" for name, classes in TAGS.items()]
    return write(root / "tags.csv", "Image Name,Labels\n" + "".join(rows))


def write_spreadsheet(root: Path) -> Path:
    """Semicolons between columns, a byte order mark, Windows' paths, bare names, two rows of one photograph."""
    rows = ["\ufeffid;file_name;tags", "1;C:\\x\\cats\\img 1.jpg;cat", '2;C:\\x\\cats\\img 1.jpg;"traffic light,"']
    rows += ["3;dogs\\img 1;cat", "4;img_2;traffic light", ";;", "5;été\\ö;"]
    return write(root / "tags.csv", "\r\n".join(rows))


def write_columns(root: Path) -> Path:
    rows = [",".join([name, *(str(int(c in TAGS.get(name, []))) for c in NAMES)]) for name in IDS]
    return write(root / "tags.csv", "\n".join([",".join(["filename", *NAMES]), *rows]))


def write_coco(root: Path) -> Path:
    images = [{"id": 7 + number, "file_name": f"{name}.jpg"} for number, name in enumerate(IDS)]
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(["_background_", *NAMES])]
    pairs = [(7 + IDS.index(name), 10 + 10 * NAMES.index(c)) for name, its in TAGS.items() for c in its]
    annotations = [{"image_id": image, "category_id": category} for image, category in pairs]
    content = {"images": images, "categories": categories[::-1], "annotations": annotations * 2}
    return write(root / "tags.json", json.dumps(content))


def write_yolo(root: Path, names: str = "path: .\nnames: ['bird', \"traffic light\", cat]\nnc: 3\n") -> Path:
    """`names` is the content of data.yaml."""
    write(root / "data.yaml", names)
    write(root / "README.txt", "Exported by a tool")
    write(root / "labels/été/ö.txt")
    for name, classes in TAGS.items():
        polygon = f"{NAMES.index(classes[0])} 0 0 1e-3 0 1 1\n"
        boxes = "".join(f"{NAMES.index(c)} {BOX}\n" for c in classes)
        write(root / f"labels/{name}.txt", polygon + boxes)
    return root


def write_xml(root: Path) -> Path:
    for name, classes in TAGS.items():
        objects = "".join(f"<object><name>{c}</name></object>" for c in classes)
        write(root / f"Annotations/{name}.xml", f"<annotation>{objects}</annotation>")
    return root / "Annotations"


def write_folders(root: Path) -> Path:
    """Copies in a folder per class; a photograph of two classes is in two folders."""
    for name, classes in TAGS.items():
        for c in classes:
            write(root / "sorted" / c / f"{name}.jpg")
    return root / "sorted"


def write_vectors(root: Path) -> Path:
    write(root / "classes.txt", "\n".join(NAMES))
    save_image_labels(root / "x.npy", {name: np.array([c in its for c in NAMES]) for name, its in TAGS.items()})
    return root / "x.npy"


ORDERED = [write_columns, write_coco, write_yolo, write_vectors]  # with an order of classes of their own


def run(images, tags, output) -> None:
    run_main("prepare_data own", f"--images '{images}' --tags '{tags}' --output '{output}'")


@pytest.mark.parametrize("writer", [*ORDERED, write_table, write_spreadsheet, write_xml, write_folders])
def test_kinds(photographs, tmp_path, writer, capsys):
    out, source = tmp_path / "out", writer(tmp_path / "source")
    run(photographs, source, out)
    classes = tuple(NAMES) if writer in ORDERED else ("cat", "traffic light")
    assert load_class_names(out) == classes
    assert load_ids_below(out / "all_id.txt", photographs) == IDS[:3]
    assert load_ids_below(out / "untagged_id.txt", photographs) == IDS[3:]
    rows = load_image_labels(out / "labels.csv", IDS[:3], classes)
    assert [{c for c, has in zip(classes, row) if has} for row in rows] == [set(its) for its in TAGS.values()]
    said = capsys.readouterr().out
    assert "4 photographs" in said
    assert "       2  traffic light" in said
    assert "1 photographs have no tag (été/ö)" in said

    before = bytes_in(out)
    run(photographs, source, out)
    assert bytes_in(out) == before
    (out / "classes.txt").write_text("cow\n")
    with pytest.raises(InputError, match=r"out was made from other input .*: delete classes\.txt"):
        run(photographs, source, out)


def load_ids_below(path: Path, photographs: Path) -> list[str]:
    return split_ids(path.read_bytes(), path, set(images_below(photographs)))


def test_the_folder_of_photographs_as_tags(photographs):
    write(photographs / "untagged.jpg")
    tags = load_image_tags(photographs, images_below(photographs))
    assert tags.classes == ("cats", "dogs", "été")
    assert tags.classes_of == {name: {name.split("/")[0]} for name in IDS}
    assert tags.unknown == []


def test_class_numbers(tmp_path):
    write(tmp_path / "classes.txt", "dog\ncat\n")
    tags = load_image_tags(write(tmp_path / "a.txt", "x/a.jpg 1 0\nb\nc 1\n"), ["a", "b"])
    assert (tags.classes, tags.classes_of, tags.unknown) == (("dog", "cat"), {"a": {"dog", "cat"}, "b": set()}, ["c"])


def test_spaces_separate_classes_in_a_column_of_plural_name(tmp_path):
    text = "id,{}\na,dog cat\nb,cat  cow\nc,fish\n"
    tags = load_image_tags(write(tmp_path / "a.csv", text.format("classes")), ["a", "b"])
    assert tags.classes == ("cat", "cow", "dog")
    tags = load_image_tags(write(tmp_path / "a.csv", text.format("class")), ["a", "b"])
    assert tags.classes == ("cat cow", "dog cat")


@pytest.mark.parametrize(
    "names",
    [
        "nc: 3\r\nnames:\r\n- bird\r\n- traffic light  # red\r\n- cat\r\n\r\ntrain: x\r\n",
        "names:  # three\n  0: bird\n  # two more\n  1: 'traffic light'\n  2: cat",
        "names: {0: bird, 1: traffic light, 2: cat}",
        "names: [\n  'bird',\n  'traffic light',\n  'cat',\n]\n",
    ],
)
def test_names_in_yaml(tmp_path, names):
    folder = write_yolo(tmp_path, names) / "labels"  # the names are above it
    assert load_image_tags(folder, IDS).classes == tuple(NAMES)


@pytest.mark.parametrize("names", ["nc: 3\n", "names: {1: bird, 2: cat}\n"])
def test_odd_names_in_yaml(tmp_path, names):
    with pytest.raises(InputError, match=r"data\.yaml has no `names`.*classes\.txt beside it"):
        load_image_tags(write_yolo(tmp_path, names), IDS)


COCO = '{"images": [{"id": 1, "file_name": "a.jpg"}], "categories": [%s], "annotations": [%s]}'
DOG, ON_A = '{"id": 3, "name": "dog"}', '{"image_id": 1, "category_id": 3}'
MISTAKES = [  # files with their contents, --tags, message
    ({}, "none.csv", r"--tags \S+none\.csv does not exist"),
    ({"t/.keep": ""}, "t", "t holds nothing; expected one folder of images per class, VOC XML"),
    ({"t/a.md": "x", "t/a.jpg": ""}, "t", r"t holds a\.jpg, a\.md; expected"),
    (
        {"t/train/dog/a.jpg": "", "t/val/dog/c.jpg": ""},
        "t",
        r"t holds train, val; expected one folder of images per class",
    ),
    ({"t.txt": "a dog"}, "t.txt", "is of no known kind; expected COCO JSON, CSV"),
    ({"t.csv": ""}, "t.csv", "is of no known kind"),
    ({"t.csv": "a.jpg,dog\n"}, "t.csv", "has no column file_name, image, path or id, but a.jpg, dog"),
    ({"t.xlsx": "PK\0\0"}, "t.xlsx", "is of no known kind"),
    ({"t.txt": "a 0"}, "t.txt", r"class numbers: write their names.* into \S+classes\.txt"),
    ({"t.txt": "a 1", "classes.txt": "dog"}, "t.txt", "line 1: expected an id and different class numbers"),
    (
        {"t.csv": "id,classes\nc,dog\nd,cat"},
        "t.csv",
        r"names 0 photographs without classes, and 2 others \(c, d\); ids: a, b",
    ),
    ({"t.csv": "id,classes\na,\n"}, "t.csv", "no photograph has a tag: .* names 1 photographs without classes"),
    ({"t.csv": "id,classes\na,dog,cat\n"}, "t.csv", "line 2: 3 columns instead of 2, .* need quotes"),
    ({"t.csv": "id,dog,cat\na,1,cow\n"}, "t.csv", "line 2: cat is 'cow', not 0 or 1: name the column"),
    ({"t.csv": "id,classes\na,dog Background\n"}, "t.csv", "Background is label 0"),
    ({"t.csv": "id,0 dog,1 cat\na,1,0\n"}, "t.csv", r"rename classes that are empty, numbered, .*\(0 dog, 1 cat\)"),
    ({"t/dog, wild/a.jpg": ""}, "t", r"hold a separator \(dog, wild\)"),
    ({"t.csv": f"id,{','.join(map(str, range(255)))}\na{',1' * 255}"}, "t.csv", "must hold 1 to 254"),
    ({"t.csv": "id,tag\nc,dog\n", "photos/x/c.jpg": "", "photos/y/c.jpg": ""}, "t.csv", "c, but there are x/c, y/c"),
    ({"t.json": "[1]"}, "t.json", "cannot be read as COCO JSON .*: TypeError"),
    ({"t.json": "{"}, "t.json", "cannot be read as COCO JSON .*: JSONDecodeError: Expecting"),
    ({"t.json": COCO % ("", ON_A)}, "t.json", "cannot be read as COCO JSON .*: KeyError: 3"),
    ({"t/a.txt": f"0 {BOX}"}, "t", r"class numbers: write their names.* into \S+/t/classes\.txt"),
    ({"t/a.txt": f"1 {BOX}", "t/classes.txt": "dog"}, "t", "a class number from 0 to 0 and coordinates, not '1 0.5"),
    ({"t/a.txt": f"0 {BOX}\n0 x", "t/classes.txt": "dog"}, "t", "and coordinates, not '0 x'"),
    ({"t/a.xml": "<html></html>"}, "t", "is not a VOC annotation"),
    ({"photos/a.png": ""}, "photos", r"a\.png and a\.jpg have the same id a: remove or rename one"),
    ({"photos/12:30.jpg": "", "photos/cat/d.jpg": ""}, "photos", "12:30.*: an id is the name"),
]


@pytest.mark.parametrize(("files", "tags", "message"), MISTAKES)
def test_mistakes(tmp_path, files, tags, message):
    for name, content in ({"photos/a.jpg": "", "photos/b.jpg": ""} | files).items():
        write(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as caught:
        run(tmp_path / "photos", tmp_path / tags, tmp_path / "out")
    assert len(str(caught.value).replace(str(tmp_path), "")) <= 300
    assert not (tmp_path / "out").exists()


def test_places_that_are_refused(photographs, tmp_path):
    with pytest.raises(InputError, match=r"--output \S+ lies in --images"):
        run(photographs, photographs, photographs / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"--images \S+ holds no images \(\.jpg \.jpeg"):
        run(tmp_path / "empty", photographs, tmp_path / "out")


def test_a_background_without_images_is_left_out(tmp_path):
    source = write(tmp_path / "t.json", COCO % ('{"id": 0, "name": "background"}, ' + DOG, ON_A))
    assert load_image_tags(source, ["a"]).classes == ("dog",)


def test_ids_with_two_readings(tmp_path):
    """Without its suffix, `photo 2` beside `photo` would be `photo` and a class number."""
    names = ["a, b", "photo", "photo 2", "x 7"]
    for name in names:
        write(tmp_path / f"photos/dog/{name}.jpg")
    run(tmp_path / "photos", tmp_path / "photos", tmp_path / "out")
    ids = load_ids(tmp_path / "out/all_id.txt", photograph_folder(tmp_path / "out"))
    assert ids == [f"dog/{name}" for name in names]
