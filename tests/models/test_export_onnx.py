"""ONNX: exported networks have the outputs of PyTorch for any batch, DeepLabV3+ also for any size."""

import importlib.util

import numpy as np
import pytest
import torch
from conftest import run_main

from formats.errors import InputError
from models.deeplabv3plus import build_deeplabv3plus
from models.saliency_net import build_saliency_net
from utils.checkpoint import load_checkpoint, rebuild


def test_maps_are_those_of_torch(networks, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    run_main("export onnx", f"--load_path {networks}/saliency.pth --output {tmp_path}/new/sod.onnx")
    assert "largest difference to PyTorch" in capsys.readouterr().out
    network = rebuild(build_saliency_net, load_checkpoint(networks / "saliency.pth"), "saliency.pth").eval()
    session = onnxruntime.InferenceSession(f"{tmp_path}/new/sod.onnx", providers=["CPUExecutionProvider"])
    for batch in (1, 5):
        images = torch.randint(256, (batch, 3, 64, 64), dtype=torch.uint8)
        (maps,) = session.run(["saliency"], {"images": images.numpy()})
        with torch.inference_mode():
            expected = network(network.backbone.normalise(images))["saliency"][0].sigmoid().numpy()
        assert maps.shape == (batch, 1, 64, 64)
        assert np.abs(maps - expected).max() < 1e-5
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sod.onnx"]


def test_deeplab_exports_with_free_batch_and_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    narrow = {"channels": (8, 8, 16, 32), "stem_width": 8}
    settings = {"backbone": "resnest14", "backbone_args": narrow, "pixel_mean": None, "pixel_std": None}
    settings |= {"classes": ["cat", "dog"], "head_width": 16, "use_gn": True, "mode": "fix", "output_stride": 16}
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


def test_refusals(networks, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is of stage classification"):
        run_main("export onnx", f"--load_path {networks}/classification.pth --output {tmp_path}/a.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError, match=r"--output .* is a folder: name a file"):
        run_main("export onnx", f"--load_path {networks}/nowhere.pth --output {tmp_path}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -r requirements-onnx\.txt"):
        run_main("export onnx", f"--load_path {networks}/saliency.pth --output {tmp_path}/a.onnx")
    assert not (tmp_path / "a.onnx").exists()
