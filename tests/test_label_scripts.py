"""make_pseudo_labels.py, predict.py and evaluate.py by running them: files, repetition, refusals, tables."""

import json
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT, TINY_RESNEST, TINY_SWIN, run_main

from cam_files import load_cams, save_cams
from image_files import load_grey, load_image, save_grey
from input_errors import InputError, MissingInputError
from label_files import load_label, save_label
from metrics.segmentation import ConfusionMatrix
from predict import highlight
from pseudo_labels.cams import labels_from_cams
from voc_layout import load_ids, load_image_labels


@pytest.fixture(scope="module")
def runs(scenes, tmp_path_factory):
    """A checkpoint of each stage after one epoch, maps, and labels of both kinds."""
    root = tmp_path_factory.mktemp("runs")
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12"
    short = f"--log_path {root} --max_epoch 1 --train_batch 4 --pretrained none"
    crops = "--crop_size 48 --long_side 48 80"
    run_main("SOD_train", f"{TINY_SWIN} --train_root {scenes}/dataset {short} --tag saliency")
    run_main("train_classification", f"{TINY_RESNEST} {voc} {short} {crops} --tag classifier")
    images = scenes / "data/VOCdevkit/VOC2012/JPEGImages"
    run_main("predict", f"--load_path {root}/saliency/last.pth --input {images} --output {root}/maps/VOC")
    for path in (scenes / "data/VOCdevkit/VOC2012/SegmentationClassAug").iterdir():
        objects = np.isin(load_label(path), (0, 255), invert=True)  # maps as a perfect network would make them
        save_grey(root / "perfect" / path.name, np.where(objects, 255, 0).astype(np.uint8))
    labels = f"{voc} --load_path {root}/classifier/last.pth --cam_dir {root}/cams --label_name {root}"
    run_main("make_pseudo_labels", f"{labels}/cam")
    run_main("make_pseudo_labels", f"{labels}/sos --selector sos --saliency_dir {root}/perfect --t0 0 --t1 0")
    run_main(
        "train_segmentation", f"{TINY_RESNEST} {voc} {short} {crops} --head_width 16 --label_name {root}/sos --tag seg"
    )
    return root


def make(scenes, runs, extra: str) -> None:
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --load_path {runs}/classifier/last.pth"
    run_main("make_pseudo_labels", f"{voc} {extra}")


def test_labels_follow_from_the_maps(scenes, runs):
    ids = load_ids(scenes / "voc12/train_aug_id.txt")
    image_labels = load_image_labels(scenes / "voc12/cls_labels.npy", ids, 10)
    assert {path.stem for path in (runs / "cam").glob("*.png")} == set(ids)
    for name, row in zip(ids, image_labels):
        cams, classes = load_cams(runs / f"cams/{name}.npz")
        assert cams.shape[1:] == (64, 80)
        assert 0 <= cams.min() <= cams.max() <= 1
        assert classes.tolist() == (np.flatnonzero(row) + 1).tolist()
        label = load_label(runs / f"cam/{name}.png")
        assert np.array_equal(label, labels_from_cams(cams, classes, 0.2))


def test_selector_paints_masks_on_single_class_images_only(scenes, runs):
    ids = load_ids(scenes / "voc12/train_aug_id.txt")
    image_labels = load_image_labels(scenes / "voc12/cls_labels.npy", ids, 10)
    replaced = 0
    for name, row in zip(ids, image_labels):
        before, after = load_label(runs / f"cam/{name}.png"), load_label(runs / f"sos/{name}.png")
        mask = load_grey(runs / f"perfect/{name}.png") > 127
        if row.sum() == 1 and (mask & (before > 0)).any():
            assert np.array_equal(after, np.where(mask, row.argmax() + 1, 0))
            replaced += 1
        else:
            assert np.array_equal(after, before)
    assert replaced > 0


