"""COCO JSON: RLE as pycocotools writes it, and the way back of every pixel."""

import json

import numpy as np
import pytest

from formats.coco import compress_counts, encode_mask, expand_counts, fill_polygon, load_coco, save_coco
from formats.errors import InputError

RNG = np.random.default_rng(0)
CLASSES = ("cat", "dog")
SPECKLES = RNG.integers(0, 3, (37, 53)).astype(np.uint8)
MASKS = {
    "noise": RNG.random((41, 29)) > 0.5,
    "object in the first pixel": np.eye(7, 5, dtype=bool),
    "long runs": np.arange(300 * 401).reshape(300, 401) > 60_000,
    "full": np.ones((9, 4), bool),
    "one pixel": np.ones((1, 1), bool),
}
WHOLE = [[-2, -1, 9, -1, 9, 8, -2, 8]]


def write_coco(path, *entries, category="cat"):
    """A COCO file of one image, 4 × 6 px; the first annotation belongs to `category` (7), the second to dog (3)."""
    names = [{"id": 7, "name": category}, {"id": 3, "name": "dog"}]
    images = [{"id": "x", "file_name": "a.jpg", "height": 4, "width": 6}]
    annotations = [
        {"id": place, "image_id": "x", "category_id": (7, 3)[place], **entry} for place, entry in enumerate(entries)
    ]
    path.write_text(json.dumps({"images": images, "categories": names, "annotations": annotations}))
    return path


@pytest.mark.parametrize("kind", MASKS)
def test_masks_return(kind, tmp_path):
    label = MASKS[kind].astype(np.uint8)
    save_coco(tmp_path / "a.json", [("a.jpg", label)], CLASSES)
    ((name, returned),) = load_coco(tmp_path / "a.json", CLASSES)
    assert name == "a.jpg"
    assert np.array_equal(returned, label)


def test_runs_worked_by_hand():
    mask = np.array([[0, 1, 1, 1], [1, 1, 1, 0], [0, 0, 1, 1]], bool)
    assert encode_mask(mask) == {"size": [3, 4], "counts": "1111020M"}  # from the fourth on 1 0 2 0 -3
    assert expand_counts("1111020M") == [1, 1, 1, 2, 1, 4, 1, 1]
    assert compress_counts([5, 1000]) == "5Xo0"  # 1000 = 8 + 31 · 32, whose second digit would look negative


@pytest.mark.slow
@pytest.mark.parametrize("kind", MASKS)
def test_runs_are_those_of_pycocotools(kind):
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    ours, theirs = encode_mask(MASKS[kind]), coco.encode(np.asfortranarray(MASKS[kind], np.uint8))
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}


@pytest.mark.slow
def test_polygons_are_close_to_pycocotools():
    """Both fill by the centres of pixels; pycocotools rounds points to a fifth of a pixel first."""
    coco = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    for radius in RNG.uniform(10, 45, (20, 40)):
        points = np.stack([60 + radius * np.cos(angles), 50 + radius * np.sin(angles)], axis=1).ravel().tolist()
        theirs = coco.decode(coco.frPyObjects([points], 100, 120))[..., 0] > 0
        ours = fill_polygon(points, (100, 120))
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.98


@pytest.mark.slow
def test_files_are_read_by_pycocotools(tmp_path):
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    mask_of = pytest.importorskip("pycocotools.mask")
    save_coco(tmp_path / "a.json", [("a.jpg", SPECKLES)], CLASSES)
    data, label = coco.COCO(str(tmp_path / "a.json")), np.zeros_like(SPECKLES)
    for entry in data.loadAnns(data.getAnnIds()):
        mask = data.annToMask(entry) > 0
        assert (entry["area"], entry["bbox"]) == (mask.sum(), mask_of.toBbox(data.annToRLE(entry)).tolist())
        label[mask] = entry["category_id"]
    assert np.array_equal(label, SPECKLES)


