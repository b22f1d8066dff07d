"""GPUs: mixed precision learns, no step waits, recomputation saves memory, maps agree with the CPU."""

import importlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import PROJECT, labels_in, run_main
from training_commands import COMMANDS, losses_of, saliency_command, voc_command

from formats.images import load_grey, load_image
from models.deeplabv3plus import build_deeplabv3plus
from models.saliency_net import build_saliency_net
from models.saliency_prediction import predict_saliency
from models.segmentation_prediction import segmentation_logits
from utils.checkpoint import load_checkpoint, rebuild
from utils.inference_network import prepare_for_inference

NO_WAIT = {
    "SOD_train": "--ema 0.9 --accumulate 2",
    "train_classification": "--puzzle",
    "train_segmentation": "--ema 0.9 --accumulate 2 --class_balance 0.9 --label_smoothing 0.1",
    "train_affinity": "--label_name SegmentationClassAug",
}

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"),
]


@pytest.mark.parametrize("script", COMMANDS)
def test_mixed_precision_learns_like_full_precision(script, scenes, tmp_path):
    for amp in ("True", "False"):
        command = COMMANDS[script](scenes, tmp_path, f"--tag {amp} --max_epoch 4 --amp {amp} --gpu_id 0")
        run_main(script, command + (" --dropout 0 --edge_drop_path 0" if script == "SOD_train" else ""))
    mixed, full = (losses_of(tmp_path / amp)[-1] for amp in ("True", "False"))
    assert mixed == pytest.approx(full, rel=0.05)


@pytest.mark.parametrize("has_bfloat16", [True, False])
@pytest.mark.parametrize("script", [*COMMANDS, "train_affinity"])
def test_steps_do_not_wait_for_the_device(script, has_bfloat16, scenes, tmp_path, monkeypatch):
    """With float16 and its scaled losses too. The first step may wait for its set-up."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    module, done = importlib.import_module(script), []
    train_step = module.train_step

    def watched(*args):
        torch.cuda.set_sync_debug_mode("error" if done else "default")
        try:
            train_step(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        done.append(True)

    monkeypatch.setattr(module, "train_step", watched)
    command = COMMANDS.get(script, voc_command)(
        scenes, tmp_path, f"--tag run --max_epoch 2 --gpu_id 0 {NO_WAIT[script]}"
    )
    run_main(script, command)
    assert len(done) == 6


def test_maps_agree_with_the_cpu(scenes, tmp_path):
    run_main("SOD_train", saliency_command(scenes, tmp_path, "--tag run --max_epoch 2 --gpu_id 0"))
    path = tmp_path / "run/last.pth"
    network = rebuild(build_saliency_net, load_checkpoint(path), path)
    image = load_image(next((scenes / "dataset/DRAWN-TR/Images").iterdir()))
    (on_cpu,) = predict_saliency(network, [image], 64, torch.device("cpu"))
    (on_gpu,) = predict_saliency(network.cuda(), [image], 64, torch.device("cuda"))
    assert np.abs(on_cpu.astype(int) - on_gpu).max() <= 4  # bfloat16 has 8 bits


def test_segmentations_agree_with_the_cpu():
    settings = {"backbone": "resnest14", "backbone_args": {}, "pixel_mean": None, "pixel_std": None, "classes": ["cat"]}
    settings |= {"head_width": 256, "use_gn": True, "mode": "fix", "output_stride": 16}
    network = build_deeplabv3plus(settings)
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    on_cpu, on_gpu = (
        segmentation_logits(prepare_for_inference(network, device), images, device, flip=True, amp=False).cpu()
        for device in (torch.device("cpu"), torch.device("cuda"))
    )
    assert (on_cpu - on_gpu).abs().max() <= 1e-2 * on_cpu.abs().max()  # TF32 has 10 bits


def test_recomputation_saves_memory():
    peaks = []
    for recompute in (False, True):
        settings = {"backbone": "resnest14", "backbone_args": {}, "pixel_mean": None, "pixel_std": None}
        network = build_saliency_net(settings | {"decoder_width": 8, "image_size": 224}).cuda().train()
        if recompute:
            network.backbone.recompute_activations()
        torch.cuda.reset_peak_memory_stats()
        network(torch.randn(8, 3, 224, 224, device="cuda"))["saliency"][0].mean().backward()
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.9 * peaks[0]


def test_every_flag_at_once(scenes, tmp_path):
    flags = "--ema 0.9 --accumulate 2 --grad_checkpointing --train_scales 0.5 1 --compile"
    run_main("SOD_train", saliency_command(scenes, tmp_path, f"--tag run --max_epoch 2 --gpu_id 0 {flags}"))
    assert np.isfinite(losses_of(tmp_path / "run")[-1])
    maps = tmp_path / "maps"
    run_main("predict", f"--load_path {tmp_path}/run/last.pth --input {scenes}/dataset/DRAWN-TR --output {maps}")
    assert len({load_grey(path).shape for path in maps.glob("*.png")}) == 1


def test_every_flag_of_the_segmentation_at_once(scenes, tmp_path):
    flags = "--mode normal --use_gn False --output_stride 8 --ema 0.9 --accumulate 2 --ohem 0.5 --class_balance 0.9"
    flags += " --label_smoothing 0.1 --warmup_steps 2 --compile --gpu_id 0 --max_epoch 2 --tag run"
    run_main("train_segmentation", COMMANDS["train_segmentation"](scenes, tmp_path, flags))
    assert np.isfinite(losses_of(tmp_path / "run")[-1])
    photographs = f"--input {scenes}/data/VOCdevkit/VOC2012/JPEGImages --list {scenes}/voc12/val_id.txt"
    how = "--scales 0.5 1 --flip --crf --window 48"
    run_main("predict", f"--load_path {tmp_path}/run/last.pth {photographs} {how} --output {tmp_path}/out")
    assert len(labels_in(tmp_path / "out")) == 6


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there are no two GPUs")
def test_two_gpus_have_the_loss_curve_of_one(scenes, tmp_path):
    """With batch norm synchronised over the whole batch."""
    flags = "--mode normal --use_gn False --dropout 0 --amp False --max_epoch 10 --val_list none"
    line = COMMANDS["train_segmentation"](scenes, tmp_path, flags).split()
    for tag in ("0", "0 1"):
        command = [sys.executable, "train_segmentation.py", *line, "--tag", f"gpu {tag}", "--gpu_id", *tag.split()]
        subprocess.run(command, cwd=PROJECT, check=True, timeout=600)
    one, two = (losses_of(tmp_path / f"gpu {tag}") for tag in ("0", "0 1"))
    assert one == pytest.approx(two, abs=1e-3)
