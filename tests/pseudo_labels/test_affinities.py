"""Affinities: paths and random walk against plain arithmetic, the loss by hand, the network and its training."""

import json
import math
import subprocess
import sys

import cv2
import numpy as np
import pytest
import torch
from conftest import PROJECT, TINY_RESNEST, run_main

from formats.errors import InputError, MissingInputError
from formats.labels import load_label, save_label
from models.affinity_net import build_affinity_net
from pseudo_labels.affinities import affinity_loss, pair_losses, path_offsets, path_pixels, view_path_pixel
from pseudo_labels.random_walk import apply_power, chebyshev_weights, random_walk, symmetric_links
from utils.checkpoint import load_checkpoint, load_weights
from utils.schedules import build_optimizer, parameter_groups


def plain_affinity(edge, p, q) -> float:
    """1 − the largest edge value closer than 1 px to the line through p and q, in their rectangle."""
    (y0, x0), (y1, x1) = p, q
    path = [
        edge[y][x]
        for y in range(min(y0, y1), max(y0, y1) + 1)
        for x in range(min(x0, x1), max(x0, x1) + 1)
        if abs((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / math.dist(p, q) < 1 - 1e-12
    ]
    return 1 - max(path)


def plain_transitions(edge, beta: float, radius: int) -> torch.Tensor:
    """The dense matrix T, float64 [N, N], computed pair by pair."""
    pixels = [(y, x) for y in range(len(edge)) for x in range(len(edge[0]))]
    matrix = torch.eye(len(pixels), dtype=torch.float64)
    for i, p in enumerate(pixels):
        for j, q in enumerate(pixels):
            if 0 < math.dist(p, q) < radius:
                matrix[i, j] = plain_affinity(edge, p, q) ** beta
    return matrix / matrix.sum(dim=0, keepdim=True)


# paths


def test_offsets_are_half_of_the_disc():
    assert len(path_offsets(5)) == 34
    assert len(path_offsets(10)) == 152
    assert path_offsets(2) == [(0, 1), (1, -1), (1, 0), (1, 1)]
    both = {*path_offsets(7), *((-dy, -dx) for dy, dx in path_offsets(7))}
    assert both == {(y, x) for y in range(-7, 8) for x in range(-7, 8) if 0 < math.hypot(y, x) < 7}


def test_paths_by_hand():
    assert path_pixels(0, 3) == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert path_pixels(1, 1) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert path_pixels(2, -1) == [(0, -1), (0, 0), (1, -1), (1, 0), (2, -1), (2, 0)]
    assert path_pixels(3, 3) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 2), (3, 3)]


def test_views_of_pairs():
    image = torch.arange(12).view(3, 4)
    assert view_path_pixel(image, (1, -2), (0, 0)).tolist() == [[2, 3], [6, 7]]
    assert view_path_pixel(image, (1, -2), (1, -2)).tolist() == [[4, 5], [8, 9]]
    assert view_path_pixel(image, (3, 0), (0, 0)).numel() == view_path_pixel(image, (1, 4), (1, 4)).numel() == 0


# the walk


@pytest.mark.parametrize("size", [(7, 9), (9, 7), (1, 12), (12, 1), (2, 3), (1, 1)])
@pytest.mark.parametrize(("beta", "steps"), [(10, 256), (3, 5), (1, 1)])
def test_walk_equals_the_dense_matrix_power(size, beta, steps):
    generator = torch.Generator().manual_seed(size[0])
    edge = torch.rand(size, generator=generator) ** 3
    cams = torch.rand((2, *size), generator=generator)
    power = torch.matrix_power(plain_transitions(edge.tolist(), beta, radius=5), steps)
    maps = ((cams * (1 - edge)).flatten(1).double() @ power).view(cams.shape)
    expected = maps / (maps.amax(dim=(1, 2), keepdim=True) + 1e-5)
    result = random_walk(cams, edge, beta, steps, radius=5)
    assert result.dtype == torch.float32
    assert (result - expected).abs().max() < 1e-6


def test_columns_of_a_step_sum_to_one():
    degrees, links = symmetric_links(torch.rand(6, 5).double() ** 2, beta=10, radius=4)
    symmetric = apply_power(torch.eye(30, dtype=torch.float64), degrees, links, steps=1)
    assert torch.equal(symmetric, symmetric.T)
    columns = symmetric * degrees.sqrt()[:, None] / degrees.sqrt()  # of W D^-1
    assert torch.allclose(columns.sum(dim=0), torch.ones(30, dtype=torch.float64), atol=1e-12)
    mean = torch.full((1, 30), 0.3) * degrees.sqrt()
    assert torch.allclose(apply_power(mean, degrees, links, steps=256), mean, atol=1e-7)  # constant maps do not change