def test_parts_are_annotations(tmp_path):
    label = np.zeros((5, 7), np.uint8)
    label[0, 0], label[2:5, 2:5], label[3, 3], label[0, 6], label[1, 5], label[4, 0] = 1, 1, 2, 2, 2, 255
    save_coco(tmp_path / "a.json", [("in/ä.JPG", label), ("b.jpg", np.zeros((2, 3), np.uint8))], CLASSES)
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert content["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert content["images"][0] == {"id": 1, "file_name": "in/ä.JPG", "width": 7, "height": 5}
    found = [(entry["category_id"], entry["area"], entry["bbox"]) for entry in content["annotations"]]
    assert found == [(1, 1, [0, 0, 1, 1]), (1, 8, [2, 2, 3, 3]), (2, 2, [5, 0, 2, 2]), (2, 1, [3, 3, 1, 1])]
    assert [(entry["id"], entry["image_id"]) for entry in content["annotations"]] == [(1, 1), (2, 1), (3, 1), (4, 1)]
    returned = dict(load_coco(tmp_path / "a.json", CLASSES))
    assert np.array_equal(returned["in/ä.JPG"], np.where(label == 255, 0, label))
    assert np.array_equal(returned["b.jpg"], np.zeros((2, 3)))


@pytest.mark.parametrize(
    ("segmentation", "rows"),
    [
        ({"size": [4, 6], "counts": [5, 2, 17]}, slice(1, 3)),
        ({"size": [4, 6], "counts": compress_counts([5, 2, 17])}, slice(1, 3)),
        ([[1, 1, 2, 1, 2, 3, 1, 3]], slice(1, 3)),
        ([[1, 0, 2, 0, 2, 1, 1, 1], [0.9, 2.4, 2.1, 2.4, 1.5, 4.9]], [0, 2, 3]),
        ([], slice(1, 4)),
    ],
)
def test_every_form_of_a_mask(segmentation, rows, tmp_path):
    """The second annotation is drawn over the first, which fills the image; the last form is a thin box."""
    second = {"segmentation": segmentation, "bbox": [1.0, 1.0, 1.0, 3.0]}
    ((_, label),) = load_coco(write_coco(tmp_path / "a.json", {"segmentation": WHOLE}, second), CLASSES)
    expected = np.ones((4, 6), np.uint8)
    expected[rows, 1] = 2
    assert np.array_equal(label, expected)


@pytest.mark.parametrize(("name", "value"), [("background", 0), ("bg", 0), ("ignore", 255), ("cat", 1)])
def test_categories_count_by_name(name, value, tmp_path):
    path = write_coco(tmp_path / "a.json", {"segmentation": WHOLE}, category=name)
    assert (dict(load_coco(path, CLASSES))["a.jpg"] == value).all()


SIZES = r"annotation 0: a mask of \[{}\] \(height, width\) and {} px in an image of \[4, 6\]: export"


@pytest.mark.parametrize(
    ("segmentation", "category", "words"),
    [
        ({"size": [6, 4], "counts": [24]}, "cat", SIZES.format("6, 4", 24)),
        ({"size": [4, 6], "counts": [5, 20]}, "cat", SIZES.format("4, 6", 25)),
        ({"size": [4, 6]}, "cat", r"lacks what COCO files of masks hold \('counts'\)"),
        ([], "cat", "draw masks, not boxes"),
        ([[1, 2, 3, 4]], "cat", "polygons of three points"),
        (WHOLE, "cow", "annotation 0: unknown category 'cow'; known are cat, dog"),
    ],
)
def test_mistakes(segmentation, category, words, tmp_path):
    entry = {"segmentation": segmentation, "bbox": [0, 0, 6, 4]}
    with pytest.raises(InputError, match=words):
        list(load_coco(write_coco(tmp_path / "a.json", entry, category=category), CLASSES))


@pytest.mark.parametrize(("text", "words"), [("a", "is not JSON"), ("{}", r"hold \('categories'\): export images")])
def test_other_files(text, words, tmp_path):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=words):
        list(load_coco(tmp_path / "a.json", CLASSES))
