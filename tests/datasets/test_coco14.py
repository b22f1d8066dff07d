"""prepare_data.py coco14 on a drawn COCO 2014: masks worked by hand, every kind of archive, wrong ones, every stage."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY_RESNEST, bytes_in, run_main
from test_voc_archives import contents, pack
from training_commands import CROPS

from formats.errors import InputError
from formats.image_labels import load_image_labels
from formats.images import save_grey, save_image
from formats.labels import load_label
from formats.voc_layout import find_photographs, find_voc_root, load_class_names, load_ids

NAMES = {90: "toothbrush", 1: "person", 13: "stop sign"}  # labels 3, 1 and 2
SPLITS = ("train2014", "val2014")


def box(x: int, y: int, width: int, height: int) -> dict:
    """A polygon that fills these pixels."""
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return {"segmentation": [corners], "area": width * height, "iscrowd": 0}


def crowd(*counts: int) -> dict:
    """Runs down the columns of an image of 4 × 6 px."""
    return {"segmentation": {"size": [4, 6], "counts": list(counts)}, "area": sum(counts[1::2]), "iscrowd": 1}


# image → annotations, as category and shape
TRAIN = {
    9: [(13, box(1, 1, 2, 2)), (1, box(0, 0, 4, 4)), (90, box(2, 2, 2, 1)), (1, box(2, 2, 1, 2))],
    25: [(90, crowd(0, 12, 12)), (1, box(2, 0, 2, 2))],
    30: [],
}
VAL = {42: [(1, box(5, 3, 1, 1))]}
MASKS = {
    # the box of 4 px hides the one of 16; of two boxes of 2 px the first wins
    "train2014/COCO_train2014_000000000009": ["111100", "122100", "123300", "111100"],
    "train2014/COCO_train2014_000000000025": ["331100", "331100", "333000", "333000"],
    "val2014/COCO_val2014_000000000042": ["000000", "000000", "000000", "000001"],
}


def write_coco14(folder: Path, splits: list[dict[int, list]], names: dict[int, str], hw=(4, 6)) -> Path:
    """Write train2014/, val2014/ and annotations/; photographs have a shade of their own for each image."""
    for split, drawn in zip(SPLITS, splits):
        images, annotations = [], []
        for number, entries in drawn.items():
            name = f"COCO_{split}_{number:012}.jpg"
            images.append({"id": number, "file_name": name, "height": hw[0], "width": hw[1]})
            pixels = np.full((*hw, 3), number % 50, np.uint8)
            for category, entry in entries:
                annotations.append({"id": len(annotations), "image_id": number, "category_id": category} | entry)
                if not entry["iscrowd"]:
                    x, y, x_end, y_end = (entry["segmentation"][0][place] for place in (0, 1, 2, 5))
                    pixels[y:y_end, x:x_end] = category * 2 + 60, 250 - category, category * 37 % 256
            save_image(folder / split / name, pixels)
        content = {"images": images, "annotations": annotations}
        content["categories"] = [{"id": number, "name": name} for number, name in names.items()]
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / f"annotations/instances_{split}.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory) -> Path:
    folder = write_coco14(tmp_path_factory.mktemp("coco"), [TRAIN, VAL], NAMES)
    (folder / "annotations/captions_train2014.json").write_text("{}")
    return folder


def prepare(source: Path, out: Path, suffix: str = "", **other) -> None:
    """Run prepare_data.py coco14 on `source`, with other places for some flags."""
    places = {"train2014": source / f"train2014{suffix}", "val2014": source / f"val2014{suffix}"}
    places |= {"annotations": source / f"annotations{suffix}", "data_dir": out / "data", "list_dir": out / "lists"}
    run_main("prepare_data coco14", " ".join(f"--{flag} {place}" for flag, place in (places | other).items()))


@pytest.fixture(scope="module")
def prepared(coco, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("prepared")
    prepare(coco, out)
    return out


def test_tree_worked_by_hand(prepared, coco, capsys):
    data, train, val = prepared / "data", *(prepared / f"lists/{name}_id.txt" for name in ("train", "val"))
    assert find_voc_root(data) == data
    assert load_class_names(data) == ("person", "stop sign", "toothbrush")
    assert load_ids(train) + load_ids(val) == list(MASKS)
    rows = load_image_labels(prepared / "lists/cls_labels.npy", MASKS, load_class_names(data))
    assert rows.tolist() == [[True, True, True], [True, False, True], [True, False, False]]
    masks = data / "SegmentationClass"
    assert sorted(MASKS) == sorted(path.relative_to(masks).with_suffix("").as_posix() for path in masks.rglob("*.png"))
    for name, mask in MASKS.items():
        assert load_label(masks / f"{name}.png").tolist() == [list(map(int, row)) for row in mask]
    assert find_photographs(data, list(MASKS)) == [coco / f"{name}.jpg" for name in MASKS]
    run_main("prepare_data check", f"--data_dir {data} --list_dir {prepared}/lists --label_name SegmentationClass")
    assert "0 errors and 0 notes on 3 pictures" in capsys.readouterr().out


def test_archives_are_unpacked(prepared, coco, tmp_path):
    for name in (*SPLITS, "annotations"):
        shutil.copytree(coco / name, tmp_path / name / name)
        pack(tmp_path / name, tmp_path / f"{name}.zip")
    prepare(tmp_path, tmp_path / "out", ".zip")
    made = contents(tmp_path / "out")
    photographs = {name for name in made if name.startswith("data/photographs/")}
    assert len(photographs) == 4
    assert all(made[name] == (coco / name.removeprefix("data/photographs/")).read_bytes() for name in photographs)
    assert made.pop("data/photographs.txt").decode().strip() == str(tmp_path / "out/data/photographs")
    expected = {name: content for name, content in contents(prepared).items() if name != "data/photographs.txt"}
    assert {name: content for name, content in made.items() if name not in photographs} == expected


def test_a_second_run_adds_what_is_missing(prepared, coco, tmp_path, capsys):
    out = shutil.copytree(prepared, tmp_path / "out")
    mask = out / "data/SegmentationClass/train2014/COCO_train2014_000000000009.png"
    for path in (mask, out / "lists/cls_labels.npy", out / "lists/val_id.txt"):
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != ".lock"}
    prepare(coco, out)
    assert bytes_in(out) == bytes_in(prepared)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    printed = capsys.readouterr().out
    assert "2 masks, 1 of them already in" in printed
    assert "train_id.txt: 2 images; warning: COCO 2014 has 82081" in printed


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"train2014": "val2014"}, "name the folder train2014 that train2014.zip unpacks to"),
        ({"val2014": "annotations.zip"}, "should be two archives, or lie in one folder"),
        ({"train2014": "annotations.zip", "val2014": "val.zip"}, r"annotations\.zip holds no COCO_train2014_\*\.jpg"),
        ({"annotations": "2017"}, r"2017 should hold one instances_train2014\.json, there is .*train2017"),
        ({"annotations": "lacking"}, r"train2014 lacks 1 of 2 photographs that .*json describes \(COCO_train2014_0"),
        ({"annotations": "cut"}, r"instances_train2014\.json is not JSON"),
    ],
)
def test_mistakes_take_one_line(places, message, coco, tmp_path):
    for name in (*SPLITS, "annotations"):
        (tmp_path / name).symlink_to(coco / name)
    pack(coco / "annotations", tmp_path / "annotations.zip")
    pack(coco / "val2014", tmp_path / "val.zip")
    whole = (coco / "annotations/instances_train2014.json").read_text()
    for folder, content in {"lacking": whole.replace("009.jpg", "008.jpg"), "cut": whole[:-9], "2017": whole}.items():
        shutil.copytree(coco / "annotations", tmp_path / folder)
        (tmp_path / folder / "instances_train2014.json").write_text(content)
    (tmp_path / "2017/instances_train2014.json").rename(tmp_path / "2017/instances_train2017.json")
    with pytest.raises(InputError, match=message) as error:
        prepare(tmp_path, tmp_path / "out", **{flag: tmp_path / name for flag, name in places.items()})
    assert len(str(error.value)) <= 300 + 2 * len(str(tmp_path))
    assert not (tmp_path / "out").exists()


def test_other_content_stays(prepared, coco, tmp_path):
    out = shutil.copytree(prepared, tmp_path / "out")
    (out / "data/classes.txt").write_text("cat\n")
    with pytest.raises(InputError, match=r"data was made from other input than COCO 2014 in .*: delete classes\.txt"):
        prepare(coco, out)
    (out / "lists/val_id.txt").write_text("mine\n")
    with pytest.raises(InputError, match=r"val_id\.txt lists other images"):
        prepare(coco, out)
    (out / "voc/VOC2012/JPEGImages").mkdir(parents=True)
    with pytest.raises(InputError, match="holds a VOC tree already"):
        prepare(coco, out, data_dir=out / "voc")


@pytest.mark.slow
def test_every_stage_with_eighty_classes(tmp_path, monkeypatch):
    """`pipeline.py coco14` from drawn photographs to the table: classifier, labels, selector, segmentation, scores."""
    monkeypatch.chdir(tmp_path)
    numbers = [number for number in range(1, 91) if number % 9]  # 80 of 90, as COCO's
    names = {number: f"class {number}" for number in numbers}
    train = {
        place: [(numbers[2 * place], box(4, 4, 30, 40)), (numbers[2 * place + 1], box(26, 10, 30, 30))]
        for place in range(40)
    }
    prepare(write_coco14(tmp_path / "coco", [train, train], names, (48, 64)), tmp_path)
    ids = load_ids(tmp_path / "lists/train_id.txt")
    for name in ids:
        objects = load_label(tmp_path / f"data/SegmentationClass/{name}.png") > 0
        save_grey(tmp_path / f"maps/{name}.png", objects * np.uint8(255))
    flags = "--data_dir data --list_dir lists --saliency_dir maps --seeds 0 --output out --row resnest101"
    for stage in ("classifier", "affinity", "segmentation --head_width 16"):
        flags += f" --flags '{stage} {TINY_RESNEST} {CROPS} --train_batch 8 --max_epoch 1 --pretrained none'"
    run_main("pipeline coco14", flags)
    for folder in ("labels/ours/before", "labels/ours/selected"):
        assert len(list((tmp_path / "out" / folder / "train2014").glob("*.png"))) == 40
    for name, count in (("labels", 2), ("segmentation", 3)):
        scores = json.loads((tmp_path / f"out/tables/ours/{name}.json").read_text())
        assert [len(of_one["IoU"]) for of_one in scores.values()] == [81] * count
        assert all(None not in of_one["IoU"].values() for of_one in scores.values())
