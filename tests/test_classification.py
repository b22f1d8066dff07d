"""Classifier: losses by hand, scores against scikit-learn, training with every kind of supervision."""

import json

import numpy as np
import pytest
import torch
from conftest import TINY_RESNEST, run_main
from sklearn.metrics import average_precision_score, f1_score

import train_classification
from formats.errors import InputError, MissingInputError
from formats.image_labels import load_image_labels
from formats.images import load_grey, save_grey
from formats.labels import load_label
from formats.voc_layout import load_ids
from metrics.classification import mean_average_precision, mean_f1
from models.cam_classifier import CamClassifier
from models.cam_losses import eps_loss, merge_tiles, puzzle_loss, puzzle_weight, split_tiles
from utils.checkpoint import load_checkpoint


def test_merging_undoes_tiling():
    images = torch.rand(3, 2, 8, 12)
    assert split_tiles(images).shape == (12, 2, 4, 6)
    assert torch.equal(merge_tiles(split_tiles(images)), images)
    assert split_tiles(torch.rand(1, 1, 5, 7)).shape == (4, 1, 2, 3)


def test_puzzle_loss_by_hand():
    full = torch.tensor([[[[1.0, 2.0]], [[5.0, 5.0]]]])  # [1, 2 classes, 1, 2]
    merged = torch.tensor([[[[0.0, 4.0]], [[0.0, 0.0]]]])
    labels = torch.tensor([[1.0, 0.0]])
    assert puzzle_loss(full, merged, labels) == pytest.approx((1 + 2) / 4)  # the mean includes absent classes
    assert puzzle_loss(full, merged[..., :1], labels) == pytest.approx((1 + 2) / 4)  # merged maps are resized


def test_puzzle_weight_rises_over_the_first_half():
    assert [puzzle_weight(step, 100) for step in (0, 25, 50, 99)] == [0, 2, 4, 4]


def test_eps_loss_by_hand():
    """Two pixels, two classes: class 0 covers the first pixel, class 1 the second; only the first is salient."""
    sure = 30.0
    maps = torch.tensor([[[[sure, 0.0]], [[0.0, sure]], [[0.0, 0.0]]]])  # [1, 2 + 1, 1, 2]
    saliency = torch.tensor([[[[1.0, 0.0]]]])
    both = torch.tensor([[1.0, 1.0]])
    # class 1 is not salient and counts as background: M_fg = (1, 0), M_bg = (0, 1)
    assert eps_loss(maps, both, saliency) == pytest.approx(0, abs=1e-6)
    # both pixels are salient: M_fg = (1, 1), M_bg = 0
    assert eps_loss(maps, both, torch.ones(1, 1, 1, 2)) == pytest.approx(0, abs=1e-6)
    # class 1 is absent: its pixel has M_fg = M_bg = 0, the estimate ½ · 0 + ½ · (1 − 0), and saliency 0
    assert eps_loss(maps, torch.tensor([[1.0, 0.0]]), saliency) == pytest.approx((0 + 0.25) / 2, abs=1e-6)


def test_eps_loss_teaches_the_maps():
    maps = torch.zeros(1, 3, 4, 4)
    maps[0, 0, 1:3, 0] = 1.5  # as learned from image labels
    maps.requires_grad_()
    saliency = torch.zeros(1, 1, 16, 16)
    saliency[..., :8] = 1
    optimizer = torch.optim.Adam([maps], lr=0.2)
    for _ in range(60):
        loss = eps_loss(maps, torch.tensor([[1.0, 0.0]]), saliency)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    probs = maps.softmax(dim=1)[0]
    assert loss < 0.02
    assert probs[2, :, 2:].min() > 0.8  # the background map covers the rest


def test_scores_agree_with_scikit_learn():
    rng = np.random.default_rng(0)
    truth, scores = rng.random((50, 6)) < 0.3, rng.standard_normal((50, 6))
    truth[:, 5] = False  # classes that do not occur are not averaged
    expected = np.mean([average_precision_score(truth[:, c], scores[:, c]) for c in range(5)])
    assert mean_average_precision(scores, truth) == pytest.approx(expected)
    expected = f1_score(truth[:, :5], scores[:, :5] > 0, average="macro")
    assert mean_f1(scores > 0, truth) == pytest.approx(expected)


def test_the_background_map_is_not_a_class():
    class Two(torch.nn.Module):
        channels = (4,)

        def forward(self, images):
            return [images]

    network, features = CamClassifier(Two(), 3, background_map=True), torch.rand(2, 4, 5, 5)
    output = network(features)
    assert output["logits"].shape == (2, 3)
    assert output["maps"].shape == (2, 4, 5, 5)
    assert torch.equal(output["maps"][:, :3], output["class_maps"])


