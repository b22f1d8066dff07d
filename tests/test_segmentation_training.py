"""Training of the segmentation network: losses, parts of batches, processes, resuming, losses that are not finite, and
full memory."""

import json
import math
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import PROJECT, balance_labels, labels_in, plain_network, run_main
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.layers import convert_sync_batchnorm
from training_commands import COMMANDS, TWO_PROCESSES, log_of, weights

import options
import train_segmentation
from datasets.distributed_batch_sampler import DistributedBatchSampler
from datasets.voc12 import count_labels
from formats.errors import InputError
from formats.labels import load_label, save_label
from metrics.segmentation import ConfusionMatrix
from models.deeplabv3plus import DeepLabV3Plus, build_deeplabv3plus
from models.segmentation_losses import class_balanced_weights, count_pixels, sum_cross_entropy
from utils.checkpoint import load_checkpoint
from utils.distributed import World
from utils.memory import advise_on_full_memory
from utils.run_folder import RunFolder
from utils.training_state import TrainingState

CPU = torch.device("cpu")
NARROW = {
    "backbone": "resnest14",
    "backbone_args": {"channels": (8, 8, 16, 32), "stem_width": 8},
    "pixel_mean": None,
    "pixel_std": None,
    "classes": ["one", "two"],
    "head_width": 16,
    "use_gn": True,
    "mode": "fix",
    "output_stride": 16,
}


def command(scenes, log, extra: str) -> str:
    return COMMANDS["train_segmentation"](scenes, log, extra)


