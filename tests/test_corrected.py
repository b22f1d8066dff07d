"""Masks that were corrected in another tool enter as labels of their images."""

import shutil

import numpy as np
import pytest
from conftest import bytes_in, run_main
from training_commands import COMMANDS, weights

from formats.coco import load_coco, save_coco
from formats.errors import InputError
from formats.labels import save_label
from formats.voc_layout import load_class_names, load_ids


@pytest.fixture
def drawn() -> np.ndarray:
    """What a user draws: two boxes of classes that the image need not have."""
    label = np.zeros((64, 80), np.uint8)
    label[3:20, 5:30], label[30:50, 40:70] = 2, 9
    return label


@pytest.mark.parametrize("selector", ["none", "sos --t0 0.1", "evidence --features PARTS/affinity/last.pth"])
def test_labels_return_corrected(selector, drawn, scenes, make, tmp_path, capsys):
    """Labels leave as COCO, one is drawn anew: that one is as drawn; all others, and what selectors measure, stay."""
    flags = f"--fusion oaa --saliency_dir PARTS/saliency --selector {selector}"
    labels, exported, voc = make("labels", flags), tmp_path / "a.json", scenes / "data/VOCdevkit/VOC2012"
    coco = f"--input {tmp_path}/labels --classes {voc}/classes.txt --images {voc}/JPEGImages --format coco"
    run_main("export labels", f"{coco} --output {exported}")
    (image_id, last), classes = list(labels)[-2:], load_class_names(voc)
    corrected = {f"{image_id}.jpg": drawn, f"{last}.jpg": dict(load_coco(exported, classes))[f"{last}.jpg"]}
    save_coco(exported, corrected.items(), classes)
    expected = labels | {image_id: drawn, last: np.where(labels[last] == 255, 0, labels[last])}
    for attempt in ("new", "existing"):
        found = make("corrected", f"{flags} --corrected HERE/a.json")
        assert all(np.array_equal(found[name], label) for name, label in expected.items()), attempt
    assert "12 labels " in capsys.readouterr().out
    others = {name: content for name, content in bytes_in(tmp_path / "labels").items() if not name.endswith(".png")}
    assert others.items() <= bytes_in(tmp_path / "corrected").items()
    save_label(tmp_path / f"{image_id}.png", drawn)
    for other in ("", f"--corrected HERE/{image_id}.png"):
        with pytest.raises(InputError, match="made with corrected = "):
            make("corrected", f"{flags} {other}")


def test_training_with_corrected_labels(drawn, scenes, label_parts, tmp_path, capsys):
    """A run, also if resumed, equals one on labels that were replaced by hand."""
    names = load_ids(scenes / "voc12/train_aug_id.txt")
    shutil.copytree(label_parts / "rough", tmp_path / "replaced")
    for folder in ("replaced", "drawn"):
        save_label(tmp_path / folder / f"{names[0]}.png", drawn)
    validated = load_ids(scenes / "voc12/val_id.txt")[0]
    save_label(tmp_path / f"drawn/{validated}.png", drawn)

    def train(tag: str, labels, flags: str) -> dict:
        line = COMMANDS["train_segmentation"](scenes, tmp_path, f"--tag {tag} --val_list none --power 0 {flags}")
        run_main("train_segmentation", line.replace("SegmentationClassAug", str(labels)))
        return weights(tmp_path / tag / "last.pth")

    corrected = f"--corrected {tmp_path}/drawn"
    expected = train("by_hand", tmp_path / "replaced", "--max_epoch 2")
    original = train("rough", label_parts / "rough", "--max_epoch 2")
    train("corrected", label_parts / "rough", f"{corrected} --max_epoch 1")
    assert "drawn: 2 labels, 0 of them all background, 1 not in the list and unused" in capsys.readouterr().err
    found = train("corrected", label_parts / "rough", f"{corrected} --max_epoch 2 --resume")
    assert all((found[name] == expected[name]).all() for name in expected)
    assert any((found[name] != original[name]).any() for name in expected)
    with pytest.raises(InputError, match=r"started with corrected = .*, not None"):
        train("corrected", label_parts / "rough", "--max_epoch 3 --resume")


def test_mistakes_are_found_before_work(drawn, scenes, make, tmp_path):
    save_label(tmp_path / "corrected/other.png", drawn)
    words = "corrected, other: there is no such photograph: rename it"
    with pytest.raises(InputError, match=words):
        make("labels", "--load_path PARTS/classifier/last.pth --corrected HERE/corrected", cams="HERE/cams")
    with pytest.raises(InputError, match=words):
        line = COMMANDS["train_segmentation"](scenes, tmp_path, f"--tag a --corrected {tmp_path}/corrected")
        run_main("train_segmentation", line)
    assert [path.name for path in tmp_path.iterdir()] == ["corrected"]
