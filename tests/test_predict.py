"""predict.py by running it: files of every kind of network, repetition, broken images, refusals."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT, TINY_RESNEST, TINY_SWIN, run_main

from image_files import load_grey, load_image, save_grey
from input_errors import InputError, MissingInputError
from label_files import load_label
from predict import highlight
from utils.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def runs(scenes, label_parts, tmp_path_factory):
    """A checkpoint of each kind of network after one epoch."""
    root = tmp_path_factory.mktemp("runs")
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --label_name SegmentationClassAug --val_list none"
    short = f"--log_path {root} --max_epoch 1 --train_batch 4 --pretrained none"
    crops = "--crop_size 48 --long_side 48 80"
    run_main("SOD_train", f"{TINY_SWIN} --train_root {scenes}/dataset {short} --tag saliency")
    run_main("train_segmentation", f"{TINY_RESNEST} {voc} {short} {crops} --head_width 16 --tag seg")
    shutil.copytree(label_parts / "classifier", root / "classifier")
    return root


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
    affinity = load_checkpoint(f"{runs}/saliency/last.pth") | {"stage": "affinity"}
    torch.save(affinity, tmp_path / "affinity.pth")
    with pytest.raises(InputError, match="is of the stage affinity: predict"):
        run_main("predict", f"--load_path {tmp_path}/affinity.pth --input {tmp_path}/a.png --output {tmp_path}/out")
    torch.save({"epoch": 1}, tmp_path / "other.pth")
    for path, words in (("other.pth", "is no checkpoint"), ("a.png", "cannot be read"), ("none.pth", "does not exist")):
        with pytest.raises(InputError, match=words):
            run_main("predict", f"--load_path {tmp_path}/{path} --input {tmp_path}/a.png --output {tmp_path}/out")