@pytest.fixture(scope="module")
def perfect_maps(scenes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("maps")
    for path in (scenes / "data/VOCdevkit/VOC2012/SegmentationClassAug").iterdir():
        save_grey(folder / path.name, np.where(np.isin(load_label(path), (0, 255)), 0, 255).astype(np.uint8))
    return folder


def command(scenes, log, extra: str) -> str:
    return (
        f"{TINY_RESNEST} --data_dir {scenes}/data --list_dir {scenes}/voc12 --log_path {log} --pretrained none"
        f" --crop_size 64 --long_side 64 80 --train_batch 4 {extra}"
    )


def log_of(path) -> list[dict]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def test_puzzle_and_eps_losses_fall(scenes, perfect_maps, tmp_path):
    flags = f"--puzzle --saliency_dir {perfect_maps} --power 0 --optimizer adamw --lr 2e-3 --val_list none"
    run_main("train_classification", command(scenes, tmp_path, f"--tag whole --max_epoch 8 {flags}"))
    rows = log_of(tmp_path / "whole")
    assert {"loss", "classification", "tiles", "puzzle", "saliency"} <= rows[0].keys()
    assert rows[-1]["saliency"] < 0.9 * rows[0]["saliency"]
    assert rows[-1]["classification"] < rows[0]["classification"]


def test_puzzle_and_eps_resume_exactly_from_within_an_epoch(scenes, perfect_maps, tmp_path, monkeypatch):
    flags = f"--puzzle --saliency_dir {perfect_maps} --val_list none --max_epoch 3 --save_every 1"
    run_main("train_classification", command(scenes, tmp_path, f"--tag whole {flags}"))

    def stop(model, state, *rest):
        if state.total_steps == 4:
            raise KeyboardInterrupt
        return train_step(model, state, *rest)

    train_step = train_classification.train_step
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train_classification, "train_step", stop)
        run_main("train_classification", command(scenes, tmp_path, f"--tag parts {flags}"))
    run_main("train_classification", command(scenes, tmp_path, f"--tag parts --resume {flags}"))
    one, other = (load_checkpoint(tmp_path / name / "last.pth")["network"] for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_image_labels_from_a_table_give_the_same_network(scenes, tmp_path):
    ids = load_ids(scenes / "voc12/train_aug_id.txt")
    names = (scenes / "data/VOCdevkit/VOC2012/classes.txt").read_text().split()
    rows = load_image_labels(scenes / "voc12/cls_labels.npy", ids, tuple(names))
    lines = [f"{name},{' '.join(names[c] for c in np.flatnonzero(row))}" for name, row in zip(ids, rows)]
    (tmp_path / "labels.csv").write_text("\n".join(["id,classes", *lines]))
    for tag, source in (("npy", "cls_labels.npy"), ("csv", f"{tmp_path}/labels.csv")):
        flags = f"--tag {tag} --max_epoch 1 --val_list none --image_labels {source}"
        run_main("train_classification", command(scenes, tmp_path, flags))
    one, other = (load_checkpoint(tmp_path / tag / "last.pth")["network"] for tag in ("npy", "csv"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_background_thresholds_are_compared_where_masks_are(scenes, tmp_path, capsys):
    run_main("train_classification", command(scenes, tmp_path, "--tag run --max_epoch 1"))
    output = capsys.readouterr().out
    assert "mIoU of CAM labels by background threshold" in output
    assert "  0.05: " in output
    assert "F1 0." in output


def test_resumed_runs_repeat_the_comparison_of_thresholds(scenes, tmp_path, capsys):
    """A run killed between its last checkpoint and the comparison is resumed."""
    for flags in ("", "--resume"):
        run_main("train_classification", command(scenes, tmp_path, f"--tag run --max_epoch 2 --lr 1e-2 {flags}"))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  0.05: ")]
    assert len(lines) == 2
    assert lines[0] == lines[1]


def test_maps_that_do_not_fit_are_refused(scenes, perfect_maps, tmp_path):
    with pytest.raises(MissingInputError, match="14 of 14 files are missing"):
        run_main("train_classification", command(scenes, tmp_path, f"--tag a --saliency_dir {tmp_path}"))
    for path in perfect_maps.iterdir():
        save_grey(tmp_path / "small" / path.name, load_grey(path)[::2].copy())
    with pytest.raises(InputError, match=r"is 80×32 px, but .* is 80×64 px"):
        run_main("train_classification", command(scenes, tmp_path, f"--tag b --saliency_dir {tmp_path}/small"))
