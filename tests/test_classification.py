"""Classifier: losses by hand, scores against scikit-learn, training with every kind of supervision."""

import numpy as np
import pytest
import torch
from conftest import run_main
from sklearn.metrics import average_precision_score, f1_score
from training_commands import log_of, voc_command, weights

import train_classification
from formats.errors import InputError, MissingInputError
from formats.images import load_grey, save_grey
from formats.labels import load_label
from metrics.classification import mean_average_precision, mean_f1
from models.cam_classifier import CamClassifier
from models.cam_losses import eps_loss, merge_tiles, puzzle_loss, puzzle_weight, split_tiles


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
        channels, strides = (4,), (16, 32)

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


def test_maps_of_0_and_1_train_as_those_of_0_and_255(scenes, perfect_maps, tmp_path):
    for path in perfect_maps.iterdir():
        save_grey(tmp_path / "maps" / path.name, load_grey(path) // 255)
    for name, folder in (("ones", tmp_path / "maps"), ("perfect", perfect_maps)):
        flags = f"--tag {name} --max_epoch 1 --val_list none --saliency_dir {folder}"
        run_main("train_classification", voc_command(scenes, tmp_path, flags))
    one, other = (weights(tmp_path / name / "last.pth") for name in ("ones", "perfect"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_puzzle_and_eps_losses_fall(scenes, perfect_maps, tmp_path):
    flags = f"--puzzle --saliency_dir {perfect_maps} --power 0 --optimizer adamw --lr 2e-3 --val_list none"
    run_main("train_classification", voc_command(scenes, tmp_path, f"--tag whole --max_epoch 8 {flags}"))
    rows = log_of(tmp_path / "whole")
    assert {"loss", "classification", "tiles", "puzzle", "saliency"} <= rows[0].keys()
    assert rows[-1]["saliency"] < 0.9 * rows[0]["saliency"]
    assert rows[-1]["classification"] < rows[0]["classification"]


def test_puzzle_and_eps_resume_exactly_from_within_an_epoch(scenes, perfect_maps, tmp_path, monkeypatch):
    flags = f"--puzzle --saliency_dir {perfect_maps} --val_list none --max_epoch 3 --save_every 1"
    run_main("train_classification", voc_command(scenes, tmp_path, f"--tag whole {flags}"))

    def stop(model, state, *rest):
        if state.total_steps == 4:
            raise KeyboardInterrupt
        return train_step(model, state, *rest)

    train_step = train_classification.train_step
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(train_classification, "train_step", stop)
        run_main("train_classification", voc_command(scenes, tmp_path, f"--tag parts {flags}"))
    run_main("train_classification", voc_command(scenes, tmp_path, f"--tag parts --resume {flags}"))
    one, other = (weights(tmp_path / name / "last.pth") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_background_thresholds_are_compared_also_by_resumed_runs(scenes, tmp_path, capsys):
    """A run killed between its last checkpoint and the comparison is resumed."""
    for flags in ("", "--resume"):
        run_main("train_classification", voc_command(scenes, tmp_path, f"--tag run --max_epoch 2 --lr 1e-2 {flags}"))
    output = capsys.readouterr().out
    assert "mIoU of CAM labels by background threshold" in output
    assert "F1 0." in output
    lines = [line for line in output.splitlines() if line.startswith("  0.05: ")]
    assert len(lines) == 2
    assert lines[0] == lines[1]


def test_maps_that_do_not_fit_are_refused(scenes, perfect_maps, tmp_path):
    with pytest.raises(MissingInputError, match="14 of 14 files are missing"):
        run_main("train_classification", voc_command(scenes, tmp_path, f"--tag a --saliency_dir {tmp_path}"))
    for path in perfect_maps.iterdir():
        save_grey(tmp_path / "small" / path.name, load_grey(path)[::2].copy())
    with pytest.raises(InputError, match=r"is 80×32 px, but .* is 80×64 px"):
        run_main("train_classification", voc_command(scenes, tmp_path, f"--tag b --saliency_dir {tmp_path}/small"))
