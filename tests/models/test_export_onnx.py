"""ONNX: exported networks have the outputs of PyTorch for any batch and size, the recipe those of predict.py."""

import importlib.util
import itertools
import json

import cv2
import numpy as np
import pytest
import torch
from conftest import PROJECT, run_main
from timm.layers.padding import get_same_padding

import export
from formats.errors import InputError
from formats.images import load_image, save_image
from formats.labels import load_label
from models.builders import BUILDERS
from models.onnx_export import ExportedNetwork, draw_images, export_onnx, same_padding
from utils.checkpoint import save_checkpoint

SHAPES = ((1, 33, 50), (5, 64, 64), (2, 150, 71))
SETTINGS = {"pixel_mean": None, "pixel_std": None, "classes": ["cat", "dog"]}
HEAD = {"head_width": 16, "use_gn": True, "mode": "fix"}
RESNEST = {"backbone": "resnest14", "backbone_args": {"channels": (8, 8, 16, 32), "stem_width": 8}}
SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}
SALIENCY = {"decoder_width": 8, "image_size": 64, "classes": []}


@pytest.fixture(scope="module")
def recipe():
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location("onnx_predict", PROJECT / "recipes/onnx_predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spread_outputs(network) -> None:
    """Give batch norms the statistics of some images: outputs of random networks are nearly constant otherwise."""
    network.train()
    with torch.no_grad():
        for _ in range(30):
            network(network.backbone.normalise(draw_images(2, 64, 64)))
        if hasattr(network, "side_heads"):
            network.side_heads[-1].weight *= 30


def compare_outputs(network, stage: str, side_px: int | None, path) -> None:
    session = pytest.importorskip("onnxruntime").InferenceSession(str(path), providers=["CPUExecutionProvider"])
    model = ExportedNetwork(network, stage, side_px).eval()
    for shape in SHAPES:
        images = draw_images(*shape)
        with torch.inference_mode():
            expected = model(images)
        for theirs, ours in zip(session.run(None, {"images": images.numpy()}), expected, strict=True):
            assert theirs.shape == ours.shape
            assert ours.std() > 0.01
            assert np.abs(theirs - ours.numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("stage", "settings"),
    [("saliency", SALIENCY), ("classification", {}), ("segmentation", HEAD | {"output_stride": 16})],
)
def test_outputs_are_those_of_torch_and_of_predict(stage, settings, recipe, tmp_path, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    settings = SETTINGS | RESNEST | settings
    network = BUILDERS[stage](settings)
    spread_outputs(network)
    save_checkpoint(tmp_path / "last.pth", stage, settings, network, {})
    onnx = tmp_path / "new/network.onnx"
    run_main("export onnx", f"--load_path {tmp_path}/last.pth --output {onnx}")
    assert "largest difference to PyTorch" in capsys.readouterr().out
    assert [path.name for path in onnx.parent.iterdir()] == [onnx.name]
    compare_outputs(network, stage, settings.get("image_size"), onnx)

    session = onnxruntime.InferenceSession(str(onnx))
    metadata = session.get_modelmeta().custom_metadata_map
    names = ["background"] * (stage == "segmentation") + settings["classes"]
    assert (metadata["stage"], json.loads(metadata["classes"])) == (stage, names)
    assert metadata.keys() == {"stage", "classes", "images", *(output.name for output in session.get_outputs())}
    assert str(PROJECT).encode() not in onnx.read_bytes()

    for name, shape in (("a", (97, 131)), ("deep/b", (160, 211))):
        save_image(tmp_path / f"photographs/{name}.png", draw_images(1, *shape)[0].permute(1, 2, 0).numpy())
    folders = f"{tmp_path}/photographs {tmp_path}/photographs/deep"
    run_main("predict", f"--load_path {tmp_path}/last.pth --input {folders} --output {tmp_path}/torch")
    recipe.main(f"--model {onnx} --input {tmp_path}/photographs --output {tmp_path}/onnx".split())
    for name in ("a", "deep/b"):
        theirs, ours = tmp_path / f"onnx/{name}.png", tmp_path / f"torch/{name[-1]}.png"
        if stage == "segmentation":
            assert (load_label(theirs) != load_label(ours)).mean() <= 1e-3
        else:
            difference = cv2.absdiff(load_image(theirs), load_image(ours))
            assert (difference > 1).mean() <= (0 if stage == "saliency" else 1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "backbone", "settings"),
    [
        ("saliency", "swin_tiny_patch4_window7_224", SALIENCY | {"backbone_args": SWIN, "image_size": 224}),
        ("saliency", "swinv2_tiny_window8_256", SALIENCY),
        ("classification", "resnet18", {}),
        ("classification", "efficientnet_lite0", {}),
        ("segmentation", "resnest14", HEAD | {"output_stride": 8} | RESNEST),
        ("segmentation", "tf_efficientnet_lite0", HEAD | {"output_stride": 16}),
    ],
)
def test_other_networks(stage, backbone, settings, tmp_path):
    torch.manual_seed(0)
    settings = SETTINGS | {"backbone": backbone, "backbone_args": {}} | settings
    network = BUILDERS[stage](settings)
    spread_outputs(network)
    assert export_onnx(network, stage, settings, tmp_path / "a.onnx") < export.LARGEST_DIFFERENCE
    compare_outputs(network, stage, settings.get("image_size"), tmp_path / "a.onnx")


def test_padding_is_that_of_timm():
    for case in itertools.product(range(1, 40), (1, 2, 3, 5, 7), (1, 2, 3, 4), (1, 2, 3)):
        assert same_padding(*case) == get_same_padding(*case), case


@pytest.mark.parametrize("difference", [2e-4, float("nan")])
def test_no_file_of_other_outputs(difference, networks, tmp_path, monkeypatch):
    def export_wrongly(network, stage, settings, path):
        path.touch()
        return difference

    monkeypatch.setattr(export, "export_onnx", export_wrongly)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(RuntimeError, match="differ from PyTorch's by up to"):
        run_main("export onnx", f"--load_path {networks}/saliency.pth --output {tmp_path}/new/a.onnx")
    assert [*(tmp_path / "new").iterdir()] == []


def test_refusals(networks, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is of stage affinity"):
        run_main("export onnx", f"--load_path {networks}/affinity.pth --output {tmp_path}/a.onnx")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with pytest.raises(InputError, match=r"--output .* is a folder: name a file"):
        run_main("export onnx", f"--load_path {networks}/nowhere.pth --output {tmp_path}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -r requirements-onnx\.txt"):
        run_main("export onnx", f"--load_path {networks}/saliency.pth --output {tmp_path}/a.onnx")
    assert not (tmp_path / "a.onnx").exists()


def test_the_recipe_finds_images(recipe, tmp_path):
    for name in ("a/x.jpg", "a/b/y.png", "a/b/notes.txt", "z.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = recipe.find_images([tmp_path / "a", tmp_path / "z.png"], tmp_path / "out")
    assert {path.relative_to(tmp_path / "out").as_posix() for path in found.values()} == {"x.png", "b/y.png", "z.png"}
    (tmp_path / "a/x.bmp").touch()
    with pytest.raises(SystemExit, match="one name"):
        recipe.find_images([tmp_path / "a"], tmp_path / "out")
    with pytest.raises(SystemExit, match="no image"):
        recipe.find_images([tmp_path / "a/b/notes.txt"], tmp_path / "out")
