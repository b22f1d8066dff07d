"""Trainings learn, resume exactly, and refuse mistakes of the user before they start."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT, TINY_SWIN, run_main
from training_commands import COMMANDS, log_of, losses_of, saliency_command, voc_command, weights

from datasets.distributed_batch_sampler import DistributedBatchSampler
from formats.errors import InputError, MissingInputError
from formats.images import save_grey
from formats.labels import load_label, save_label
from utils.checkpoint import load_checkpoint
from utils.precision import half_type


@pytest.mark.parametrize("script", COMMANDS)
def test_run_folder(script, scenes, tmp_path):
    run_main(script, COMMANDS[script](scenes, tmp_path, "--tag run --max_epoch 1"))
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"options.json", "log.txt", "log.jsonl", "last.pth"} <= names
    validates, log = script != "SOD_train", (tmp_path / "run/log.txt").read_text()  # that one where it has --val_root
    assert ("best.pth" in names) is ("was chosen on the validation images" in log) is validates
    assert any(name.startswith("events.out.tfevents") for name in names)
    recorded = json.loads((tmp_path / "run/options.json").read_text())
    assert recorded["options"]["max_epoch"] == 1
    assert recorded["versions"]["torch"]
    with pytest.raises(InputError, match="--resume"):
        run_main(script, COMMANDS[script](scenes, tmp_path, "--tag run --max_epoch 1"))
    with pytest.raises(InputError, match="no run folder"):
        run_main(script, COMMANDS[script](scenes, tmp_path, "--tag other --max_epoch 1 --resume"))


@pytest.mark.parametrize("script", COMMANDS)
def test_loss_falls(script, scenes, tmp_path):
    faster = " --lr 1e-2 --dropout 0 --edge_drop_path 0 --colour_jitter 0" if script == "SOD_train" else ""
    run_main(script, COMMANDS[script](scenes, tmp_path, "--tag run --max_epoch 16") + faster)
    losses = losses_of(tmp_path / "run")
    assert len(losses) == 16
    assert np.mean(losses[-2:]) < 0.93 * losses[0]


@pytest.mark.skipif(not half_type(torch.device("cpu"), "cpu"), reason="this CPU does not multiply in bfloat16")
@pytest.mark.parametrize("script", COMMANDS)
def test_mixed_precision_on_the_cpu_learns_like_full_precision(script, scenes, tmp_path):
    for amp in ("cpu", "False"):
        command = COMMANDS[script](scenes, tmp_path, f"--tag {amp} --max_epoch 4 --amp {amp}")
        run_main(script, command + (" --dropout 0 --edge_drop_path 0" if script == "SOD_train" else ""))
    mixed, full = (losses_of(tmp_path / amp)[-1] for amp in ("cpu", "False"))
    assert mixed != full
    assert mixed == pytest.approx(full, rel=0.05)


@pytest.mark.slow
def test_saliency_overfits_four_images(scenes, tmp_path):
    for folder in ("Images", "Masks"):
        (tmp_path / "four" / folder).mkdir(parents=True)
        for path in sorted((scenes / "dataset/DRAWN-TR" / folder).iterdir())[:4]:
            shutil.copy(path, tmp_path / "four" / folder)
    network = TINY_SWIN.replace("embed_dim=16", "embed_dim=32").replace("--decoder_width 8", "--decoder_width 192")
    run_main(
        "SOD_train",
        f"{network} --train_root {tmp_path}/four --val_root {tmp_path}/four --log_path {tmp_path} --tag run"
        " --train_batch 4 --max_epoch 240 --val_every 240 --lr 3e-3 --decay_epoch 80 --dropout 0"
        " --edge_drop_path 0 --colour_jitter 0",
    )
    scores = log_of(tmp_path / "run")[-1]
    assert scores["val/maxF"] > 0.95
    assert scores["val/MAE"] < 0.03


def test_ways_of_reading_give_the_same_weights(scenes, tmp_path):
    ways = ("--cache-mode no", "--cache-mode part", "--cache-mode full", "--workers 2")
    found = []
    for number, flags in enumerate(ways):
        run_main("SOD_train", saliency_command(scenes, tmp_path, f"--tag {number} --max_epoch 1 {flags}"))
        found.append(weights(tmp_path / f"{number}/last.pth"))
    assert all(torch.equal(other[name], value) for name, value in found[0].items() for other in found)


def test_validation_keeps_the_best(scenes, tmp_path):
    extra = f"--tag run --max_epoch 2 --val_every 1 --val_root {scenes}/dataset/benchmark/DRAWN-TE"
    run_main("SOD_train", saliency_command(scenes, tmp_path, extra))
    scores = [row["val/maxF"] for row in log_of(tmp_path / "run") if "val/maxF" in row]
    assert len(scores) == 2
    assert load_checkpoint(tmp_path / "run/best.pth")["training"]["best_score"] == max(scores)
    assert f"best.pth, maxF {max(scores):.4f}, was chosen" in (tmp_path / "run/log.txt").read_text()


# what must be refused before any training starts, with the words that name it


def test_missing_mask(scenes, tmp_path):
    shutil.copytree(scenes / "dataset/DRAWN-TR", tmp_path / "set")
    next((tmp_path / "set/Masks").iterdir()).unlink()
    with pytest.raises(MissingInputError, match="no mask for 1 of 12"):
        run_main("SOD_train", f"{TINY_SWIN} --train_root {tmp_path}/set --log_path {tmp_path}")


def test_masks_of_another_size(scenes, tmp_path):
    shutil.copytree(scenes / "dataset/DRAWN-TR", tmp_path / "set")
    save_grey(next((tmp_path / "set/Masks").iterdir()), np.zeros((9, 9), np.uint8))
    for flags in (f"--tag a --train_root {tmp_path}/set", f"--tag b --val_root {tmp_path}/set"):
        with pytest.raises(InputError, match=r"is 9×9 px, but .* is 80×64 px"):
            run_main("SOD_train", saliency_command(scenes, tmp_path, f"--max_epoch 1 {flags}"))


def test_batch_that_processes_cannot_share():
    with pytest.raises(InputError, match=r"--train_batch 5 .* 2 processes"):
        DistributedBatchSampler(num_samples=20, batch_size=5, seed=0, rank=0, size=2)
    with pytest.raises(InputError, match=r"1 images .* 2 processes"):
        DistributedBatchSampler(num_samples=1, batch_size=4, seed=0, rank=0, size=2)


@pytest.mark.parametrize(
    ("script", "extra", "words"),
    [
        ("train_classification", "--long_side 80 48", "--long_side 80 48"),
        ("train_segmentation", "--head_width 30", "--head_width 30 must be a multiple of 4"),
        ("train_classification", "--train_batch 1", "at least two images"),
        ("SOD_train", "--backbone_args num_heads=1,1", "cannot be built"),
        (
            "SOD_train",
            "--backbone efficientformer_l1 --backbone_args drop_rate=0",
            r"train_scales: .* 64×64 px .*choose 224 px",
        ),
        ("SOD_train", "--accumulate 3", "--accumulate 3 must divide 4, the images"),
        ("SOD_train", "--accumulate 4 --train_scales 0.5 1", "at least two images per part"),
    ],
)
def test_flags_that_do_not_fit(script, extra, words, scenes, tmp_path):
    with pytest.raises(InputError, match=words):
        run_main(script, COMMANDS[script](scenes, tmp_path, "--tag run") + " " + extra)
    assert not (tmp_path / "run").exists()


def test_unknown_label(scenes, tmp_path):
    ids = (scenes / "voc12/train_aug_id.txt").read_text().split()
    for name in ids:
        label = load_label(scenes / f"data/VOCdevkit/VOC2012/SegmentationClassAug/{name}.png")
        save_label(tmp_path / f"labels/{name}.png", np.where(label == 0, 77, label).astype(np.uint8))
    command = voc_command(scenes, tmp_path, f"--head_width 16 --label_name {tmp_path}/labels --max_epoch 1")
    with pytest.raises(InputError, match=r"holds the labels \[77\]"):
        run_main("train_segmentation", command)


def test_mistakes_end_a_script_with_one_line_and_code_2(tmp_path):
    flags = ["--train_root", f"{tmp_path}/nowhere", "--log_path", str(tmp_path), "--tag", "run"]
    done = subprocess.run(
        [sys.executable, "SOD_train.py", *flags], cwd=PROJECT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [f"error: folder {tmp_path}/nowhere does not exist"]
    assert not (tmp_path / "run").exists()  # so that the corrected command can be run
    assert done.stdout.count("running on") == 1