def test_a_second_run_makes_only_what_is_missing(scenes, runs, capsys):
    files = sorted((runs / "cam").glob("*.png"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    files[0].unlink()
    (runs / "cams" / f"{files[0].stem}.npz").unlink()
    make(scenes, runs, f"--cam_dir {runs}/cams --label_name {runs}/cam")
    assert "1 labels made, 13 were there" in capsys.readouterr().out
    for path, (content, time) in before.items():
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == time) == (path != files[0])


def test_other_options_are_refused_in_the_same_folder(scenes, runs, tmp_path):
    with pytest.raises(InputError, match=r"made with bg_threshold = 0\.2, not 0\.3"):
        make(scenes, runs, f"--cam_dir {runs}/cams --label_name {runs}/cam --bg_threshold 0.3")
    with pytest.raises(InputError, match="made with scales"):
        make(scenes, runs, f"--cam_dir {runs}/cams --label_name {tmp_path}/new --scales 1")


def test_refusals_of_make_pseudo_labels(scenes, runs, tmp_path):
    with pytest.raises(InputError, match="needs --saliency_dir"):
        make(scenes, runs, f"--label_name {tmp_path}/a --selector sos")
    with pytest.raises(MissingInputError, match="14 of 14 files are missing"):
        make(scenes, runs, f"--label_name {tmp_path}/a --selector sos --saliency_dir {tmp_path}")
    with pytest.raises(InputError, match="unicorn unknown; the classes are ball"):
        make(scenes, runs, f"--label_name {tmp_path}/a --non_salient_classes unicorn")
    with pytest.raises(InputError, match="saliency checkpoint, not one of"):
        make(scenes, runs, f"--label_name {tmp_path}/a --cam_dir {tmp_path}/c --load_path {runs}/saliency/last.pth")
    with pytest.raises(InputError, match="--load_path must name"):
        voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12"
        run_main("make_pseudo_labels", f"{voc} --label_name {tmp_path}/a --cam_dir {tmp_path}/c")
    assert not (tmp_path / "a").exists()


def test_maps_of_other_classes_are_refused(scenes, runs, tmp_path):
    shutil.copytree(runs / "cams", tmp_path / "cams")
    path = sorted((tmp_path / "cams").glob("*.npz"))[0]
    cams, _ = load_cams(path)
    save_cams(path, cams[:1], np.array([200]))
    with pytest.raises(InputError, match=r"holds maps of the labels \[200\], but the image has"):
        make(scenes, runs, f"--cam_dir {tmp_path}/cams --label_name {tmp_path}/a")


def test_named_non_salient_classes(scenes, runs, tmp_path, capsys):
    options = f"--cam_dir {runs}/cams --selector sos --saliency_dir {runs}/perfect --t0 0 --t1 1"
    names = "ball boat train kite fish mushroom lamp star cactus butterfly"
    make(scenes, runs, f"{options} --label_name {tmp_path}/none --non_salient_classes none")
    make(scenes, runs, f"{options} --label_name {tmp_path}/all --non_salient_classes {names}")
    replaced = [int(count) for count in re.findall(r"selector: (\d+) of", capsys.readouterr().out)]
    assert replaced[0] > 0
    assert replaced[1] == 0


def test_predictions(scenes, runs, tmp_path, capsys):
    images = scenes / "data/VOCdevkit/VOC2012/JPEGImages"
    first = sorted(images.iterdir())[0]
    for run in ("saliency", "classifier", "seg"):
        run_main(
            "predict",
            f"--load_path {runs}/{run}/last.pth --input {first} --output {tmp_path}/{run} --scales 1 1.5 --flip",
        )
    assert load_grey(tmp_path / f"saliency/{first.stem}.png").shape == (64, 80)
    assert load_label(tmp_path / f"seg/{first.stem}.png").max() <= 10
    assert load_image(tmp_path / f"classifier/{first.stem}.png").shape == (64, 80, 3)
    run_main(
        "predict", f"--load_path {runs}/seg/last.pth --input {first} --output {tmp_path}/seg --scales 1 1.5 --flip"
    )
    assert "0 files made, 1 were there" in capsys.readouterr().out
    with pytest.raises(InputError, match="made with scales"):
        run_main("predict", f"--load_path {runs}/seg/last.pth --input {first} --output {tmp_path}/seg")


def test_batches_of_mixed_sizes_change_nothing(scenes, runs, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate([(40, 60), (1, 50), (90, 30), (64, 64)]):
        save_grey(images / f"{index}.png", rng.integers(0, 256, (height, width)).astype(np.uint8))
    for batch in (1, 3):
        run_main(
            "predict",
            f"--load_path {runs}/saliency/last.pth --input {images} --output {tmp_path}/b{batch} --batch {batch}",
        )
    for index in range(4):
        one, other = (load_grey(tmp_path / f"b{batch}/{index}.png") for batch in (1, 3))
        assert one.shape == load_grey(images / f"{index}.png").shape
        assert np.abs(one.astype(int) - other).max() <= 1


def test_broken_images_do_not_stop_a_prediction(scenes, runs, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    shutil.copy(next((scenes / "dataset/DRAWN-TR/Images").iterdir()), tmp_path / "in/good.jpg")
    (tmp_path / "in/broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    run_main("predict", f"--load_path {runs}/saliency/last.pth --input {tmp_path}/in --output {tmp_path}/out")
    output = capsys.readouterr()
    assert "1 files made" in output.out
    assert "broken.jpg is not an image" in output.err
    assert (tmp_path / "out/good.png").is_file()


def test_overlays(scenes, runs, tmp_path, capsys):
    image = next((scenes / "dataset/DRAWN-TR/Images").iterdir())
    for run in ("saliency", "seg"):
        command = f"--load_path {runs}/{run}/last.pth --input {image} --output {tmp_path}/{run}"
        run_main("predict", command)
        run_main("predict", f"{command} --overlay")  # the result is there, its overlay is not
        assert "1 files made" in capsys.readouterr().out
        assert load_image(tmp_path / f"{run}/overlays/{image.stem}.jpg").shape == (64, 80, 3)
        run_main("predict", f"{command} --overlay")
        assert "0 files made, 1 were there" in capsys.readouterr().out


def test_highlight():
    image, saliency = np.full((1, 2, 3), 100, np.uint8), np.array([[0, 255]], np.uint8)
    assert highlight(image, saliency)[0, :, 0].tolist() == [20, 100]


def test_recipe_over_the_benchmarks(scenes, runs, tmp_path):
    recipe = [PROJECT / "recipes/saliency_benchmarks.sh", runs / "saliency/last.pth", "tiny"]
    command = [str(part) for part in [*recipe, scenes / "dataset/benchmark", "--flip"]]
    environment = os.environ | {"PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "| experiments/saliency/tiny | DRAWN-TE | 5 |" in re.sub(" +", " ", done.stdout)
    assert len(list((tmp_path / "experiments/saliency/tiny/DRAWN-TE").glob("*.png"))) == 5
    command[3] = str(tmp_path)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "holds no data set" in done.stderr


def test_refusals_of_predict(runs, tmp_path):
    load = f"--load_path {runs}/saliency/last.pth --output {tmp_path}/out"
    with pytest.raises(MissingInputError, match="nowhere does not exist"):
        run_main("predict", f"{load} --input {tmp_path}/nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no image"):
        run_main("predict", f"{load} --input {tmp_path}/empty")
    save_grey(tmp_path / "a.png", np.zeros((4, 4), np.uint8))
    (tmp_path / "ids.txt").write_text("b\n")
    with pytest.raises(MissingInputError, match=r"lacks 1 of 1 ids of --list \(b\)"):
        run_main("predict", f"{load} --input {tmp_path}/a.png --list {tmp_path}/ids.txt")
    torch.save({"epoch": 1}, tmp_path / "other.pth")
    for path, words in (("other.pth", "is no checkpoint"), ("a.png", "cannot be read"), ("none.pth", "does not exist")):
        with pytest.raises(InputError, match=words):
            run_main("predict", f"--load_path {tmp_path}/{path} --input {tmp_path}/a.png --output {tmp_path}/out")


def test_saliency_table(scenes, tmp_path, capsys):
    truth = scenes / "dataset/benchmark/DRAWN-TE/Masks"
    shutil.copytree(truth, tmp_path / "perfect/DRAWN-TE")
    for path in truth.iterdir():
        save_grey(tmp_path / f"small/DRAWN-TE/{path.name}", load_grey(path)[::2, ::2].copy())
    command = f"saliency --pred {tmp_path}/perfect {tmp_path}/small --gt_root {scenes}/dataset/benchmark"
    run_main("evaluate", f"{command} --json {tmp_path}/scores.json")
    output = capsys.readouterr().out
    assert "5 of 5 maps resized" in output
    scores = json.loads((tmp_path / "scores.json").read_text())
    perfect, small = scores[f"{tmp_path}/perfect"]["DRAWN-TE"], scores[f"{tmp_path}/small"]["DRAWN-TE"]
    assert perfect["MAE"] == 0
    assert perfect["maxF"] == pytest.approx(1)
    assert perfect["S"] == pytest.approx(1, abs=1e-9)
    assert 0 < small["MAE"] < 0.1
    next((tmp_path / "small/DRAWN-TE").iterdir()).unlink()
    with pytest.raises(MissingInputError, match="lacks 1 of 5 maps"):
        run_main("evaluate", command)
    with pytest.raises(MissingInputError, match="no data set of"):
        run_main("evaluate", f"saliency --pred {tmp_path} --gt_root {scenes}/dataset/benchmark")


@pytest.mark.parametrize("kind", ["labels", "segmentation"])
def test_label_tables(kind, scenes, runs, tmp_path, capsys):
    truth = scenes / "data/VOCdevkit/VOC2012/SegmentationClassAug"
    command = f"{kind} --pred {runs}/cam {truth} --data_dir {scenes}/data --list {scenes}/voc12/train_aug_id.txt"
    run_main("evaluate", f"{command} --json {tmp_path}/scores.json")
    output = capsys.readouterr().out
    assert "14 images" in output
    assert "| background |" in output.replace("  ", "")
    scores = json.loads((tmp_path / "scores.json").read_text())
    matrix = ConfusionMatrix(11)
    for name in load_ids(scenes / "voc12/train_aug_id.txt"):
        matrix.add(load_label(runs / f"cam/{name}.png"), load_label(truth / f"{name}.png"))
    assert scores[f"{runs}/cam"]["mIoU"] == pytest.approx(matrix.scores()["mIoU"])
    assert scores[str(truth)]["mIoU"] == 1
    run_main("evaluate", f"{command} --single_class {scenes}/voc12/cls_labels.npy")
    assert "with exactly one class" in capsys.readouterr().out


def test_refusals_of_evaluate(scenes, tmp_path):
    command = f"labels --data_dir {scenes}/data --list {scenes}/voc12/val_id.txt"
    with pytest.raises(MissingInputError, match="6 of 6 files are missing"):
        run_main("evaluate", f"{command} --pred {tmp_path}")
    for name in load_ids(scenes / "voc12/val_id.txt"):
        save_label(tmp_path / f"{name}.png", np.zeros((5, 5), np.uint8))
    with pytest.raises(InputError, match=r"prediction is \[5, 5\], truth \[64, 80\]"):
        run_main("evaluate", f"{command} --pred {tmp_path}")
    with pytest.raises(MissingInputError):
        run_main("evaluate", f"labels --data_dir {scenes}/data --list {tmp_path}/none.txt --pred {tmp_path}")