def test_chebyshev_weights():
    x = np.linspace(-1, 1, 1001)
    for power in (1, 2, 7, 256):
        weights = chebyshev_weights(power)
        assert np.abs(np.polynomial.chebyshev.chebval(x, weights) - x**power).max() < 1.1e-8
    assert len(weights) == 91


def test_walk_fills_an_object_and_stops_at_its_edge():
    disc, wall, seed = (np.zeros((40, 50), np.uint8) for _ in range(3))
    cv2.circle(disc, (25, 20), 12, 1, -1)
    cv2.circle(wall, (25, 20), 12, 1, 1)  # one pixel wide, partly 8-connected
    cv2.circle(seed, (19, 17), 3, 1, -1)
    inside = torch.from_numpy((disc > 0) & (wall == 0))
    walked = random_walk(torch.from_numpy(seed)[None].float(), torch.from_numpy(wall).float())[0]
    assert walked[inside].min() > 0.35  # IRN's background score
    assert walked[~inside].max() == 0


def test_walk_is_repeatable_and_does_not_change_its_input():
    cams, edge = torch.rand(3, 20, 30), torch.rand(20, 30)
    before = cams.clone(), edge.clone()
    assert torch.equal(random_walk(cams, edge), random_walk(cams, edge))
    assert torch.equal(cams, before[0])
    assert torch.equal(edge, before[1])
    assert random_walk(cams[:0], edge).shape == (0, 20, 30)


# the loss


def test_loss_by_hand():
    """Six pixels in a row, labels 0 0 1 1 255 2: with radius 2 one pair of each kind."""
    edge = torch.tensor([0.1, 0.2, 0.6, 0.3, 0.9, 0.9])
    labels = torch.tensor([0, 0, 1, 1, 255, 2]).repeat_interleave(4).expand(1, 4, 24)
    sums, counts = pair_losses(torch.logit(edge).view(1, 1, 1, 6), labels, radius=2)
    assert counts.tolist() == [1, 1, 1]
    assert sums.tolist() == pytest.approx([-math.log(0.8), -math.log(0.4), -math.log(0.6)], abs=1e-4)
    expected = (-math.log(0.8) / 2 - math.log(0.4) / 2 - math.log(0.6)) / 2
    assert affinity_loss(sums, counts).item() == pytest.approx(expected, abs=1e-4)


def test_loss_equals_plain_sums():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 1, 6, 7, generator=generator)
    labels = torch.tensor([0, 0, 1, 2, 255])[torch.randint(5, (2, 6, 7), generator=generator)]
    sums, counts = pair_losses(logits, labels, radius=4)
    expected, number = [0.0, 0.0, 0.0], [0, 0, 0]
    pixels = [(y, x) for y in range(6) for x in range(7)]
    for label, edge in zip(labels.tolist(), logits[:, 0].sigmoid().tolist()):
        for p, q in [(p, q) for p in pixels for q in pixels if p < q and math.dist(p, q) < 4]:
            one, other = label[p[0]][p[1]], label[q[0]][q[1]]
            if 255 not in (one, other):
                kind = 2 if one != other else int(one > 0)
                affinity = plain_affinity(edge, p, q)
                expected[kind] -= math.log((affinity if one == other else 1 - affinity) + 1e-5)
                number[kind] += 1
    assert counts.tolist() == number
    assert sums.tolist() == pytest.approx(expected, rel=1e-4)


def test_loss_without_labels_has_no_gradient():
    logits = torch.randn(1, 1, 4, 4, requires_grad=True)
    loss = affinity_loss(*pair_losses(logits, torch.full((1, 16, 16), 255), radius=10))
    loss.backward()
    assert loss == 0
    assert not logits.grad.any()


def test_gradients_find_the_boundary():
    """Edges optimised for the loss alone rise only where the label changes."""
    labels = torch.zeros(1, 48, 48, dtype=torch.int64)
    labels[:, :, 24:] = 3
    logits = torch.zeros(1, 1, 12, 12, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        losses.append(affinity_loss(*pair_losses(logits, labels, radius=5)))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.3 * losses[0]
    edge = logits.detach().sigmoid()[0, 0]
    assert edge[:, 5:7].amax(dim=1).min() > 0.8
    assert edge[:, :4].max() < 0.1
    assert edge[:, 8:].max() < 0.1


# the network


def settings_of(name: str, **backbone_args) -> dict:
    return {"backbone": name, "backbone_args": backbone_args, "pixel_mean": None, "pixel_std": None}


TINY = settings_of("resnest14", channels=(8, 8, 16, 32), stem_width=8)


@pytest.mark.parametrize(
    ("settings", "strides"),
    [
        (TINY, [2, 4, 8, 16, 16]),
        (settings_of("resnet-50"), [2, 4, 8, 16, 16]),
        (settings_of("mobilenetv2_035"), [2, 4, 8, 16, 16]),
        (settings_of("convnext_tiny", depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)), [4, 8, 16, 16]),
    ],
    ids=lambda value: value["backbone"] if isinstance(value, dict) else "",
)
def test_network_uses_all_stages(settings, strides):
    network = build_affinity_net(settings)
    assert network.backbone.strides == strides
    assert network.classify.in_channels == 32 * len(strides)
    assert network(torch.randn(2, 3, 70, 53)).shape == (2, 1, 18, 14)


