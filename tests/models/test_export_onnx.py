"""ONNX: exported networks have the outputs of PyTorch for any batch, DeepLabV3+ also for any size."""

import importlib.util

import numpy as np
import pytest
import torch
from conftest import TINY_RESNEST, TINY_SWIN, run_main

from formats.errors import InputError
from models.deeplabv3plus import build_deeplabv3plus
from models.saliency_net import build_saliency_net
from utils.checkpoint import load_checkpoint


@pytest.fixture(scope="module")
def checkpoint(scenes, tmp_path_factory):
    root = tmp_path_factory.mktemp("export")
    run_main("SOD_train", f"{TINY_SWIN} --train_root {scenes}/dataset --log_path {root} --tag run --max_epoch 1")
    return root / "run/last.pth"


def test_maps_are_those_of_torch(checkpoint, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    run_main("export onnx", f"--load_path {checkpoint} --output {tmp_path}/new/sod.onnx")
    assert "largest difference to PyTorch" in capsys.readouterr().out
    content = load_checkpoint(checkpoint)
    network = build_saliency_net(content["settings"])
    network.load_state_dict(content["network"])
    network.eval()
    session = onnxruntime.InferenceSession(f"{tmp_path}/new/sod.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        images = torch.randint(256, (batch, 3, 64, 64), dtype=torch.uint8)
        (maps,) = session.run(["saliency"], {"images": images.numpy()})
        with torch.inference_mode():
            expected = network(network.backbone.normalise(images))["saliency"][0].sigmoid().numpy()
        assert maps.shape == (batch, 1, 64, 64)
        assert np.abs(maps - expected).max() < 1e-5
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sod.onnx"]


NARROW = {"channels": (8, 8, 16, 32), "stem_width": 8}


@pytest.mark.parametrize(
    ("backbone", "backbone_args", "head_width"),
    [("resnest14", NARROW, 16), pytest.param("resnest50", {}, 256, marks=pytest.mark.slow)],
)
def test_deeplab_exports_with_free_batch_and_size(backbone, backbone_args, head_width, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    settings = {"backbone": backbone, "backbone_args": backbone_args, "pixel_mean": None, "pixel_std": None}
    settings |= {"classes": ["cat", "dog"], "head_width": head_width, "use_gn": True, "mode": "fix"}
    torch.manual_seed(0)
    network = build_deeplabv3plus(settings).eval()
    free = torch.export.Dim.DYNAMIC
    example, path = torch.randn(2, 3, 97, 129), tmp_path / "deeplab.onnx"
    program = torch.onnx.export(
        network, (example,), dynamo=True, dynamic_shapes={"images": {0: free, 2: free, 3: free}}, verbose=False
    )
    program.save(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for shape in ((1, 3, 65, 131), (3, 3, 50, 33)):
        images = torch.randn(shape)
        (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.inference_mode():
            expected = network(images).numpy()
        assert expected.std() > 0.01
        assert np.abs(logits - expected).max() < 1e-4


def test_refusals(checkpoint, scenes, tmp_path, monkeypatch):
    voc = f"--data_dir {scenes}/data --list_dir {scenes}/voc12 --pretrained none --train_batch 4 --max_epoch 1"
    crops = "--crop_size 48 --long_side 48 80"
    run_main("train_classification", f"{TINY_RESNEST} {voc} {crops} --log_path {tmp_path} --tag classifier")
    with pytest.raises(InputError, match="is a classification checkpoint"):
        run_main("export onnx", f"--load_path {tmp_path}/classifier/last.pth --output {tmp_path}/a.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -r requirements-onnx\.txt"):
        run_main("export onnx", f"--load_path {checkpoint} --output {tmp_path}/a.onnx")
    assert not (tmp_path / "a.onnx").exists()
