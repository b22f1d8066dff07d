"""Drawn scenes, on which most other tests depend: layout, ground truth, determinism."""

import numpy as np
import pytest
from PIL import Image

from datasets.drawn_objects import CLASS_NAMES, CONTEXTS
from datasets.drawn_scenes import draw_scene, write_saliency_scenes, write_voc_scenes
from formats.image_labels import load_image_labels
from formats.images import load_image, load_mask
from formats.labels import load_label
from formats.voc_layout import load_class_names, load_ids


def test_scenes_depend_on_their_seed():
    assert not np.array_equal(draw_scene(5, 3).image, draw_scene(6, 3).image)
    assert len(set(CONTEXTS.values())) == len(CLASS_NAMES) == 10


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 200), (200, 96), (375, 500)])
def test_any_size(height, width):
    scene = draw_scene(0, 0, height, width)
    assert scene.image.shape == (height, width, 3)
    assert scene.label.shape == scene.mask.shape == (height, width)
    assert scene.image_labels.sum() >= 1


def test_truth_is_consistent():
    scenes = [draw_scene(1, index) for index in range(60)]
    for scene in scenes:
        inside = (scene.label > 0) & (scene.label != 255)
        assert set(np.unique(scene.mask)) == {0, 255}
        assert (scene.mask[inside] == 255).all()
        assert (scene.mask[scene.label == 0] == 0).all()
        assert 0 < (scene.label == 255).mean() < 0.2
        assert 1 <= scene.image_labels.sum() <= 2
    single = np.mean([scene.image_labels.sum() == 1 for scene in scenes])
    assert 0.4 < single < 0.8
    assert np.all(np.sum([scene.image_labels for scene in scenes], axis=0) > 0)


def test_saliency_layout(tmp_path):
    write_saliency_scenes(tmp_path, count=3, seed=4, height=48, width=64)
    images, masks = sorted((tmp_path / "Images").iterdir()), sorted((tmp_path / "Masks").iterdir())
    assert [path.suffix for path in images + masks] == [".jpg"] * 3 + [".png"] * 3
    assert [path.stem for path in images] == [path.stem for path in masks]
    for image, mask in zip(images, masks):
        assert load_image(image).shape[:2] == load_mask(mask).shape == (48, 64)
        with Image.open(mask) as file:
            assert file.mode == "L"


def test_voc_layout(tmp_path):
    write_voc_scenes(tmp_path / "VOC2012", tmp_path / "voc12", num_train=5, num_val=2, seed=4, height=48, width=64)
    lists = {name: load_ids(tmp_path / f"voc12/{name}_id.txt") for name in ("train_aug", "train", "val")}
    assert (len(lists["train_aug"]), len(lists["train"]), len(lists["val"])) == (5, 3, 2)
    assert set(lists["train"]) < set(lists["train_aug"])
    assert not set(lists["val"]) & set(lists["train_aug"])
    assert load_class_names(tmp_path / "VOC2012") == CLASS_NAMES
    ids = lists["train_aug"] + lists["val"]
    image_labels = load_image_labels(tmp_path / "voc12/cls_labels.npy", ids, CLASS_NAMES)
    for name, row in zip(ids, image_labels):
        label = load_label(tmp_path / f"VOC2012/SegmentationClassAug/{name}.png")
        assert np.array_equal(np.isin(np.arange(1, 11), label), row)
        with Image.open(tmp_path / f"VOC2012/SegmentationClassAug/{name}.png") as file:
            assert file.mode == "P"
    names = {path.stem for path in (tmp_path / "VOC2012/SegmentationClass").iterdir()}
    assert names == set(lists["train"] + lists["val"])


def test_files_are_the_same_twice(tmp_path):
    for folder in ("a", "b"):
        write_voc_scenes(tmp_path / folder / "VOC2012", tmp_path / folder / "voc12", 3, 1, seed=9, height=40, width=40)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 4 + 4 + 3 + 1 + 4
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes(), path
