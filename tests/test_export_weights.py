"""Weights that leave: a safetensors file gives the predictions of its checkpoint, and its card tells the training."""

import re
import shlex

import pytest
import torch
from conftest import bytes_in, run_main
from safetensors.torch import save_file

import options
from formats.errors import InputError
from models.backbones import build_backbone
from models.builders import BUILDERS
from utils.checkpoint import load_checkpoint
from utils.output_folder import load_json


@pytest.mark.parametrize("stage", BUILDERS)
def test_predictions_are_those_of_the_checkpoint(stage, networks, scenes, tmp_path):
    run_main("export weights", f"--load_path {networks}/{stage}.pth --output {tmp_path}/new/a.safetensors")
    for name, path in (("theirs", f"{tmp_path}/new/a.safetensors"), ("ours", f"{networks}/{stage}.pth")):
        images = f"{scenes}/dataset/benchmark/DRAWN-TE"
        run_main("predict", f"--load_path {path} --input {images} --output {tmp_path}/{name}")
    assert "scene2_000000.png" in bytes_in(tmp_path / "theirs")
    assert bytes_in(tmp_path / "theirs") == bytes_in(tmp_path / "ours")
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"a.safetensors", "a.md"}

    checkpoint = load_checkpoint(tmp_path / "new/a.safetensors", [stage])
    backbone = build_backbone(checkpoint["settings"], f"{tmp_path}/new/a.safetensors")
    for name, weight in backbone.state_dict().items():
        assert torch.equal(weight, checkpoint["network"][f"backbone.{name}"]), name

    card = (tmp_path / "new/a.md").read_text(encoding="utf-8")
    assert "not known: there was no options.json beside the checkpoint" in card
    assert "* **licence**: not stated" in card
    assert ", ".join(checkpoint["settings"].get("classes", ["none"])) in card
    assert "minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)" in card
    assert ("resized to 64×64 px" if stage == "saliency" else "of any size") in card


def test_the_card_tells_data_and_command(label_parts, tmp_path):
    flags = f"--load_path {label_parts}/classifier/last.pth --output {tmp_path}/a.safetensors --license 'CC BY 4.0'"
    run_main("export weights", flags)
    card = (tmp_path / "a.md").read_text(encoding="utf-8")
    recorded = load_json(label_parts / "classifier/options.json", "")["options"]
    python, script, *words = shlex.split(re.search(r"command\*\*: `(.*)`", card)[1])
    assert (python, script) == ("python", "train_classification.py")
    given = vars(options.train_classification().parse_args(words))
    assert given.keys() == recorded.keys()
    assert {name: value for name, value in given.items() if as_json(value) != recorded[name]} == {}
    assert f"data_dir {recorded['data_dir']}" in card and "train_list train_aug_id.txt" in card
    assert "* **epochs**: 1\n" in card
    assert "* **licence**: CC BY 4.0\n" in card


def as_json(value):
    return [as_json(item) for item in value] if isinstance(value, (list, tuple)) else value


def test_refusals(networks, tmp_path):
    with pytest.raises(InputError, match=r"a\.pth: the name must end in \.safetensors"):
        run_main("export weights", f"--load_path {networks}/saliency.pth --output {tmp_path}/a.pth")
    with pytest.raises(InputError, match="is of stage affinity"):
        run_main("export weights", f"--load_path {networks}/affinity.pth --output {tmp_path}/a.safetensors")
    assert [*tmp_path.iterdir()] == []
    save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="is not a checkpoint of this project: it lacks stage, settings"):
        load_checkpoint(tmp_path / "a.safetensors")
