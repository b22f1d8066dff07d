"""Label maps leave for other tools and return corrected: every pixel, or the loss that is printed."""

import cv2
import numpy as np
import pytest
import yaml
from conftest import run_main
from PIL import Image

from formats.corrections import save_corrections
from formats.errors import InputError
from formats.images import images_below, save_image
from formats.labels import load_label, save_label
from metrics.segmentation import ConfusionMatrix

CLASSES = ("cat", "dog: brown", "fish")


def draw_labels() -> dict[str, np.ndarray]:
    """Labels with 255, several parts, a hole with a part of another class, one pixel, no object; odd sizes."""
    scene = np.zeros((61, 47), np.uint8)
    cv2.circle(scene, (20, 20), 15, 1, 7)
    cv2.circle(scene, (20, 20), 5, 2, -1)
    cv2.rectangle(scene, (30, 40), (46, 60), 3, -1)
    cv2.rectangle(scene, (36, 45), (38, 47), 255, -1)
    scene[50:58, 3:9], scene[2, 44] = 1, 3
    ignored = np.full((9, 4), 255, np.uint8)
    return {"scene": scene, "cats/img.1": np.ones((1, 1), np.uint8), "cats/x/none": 0 * ignored, "all 255": ignored}


@pytest.fixture
def tree(tmp_path):
    """HERE/labels, HERE/photographs with various suffixes, HERE/classes.txt."""
    suffixes = iter((".jpg", ".JPG", ".png", ".bmp"))
    for image_id, label in draw_labels().items():
        save_label(tmp_path / f"labels/{image_id}.png", label)
        save_image(tmp_path / f"photographs/{image_id}{next(suffixes)}", np.zeros((*label.shape, 3), np.uint8))
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    return tmp_path


def export(tree, flags: str) -> None:
    flags = f"--input HERE/labels --classes HERE/classes.txt {flags}"
    run_main("export labels", flags.replace("HERE", str(tree)))


def read_back(tree, name: str, ids=None, classes=CLASSES) -> dict[str, np.ndarray]:
    """The labels of `ids` that return as corrections from a file or folder of the tree."""
    photographs = images_below(tree / "photographs")
    files = save_corrections(tree / name, tree / "saved", classes, photographs, ids or draw_labels())
    return {image_id: load_label(path) for image_id, path in files.items()}


def assert_same(found, expected) -> None:
    assert found.keys() == expected.keys()
    for image_id, label in expected.items():
        assert np.array_equal(found[image_id], label), image_id


def test_grey_masks_return_every_pixel(tree):
    export(tree, "--format grey --output HERE/out")
    for image_id, label in draw_labels().items():
        with Image.open(tree / f"out/masks/{image_id}.png") as image:
            assert image.mode == "L"
            assert np.array_equal(np.array(image), label)
    content = yaml.safe_load((tree / "out/dataset.yaml").read_text(encoding="utf-8"))
    assert content["masks_dir"] == "masks"
    assert content["names"] == dict(enumerate(("background", *CLASSES)))
    assert_same(read_back(tree, "out/masks"), draw_labels())


@pytest.mark.parametrize("flags", ["", "--images HERE/photographs"])
def test_coco_returns_every_pixel_but_those_ignored(flags, tree, capsys):
    export(tree, f"--format coco --output HERE/out/a.json {flags}")
    assert ("cats/img.1.JPG" in (tree / "out/a.json").read_text()) == bool(flags)
    expected = {image_id: np.where(label == 255, 0, label) for image_id, label in draw_labels().items()}
    assert_same(read_back(tree, "out/a.json"), expected)
    assert "a.json: 4 labels, 2 of them all background, 0 not in the list and unused" in capsys.readouterr().err


def test_polygons_lose_what_is_printed(tree, capsys):
    export(tree, "--format yolo --output HERE/out")
    labels, confusion = draw_labels(), ConfusionMatrix(len(CLASSES) + 1)
    for image_id, label in labels.items():
        drawn = np.zeros_like(label)
        for line in (tree / f"out/labels/{image_id}.txt").read_text().splitlines():
            value, *shares = line.split()
            points = np.array(shares, float).reshape(-1, 2) * label.shape[::-1]
            cv2.fillPoly(drawn, [points.astype(np.int32)], int(value) + 1)  # as Ultralytics does
        confusion.add(drawn, label)
        lost = label[(label != drawn) & (label != 255)].tolist()
        hole = (label == 0) & (cv2.circle(np.zeros_like(label), (20, 20), 15, 1, -1) > 0)
        assert sorted(lost) == {"scene": [0] * hole.sum() + [3], "cats/img.1": [1]}.get(image_id, [])
    printed = f"mean IoU of the polygons with the labels: {confusion.scores()['mIoU']:.4f}"
    assert printed in capsys.readouterr().out
    assert yaml.safe_load((tree / "out/dataset.yaml").read_text())["names"] == dict(enumerate(CLASSES))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--format coco --output HERE/labels", "is a folder: name a file"),
        ("--format coco --output HERE/a.json --images HERE/labels/cats", "lacks 4 of 4 photographs"),
        ("--format coco --output HERE/a.json --images HERE/turned", "all 255.png is 4×9 px, but .* is 9×4 px"),
        ("--format grey --output HERE/out --classes HERE/one.txt", r"holds the labels \[2, 3\], but there are only"),
        ("--format yolo --output HERE/out --input HERE/empty", "hold no .png file"),
    ],
)
def test_refusals(flags, words, tree):
    (tree / "empty").mkdir()
    (tree / "one.txt").write_text("cat")
    for image_id, label in draw_labels().items():
        save_image(tree / f"turned/{image_id}.png", np.zeros((*label.shape[::-1], 3), np.uint8))
    with pytest.raises(InputError, match=words) as error:
        export(tree, flags)
    assert len(str(error.value)) - str(error.value).count(str(tree)) * len(str(tree)) <= 300


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("none", {}, "none does not exist"),
        ("labels/cats", {}, "labels/cats, img.1: there is no such photograph: rename it .* such as all 255"),
        ("labels", {"ids": ["other"]}, "labels: none of its 4 images is in the list"),
        ("labels", {"classes": ["cat"]}, r"labels, scene holds the labels \[2, 3\], but there are only 0 to 1"),
        ("small", {}, r"small, scene is 47×60 px, but .*scene\.jpg is 47×61 px"),
    ],
)
def test_corrections_that_do_not_fit(name, change, words, tree):
    save_label(tree / "small/scene.png", np.zeros((60, 47), np.uint8))
    with pytest.raises(InputError, match=words):
        read_back(tree, name, **change)