def test_backbone_does_not_change():
    network = build_affinity_net(TINY).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    groups = parameter_groups(network, head_factor=1.0, bias_factor=1.0)
    for name in ("sgd", "adamw"):
        optimizer = build_optimizer(groups, name, lr=0.1, momentum=0.9, weight_decay=0.1)
        labels = torch.randint(0, 3, (2, 8, 8)).repeat_interleave(8, 1).repeat_interleave(8, 2)
        affinity_loss(*pair_losses(network(torch.randn(2, 3, 64, 64)), labels, radius=5)).backward()
        optimizer.step()
    assert not any(module.training for module in network.backbone.modules())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("backbone."), name


# the script


def command(scenes, log, extra: str) -> str:
    return (
        f"{TINY_RESNEST} --pretrained none --data_dir {scenes}/data --list_dir {scenes}/voc12 --log_path {log}"
        f" --label_name SegmentationClassAug --crop_size 48 --long_side 48 80 --train_batch 4 {extra}"
    )


def log_of(path) -> list[dict]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def test_resumed_equals_uninterrupted(scenes, tmp_path):
    run_main("train_affinity", command(scenes, tmp_path, "--tag whole --max_epoch 3 --power 0"))
    run_main("train_affinity", command(scenes, tmp_path, "--tag parts --max_epoch 1 --power 0"))
    one_epoch = load_checkpoint(tmp_path / "parts/last.pth")["network"]
    torch.manual_seed(99)  # what a new process would find
    run_main("train_affinity", command(scenes, tmp_path, "--tag parts --max_epoch 3 --power 0 --resume"))
    whole, parts = (load_checkpoint(tmp_path / name / "last.pth") for name in ("whole", "parts"))
    assert [name for name, value in whole["network"].items() if not torch.equal(value, parts["network"][name])] == []
    assert log_of(tmp_path / "whole")[-1] == log_of(tmp_path / "parts")[-1]
    changed = {name for name, value in whole["network"].items() if not torch.equal(value, one_epoch[name])}
    assert changed == {name for name in one_epoch if not name.startswith("backbone.")}
    assert whole["stage"] == "affinity"
    load_weights(build_affinity_net(whole["settings"]), whole["network"], "last.pth")


def test_loss_falls(scenes, tmp_path):
    run_main(
        "train_affinity",
        command(
            scenes, tmp_path, "--tag run --max_epoch 12 --radius 3 --momentum 0.9 --crop_size 80 --long_side 80 80"
        ),
    )
    losses = [row["loss"] for row in log_of(tmp_path / "run") if "loss" in row]
    assert len(losses) == 12
    assert np.mean(losses[-2:]) < min(0.93 * losses[0], 0.65)  # one constant edge value gives log 2 = 0.69 at best


def test_mistakes_are_met_before_training(scenes, tmp_path):
    ids = (scenes / "voc12/train_aug_id.txt").read_text().split()
    for name in ids:
        label = load_label(scenes / f"data/VOCdevkit/VOC2012/SegmentationClassAug/{name}.png")
        save_label(tmp_path / f"labels/{name}.png", label[:-1])
    own_labels = command(scenes, tmp_path, f"--tag run --label_name {tmp_path}/labels")
    with pytest.raises(InputError, match=r"80×63 px, but .* is 80×64 px"):
        run_main("train_affinity", own_labels)
    (tmp_path / f"labels/{ids[0]}.png").unlink()
    with pytest.raises(MissingInputError, match="1 of 14 files are missing"):
        run_main("train_affinity", own_labels.replace("--tag run", "--tag other"))
    with pytest.raises(SystemExit):
        run_main("train_affinity", command(scenes, tmp_path, "--radius 1"))


@pytest.mark.slow
def test_two_processes_learn_as_one(scenes, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    line = [*launcher, "train_affinity.py", *command(scenes, tmp_path, "--tag two --max_epoch 2").split()]
    done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    run_main("train_affinity", command(scenes, tmp_path, "--tag one --max_epoch 2"))
    one, two = (load_checkpoint(tmp_path / name / "last.pth")["network"] for name in ("one", "two"))
    assert all(torch.allclose(value, two[name], atol=1e-4) for name, value in one.items())
    assert log_of(tmp_path / "one")[-1]["loss"] == pytest.approx(log_of(tmp_path / "two")[-1]["loss"], abs=1e-5)
