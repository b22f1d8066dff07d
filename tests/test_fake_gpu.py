"""Scripts on a fake GPU: whole trainings and predictions with tensors that have a device, a type and a shape, but no
values. An operation on tensors of two devices, or of types or shapes that do not fit, raises as it does on a GPU.
"""

import numpy as np
import pytest
import torch
from conftest import run_main
from torch import nn
from torch._subclasses import FakeTensorMode
from training_commands import COMMANDS, voc_command

from models.affinity_net import build_affinity_net
from models.cam_classifier import build_cam_classifier
from pseudo_labels.cams import compute_cams, spread_cams
from pseudo_labels.evidence import pixel_features
from pseudo_labels.random_walk import expand_cams
from utils import training_state
from utils.checkpoint import load_checkpoint, rebuild
from utils.inference_network import prepare_for_inference
from utils.precision import autocast

TYPES = {"bfloat16": (True, "True"), "float16": (False, "True"), "float32": (True, "False")}  # has bfloat16, --amp


def move_to_fakes(module: nn.Module, convert, recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which cannot replace fake parameters."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(convert(parameter.detach()), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = convert(buffer)
    return module


def zeros(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.device.type == "cpu", "numpy cannot read a tensor of a GPU"
    return np.zeros(tensor.shape, str(tensor.dtype).removeprefix("torch."))


@pytest.fixture(params=["bfloat16", *(pytest.param(name, marks=pytest.mark.slow) for name in ("float16", "float32"))])
def amp(request, monkeypatch):
    """A fake GPU that computes in a type; the value of --amp. All that needs a driver or values is replaced here."""
    has_bfloat16, amp = TYPES[request.param]
    # a driver
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "fake GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bfloat16)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    generator = torch.Generator()
    monkeypatch.setattr(torch, "Generator", lambda device="cpu": generator)
    # gradients, and the kernels of optimizers
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: None)
    for name in ("unscale_", "step", "update"):
        monkeypatch.setattr(torch.amp.GradScaler, name, lambda *args: None)
    # values: conditions hold, numbers are 1, arrays are zeros, files of weights are empty
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda tensor: True)
    monkeypatch.setattr(torch.Tensor, "item", lambda tensor: 1)
    monkeypatch.setattr(torch.Tensor, "numpy", zeros)
    monkeypatch.setattr(training_state, "agree_on_signal", lambda *args, **kwargs: None)
    monkeypatch.setattr(training_state.TrainingState, "check_finite", lambda state: None)
    monkeypatch.setattr(training_state, "save_checkpoint", lambda *content: None)
    monkeypatch.setattr(nn.Module, "_apply", move_to_fakes)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.may_turn_const = lambda tensor: False  # single numbers are fake too
    with mode:
        ones = torch.ones(2, 2, device="cuda")
        with autocast(ones.device, amp == "True"):
            assert str(torch.mm(ones, ones).dtype) == f"torch.{request.param}"
        yield amp


@pytest.mark.parametrize(
    ("script", "flags"),
    [
        ("SOD_train", "--ema 0.9 --accumulate 2 --clip 0 --val_root SCENES/dataset/benchmark"),
        ("train_classification", "--puzzle"),
        ("train_classification", "--saliency_dir PARTS/saliency"),
        ("train_affinity", "--label_name SegmentationClassAug"),
        ("train_segmentation", "--ema 0.9 --accumulate 2 --class_balance 0.9 --ohem 0.5"),
    ],
)
def test_trainings(script, flags, amp, scenes, label_parts, tmp_path):
    flags = flags.replace("SCENES", str(scenes)).replace("PARTS", str(label_parts))
    flags += f" --tag run --max_epoch 1 --train_batch 12 --amp {amp}"
    run_main(script, COMMANDS.get(script, voc_command)(scenes, tmp_path, flags))


@pytest.mark.parametrize(
    ("stage", "flags"),
    [
        ("saliency", "--scales 0.5 1 --flip"),
        ("segmentation", "--scales 0.5 1.5 --flip --window 48"),
        ("classification", "--scales 0.5 1 --flip"),
    ],
)
def test_predictions(stage, flags, amp, scenes, networks, tmp_path):
    images = [str(path) for path in (scenes / "dataset/benchmark/DRAWN-TE/Images").iterdir()][:2]
    flags += f" --input {' '.join(images)} --output {tmp_path} --amp {amp}"
    run_main("predict", f"--load_path {networks}/{stage}.pth {flags}")
    assert len([*tmp_path.glob("*.png")]) == 2


def test_maps(amp, networks):
    device, amp = torch.device("cuda"), amp == "True"
    classifier, edges = (
        prepare_for_inference(rebuild(build, load_checkpoint(path), path), device)
        for build, path in (
            (build_cam_classifier, networks / "classification.pth"),
            (build_affinity_net, networks / "affinity.pth"),
        )
    )
    images, image_labels = np.zeros((2, 60, 90, 3), np.uint8), np.eye(2, classifier.num_classes, dtype=bool)
    maps = compute_cams(classifier, images, image_labels, device, (0.5, 1.0), flip=True, combine="max", amp=amp)
    spread = spread_cams(classifier.backbone, images[0], maps[0][0], device, amp)
    walked = expand_cams(edges, images[0], maps[0][0], device, beta=10, steps=2, radius=5, amp=amp)
    assert [cams.shape for cams in (maps[1][0], spread, walked)] == [(1, 60, 90)] * 3
    assert pixel_features(classifier.backbone, images[0], device).shape[1:] == (8, 12)