def batch_of(count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels 0..2; the images have different shares of 255."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (count, 3, 48, 48), generator=generator, dtype=torch.uint8)
    labels = torch.randint(3, (count, 48, 48), generator=generator, dtype=torch.uint8)
    for number in range(count):
        labels[number, : 10 * number] = 255
    return images, labels


# losses


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    logits, labels = torch.randn(4, 3, 48, 48), batch_of()[1]
    expected = F.cross_entropy(logits, labels.long(), ignore_index=255)
    assert torch.allclose(sum_cross_entropy(logits, labels) / count_pixels(labels).sum(), expected)


def test_label_smoothing_by_hand():
    logits = torch.tensor([[[[2.0]], [[0.0]], [[-1.0]]]])
    log_probs = (logits[0, :, 0, 0]).log_softmax(dim=0)
    expected = -(0.7 * log_probs[0] + 0.3 * log_probs.mean())
    assert torch.allclose(sum_cross_entropy(logits, torch.zeros(1, 1, 1, dtype=torch.int64), 0.3), expected)


def test_hard_examples_by_hand():
    """Two labels of equal prior; losses are log(1 + exp(−margin)). Half of three labelled pixels is two."""
    margins = torch.tensor([[4.0, -1.0, 2.0, -9.0], [1.0, 1.0, 1.0, 1.0]])
    logits = torch.stack([margins, torch.zeros_like(margins)], dim=1)[:, :, None]  # [2, 2, 1, 4]
    labels = torch.tensor([[[0, 0, 0, 255]], [[255, 255, 255, 255]]])
    assert count_pixels(labels, 0.5).sum() == 2
    expected = math.log1p(math.exp(1)) + math.log1p(math.exp(-2))
    assert sum_cross_entropy(logits, labels, hard_share=0.5).item() == pytest.approx(expected, rel=1e-6)


def test_hard_examples_are_chosen_image_by_image():
    logits, labels = torch.randn(4, 3, 48, 48), batch_of()[1]
    whole = sum_cross_entropy(logits, labels, hard_share=0.2)
    parts = sum(sum_cross_entropy(*pair, hard_share=0.2) for pair in zip(logits.split([1, 3]), labels.split([1, 3])))
    assert torch.allclose(whole, parts)
    expected = [math.ceil(0.2 * (label != 255).sum().item()) for label in labels]
    assert count_pixels(labels, 0.2).tolist() == expected


def test_class_balanced_weights_by_hand():
    """Effective numbers of 1, 2 and 0 images at β = 0.5 are 1, 1.5 and none: weights 1 and 2/3, scaled to mean 1."""
    found = class_balanced_weights(torch.tensor([1, 2, 0]), torch.tensor([100, 300, 0]), beta=0.5)
    mean = (100 * 1 + 300 * 2 / 3) / 400
    assert found.tolist() == pytest.approx([1 / mean, 2 / 3 / mean, 0], rel=1e-6)
    assert class_balanced_weights(torch.zeros(3), torch.zeros(3), 0.5).tolist() == [0, 0, 0]


def test_labels_are_counted(tmp_path):
    save_label(tmp_path / "a.png", np.array([[0, 1, 1], [255, 255, 1]], np.uint8))
    save_label(tmp_path / "b.png", np.array([[2, 2, 2]], np.uint8))
    images, pixels = count_labels([tmp_path / "a.png", tmp_path / "b.png"], num_labels=3)
    assert (images.tolist(), pixels.tolist()) == ([1, 1, 1], [1, 3, 3])
    with pytest.raises(InputError, match=r"b\.png holds the labels \[2\]"):
        count_labels([tmp_path / "b.png"], num_labels=2)


def test_classes_that_no_label_holds_are_named(scenes, tmp_path, capsys):
    truth = sorted((scenes / "data/VOCdevkit/VOC2012/SegmentationClassAug").iterdir())
    for path in truth:
        label = load_label(path)
        save_label(tmp_path / "labels" / path.name, np.where(np.isin(label, (0, 1, 255)), label, 4))
    run_main("train_segmentation", f"{command(scenes, tmp_path, '--max_epoch 1')} --label_name {tmp_path}/labels")
    missing = "boat, train, fish, mushroom, lamp and 3 more"
    assert f"no label holds {missing}: these classes are not learned" in capsys.readouterr().out


# steps


def one_step(flags: str) -> dict[str, torch.Tensor]:
    """Weights of a narrow network after one step of plain SGD on a fixed batch."""
    args = options.train_segmentation().parse_args(f"--label_name x --dropout 0 {flags}".split())
    torch.manual_seed(0)
    network = build_deeplabv3plus(NARROW, dropout=0.0).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    names, batches = list("abcd"), DistributedBatchSampler(4, 4, seed=0)
    state = TrainingState("segmentation", NARROW, network, optimizer, scaler, names, batches)
    class_weights = torch.tensor([0.5, 1.0, 2.0]) if args.class_balance else None
    train_segmentation.train_step(network, state, list(batch_of()), class_weights, args, World(0, 1, CPU))
    return network.state_dict()


@pytest.mark.parametrize("flags", ["", "--ohem 0.3 --class_balance 0.9 --label_smoothing 0.1"])
def test_parts_of_a_batch_give_the_step_of_the_whole(flags):
    """The parts have different numbers of labelled pixels."""
    whole, parts = one_step(flags), one_step(f"{flags} --accumulate 3")
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


def test_a_compiled_network_learns_the_same(scenes, tmp_path, monkeypatch):
    """Validation uses the network that is not compiled. Without code generation, which takes minutes."""
    compiled = []

    def compile_fast(network):
        compiled.append(torch._dynamo.optimize("aot_eager")(network))
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", compile_fast)
    for tag in ("plain", "compiled"):
        flags = f"--tag {tag} --max_epoch 1 --dropout 0 --compile {tag == 'compiled'}"
        run_main("train_segmentation", command(scenes, tmp_path, flags))
    assert len(compiled) == 1
    one, other = log_of(tmp_path / "plain"), log_of(tmp_path / "compiled")
    assert one[0]["loss"] == pytest.approx(other[0]["loss"], rel=1e-4)
    assert weights(tmp_path / "plain/last.pth").keys() == weights(tmp_path / "compiled/last.pth").keys()


def test_synchronised_batch_norm_keeps_names_and_fixed_statistics():
    network = build_deeplabv3plus(NARROW | {"backbone": "mobilenetv2", "backbone_args": {}, "use_gn": False})
    names = list(network.state_dict())
    network = convert_sync_batchnorm(network).train()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    assert list(network.state_dict()) == names
    assert all(isinstance(norm, torch.nn.SyncBatchNorm) for norm in norms)
    assert not any(norm.training for norm in network.backbone.modules() if norm in norms)
    assert all(norm.training for norm in network.aspp.modules() if norm in norms)


# trainings


FROZEN = "--freeze_backbone --mode normal"  # `mode` has no effect then
PLAIN = "--backbone vit_small_patch14_dinov2.lvd142m --backbone_args depth=4 embed_dim=32 num_heads=2 img_size=56"


def test_a_frozen_backbone_does_not_change(scenes, tmp_path):
    flags = f"{FROZEN} --ema 0.5 --power 0 --val_list none --lr 0.02"
    run_main("train_segmentation", command(scenes, tmp_path, f"{flags} --tag whole --max_epoch 2"))
    run_main("train_segmentation", command(scenes, tmp_path, f"{flags} --tag run --max_epoch 1"))
    first = load_checkpoint(tmp_path / "run/last.pth")
    run_main("train_segmentation", command(scenes, tmp_path, f"{flags} --tag run --max_epoch 2 --resume"))
    whole, resumed = weights(tmp_path / "whole/last.pth"), weights(tmp_path / "run/last.pth")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    changed = {key.split(".")[0] for key, value in first["network"].items() if not torch.equal(value, resumed[key])}
    assert changed == {"aspp", "decoder"}
    assert len(first["training"]["optimizer"]["state"]) == sum(not key.startswith("backbone.") for key in resumed)
    with pytest.raises(InputError, match="was started with freeze_backbone = True"):
        run_main("train_segmentation", command(scenes, tmp_path, "--tag run --max_epoch 3 --resume"))


@pytest.mark.slow
@pytest.mark.parametrize("extra", ["", f"{PLAIN} {FROZEN}"])
def test_one_process_and_two_have_the_same_loss_curve(extra, scenes, tmp_path):
    """Twenty steps, with labelled pixels spread unevenly over processes and parts."""
    flags = f"--train_batch 14 --max_epoch 20 --dropout 0 --val_list none --lr 0.02 {extra}"
    line = command(scenes, tmp_path, flags).replace("--train_batch 4", "")
    for tag, launcher, parts in (("one", [sys.executable], "1"), ("two", TWO_PROCESSES, "7")):
        done = subprocess.run(
            [*launcher, "train_segmentation.py", *line.split(), "--tag", tag, "--accumulate", parts],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    one, two = ([row["loss"] for row in log_of(tmp_path / tag)] for tag in ("one", "two"))
    assert len(one) == len(two) == 20
    assert one[-1] < 0.9 * one[0]
    assert one == pytest.approx(two, abs=1e-4)


def test_validation_is_that_of_evaluate_and_shows_pictures(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("predict.prepare_for_inference", plain_network)
    run_main("train_segmentation", command(scenes, tmp_path, "--tag first --max_epoch 1"))
    balance_labels(tmp_path / "first/last.pth", sorted((scenes / "data/VOCdevkit/VOC2012/JPEGImages").iterdir()))
    still = f"--tag run --max_epoch 1 --ema 0.5 --lr 1e-12 --load_path {tmp_path}/first/last.pth"
    run_main("train_segmentation", command(scenes, tmp_path, still))
    voc = f"--list {scenes}/voc12/val_id.txt"
    photographs = f"--input {scenes}/data/VOCdevkit/VOC2012/JPEGImages"
    run_main("predict", f"--load_path {tmp_path}/run/last.pth {photographs} {voc} --output {tmp_path}/out")
    run_main("evaluate", f"segmentation --pred {tmp_path}/out --data_dir {scenes}/data {voc} --json {tmp_path}/s.json")
    assert all(len(np.unique(load_label(path))) > 1 for path in (tmp_path / "out").glob("*.png"))
    score = json.loads((tmp_path / "s.json").read_text())[f"{tmp_path}/out"]["mIoU"]
    assert log_of(tmp_path / "run")[-1]["val/mIoU"] == pytest.approx(score, abs=1e-12)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    titles = events.Tags()["images"]
    assert len(titles) == 4
    assert all(title.endswith("image, prediction, truth") for title in titles)
    assert (events.Images(titles[0])[0].height, events.Images(titles[0])[0].width) == (64, 3 * 80)


def test_training_starts_from_all_weights_of_a_checkpoint(scenes, tmp_path):
    run_main("train_segmentation", command(scenes, tmp_path, "--tag first --max_epoch 1"))
    still = f"--tag second --max_epoch 1 --lr 1e-12 --load_path {tmp_path}/first/last.pth --seed 5"
    run_main("train_segmentation", command(scenes, tmp_path, still))
    first, second = weights(tmp_path / "first/last.pth"), weights(tmp_path / "second/last.pth")
    assert all(torch.allclose(first[name], second[name], atol=1e-6) for name in first)
    wrong = f"--tag third --load_path {tmp_path}/first/last.pth"
    with pytest.raises(InputError, match=r"first/last\.pth does not fit the network"):
        run_main("train_segmentation", f"{command(scenes, tmp_path, wrong)} --head_width 32")
    shutil.copytree(scenes / "data", tmp_path / "data")
    names = tmp_path / "data/VOCdevkit/VOC2012/classes.txt"
    classes = names.read_text().split()
    other = f"--tag third --load_path {tmp_path}/first/last.pth --data_dir {tmp_path}/data"
    for changed, words in (
        (classes[::-1], "classes in another order"),
        ([*classes, "eleventh"], "has 10 classes, the data has 11: take its backbone alone by --pretrained"),
    ):
        names.write_text("\n".join(changed))
        with pytest.raises(InputError, match=words):
            run_main("train_segmentation", command(scenes, tmp_path, other))
    assert not (tmp_path / "third").exists()


def test_a_loss_that_is_not_finite_names_its_images(scenes, tmp_path, monkeypatch):
    """The loss is read after the weights are already NaN: they are not saved."""
    run_main("train_segmentation", command(scenes, tmp_path, "--tag run --max_epoch 2"))
    before = (tmp_path / "run/last.pth").read_bytes()
    taken, cross_entropy = [], train_segmentation.sum_cross_entropy

    def spoilt(*given):
        taken.append(1)
        return cross_entropy(*given) * (math.nan if len(taken) == 2 else 1)

    monkeypatch.setattr(train_segmentation, "sum_cross_entropy", spoilt)
    with pytest.raises(InputError) as error:
        run_main("train_segmentation", command(scenes, tmp_path, "--tag run --max_epoch 4 --resume --save_every 3"))
    ids = (scenes / "voc12/train_aug_id.txt").read_text().split()
    batch = [ids[index] for index in DistributedBatchSampler(len(ids), 4, seed=0).list_indices(epoch=2, step=1)]
    assert "not finite in epoch 3, step 2" in str(error.value)
    assert all(name in str(error.value) for name in batch)
    assert not any(name in str(error.value) for name in set(ids) - set(batch))
    assert (tmp_path / "run/last.pth").read_bytes() == before


def test_weights_that_are_not_finite_are_not_saved(scenes, tmp_path):
    """The loss of the step that makes them NaN is still finite."""
    run_main("train_segmentation", command(scenes, tmp_path, "--tag run --max_epoch 1 --save_every 1"))
    before = (tmp_path / "run/last.pth").read_bytes()
    network, scaler = torch.nn.Linear(2, 1), torch.amp.GradScaler("cpu", enabled=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e38)
    state = TrainingState("segmentation", {}, network, optimizer, scaler, ["a"], DistributedBatchSampler(1, 1, seed=0))
    loss = (network(torch.full((1, 2), 1e10)) ** 2).sum()
    loss.backward()
    state.take_step({"loss": loss})
    run = RunFolder(tmp_path, "run", resume=True, is_main=True, options={})
    with pytest.raises(InputError, match="weights are not finite in epoch 1 after step 1"):
        state.save(run)
    assert (tmp_path / "run/last.pth").read_bytes() == before


def test_a_resumed_run_needs_the_same_images(scenes, tmp_path):
    ids = (scenes / "voc12/train_aug_id.txt").read_text().split()
    shutil.copytree(scenes / "voc12", tmp_path / "voc12")
    flags = f"--tag run --list_dir {tmp_path}/voc12"
    run_main("train_segmentation", command(scenes, tmp_path, f"{flags} --max_epoch 1"))
    for changed, words in ((ids[::-1], "trained on other images"), (ids[1:], "trained on .*14.*13")):
        (tmp_path / "voc12/train_aug_id.txt").write_text("\n".join(changed))
        with pytest.raises(InputError, match=words):
            run_main("train_segmentation", command(scenes, tmp_path, f"{flags} --max_epoch 2 --resume"))


def test_runs_with_other_flags_recorded_resume(scenes, tmp_path):
    """Flags that were added or deleted after the run was started."""
    run_main("train_segmentation", command(scenes, tmp_path, "--tag run --max_epoch 1"))
    path = tmp_path / "run/options.json"
    recorded = json.loads(path.read_text())
    for name in ("output_stride", "ohem", "ema"):
        del recorded["options"][name]
    recorded["options"]["channels_last"] = "gpu"
    path.write_text(json.dumps(recorded))
    run_main("train_segmentation", command(scenes, tmp_path, "--tag run --max_epoch 2 --resume"))
    assert log_of(tmp_path / "run")[-1]["step"] == 6


def test_full_memory_says_which_flags_to_lower(scenes, tmp_path, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")

    monkeypatch.setattr(DeepLabV3Plus, "forward", full)
    with pytest.raises(InputError, match=r"Tried to allocate 2\.00 GiB\.\): lower --train_batch or --crop_size, or"):
        run_main("train_segmentation", command(scenes, tmp_path, "--tag run --max_epoch 1"))


def test_full_memory_of_the_cpu():
    with pytest.raises(InputError, match=r"too little memory .*: take less"), advise_on_full_memory("take less"):
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="shape"), advise_on_full_memory("take less"):
        torch.zeros(2).reshape(3)


PHOTOGRAPHS = "--backbone mobilenetv2_035 --pixel_mean 0.5 0.5 0.5 --pixel_std 0.5 0.5 0.5"


@pytest.mark.slow
def test_eight_photographs_are_overfitted(real_data, tmp_path):
    """mIoU of at least 95 % on eight images with one class that covers more than a tenth of the image."""
    root, lists = real_data / "voc12-photos/data/voc12", real_data / "voc12-photos/voc12"
    masks = root / "VOCdevkit/VOC2012/SegmentationClass"
    truth: dict[str, np.ndarray] = {}
    for name in (lists / "train_id.txt").read_text().split():
        label = load_label(masks / f"{name}.png")
        classes = np.setdiff1d(label, (0, 255))
        if len(truth) < 8 and len(classes) == 1 and (label == classes[0]).mean() > 0.1:
            truth[name] = label
    (tmp_path / "eight.txt").write_text("\n".join(truth))
    flags = (
        f"--pretrained {real_data}/weights/mobilenetv2_035_imagenet.safetensors --data_dir {root} --list_dir {lists}"
        f" --train_list {tmp_path}/eight.txt --val_list none --label_name SegmentationClass --log_path {tmp_path}"
        " --tag run --mode normal --use_gn False --head_width 64 --dropout 0 --optimizer adamw --lr 2e-3 --head_lr 1"
        " --train_batch 8 --crop_size 256 --long_side 256 256 --max_epoch 120 --workers 0"
    )
    run_main("train_segmentation", f"{PHOTOGRAPHS} {flags}")
    photographs = f"--input {root}/VOCdevkit/VOC2012/JPEGImages --list {tmp_path}/eight.txt --scales 0.512"
    run_main("predict", f"--load_path {tmp_path}/run/last.pth {photographs} --output {tmp_path}/out")
    matrix = ConfusionMatrix(21)
    for name, prediction in labels_in(tmp_path / "out").items():
        matrix.add(prediction, truth[name])
    assert matrix.scores()["mIoU"] >= 0.95
