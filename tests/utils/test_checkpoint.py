"""Checkpoints and weights that are damaged, incomplete or malicious."""

import argparse
import contextlib
import http.server
import os
import pickle
import sys
import threading
import warnings

import pytest
import timm
import torch
from safetensors.torch import save_file

from datasets.distributed_batch_sampler import DistributedBatchSampler
from formats.errors import InputError
from models.backbone_weights import read_weights
from models.backbones import build_backbone
from models.saliency_net import build_saliency_net
from utils.checkpoint import load_checkpoint, rebuild
from utils.run_folder import RunFolder
from utils.training_state import TrainingState


@pytest.fixture(scope="module")
def checkpoint(networks) -> dict:
    """The content of a saliency checkpoint."""
    return torch.load(networks / "saliency.pth", weights_only=True)


def save_and_rebuild(content, path) -> torch.nn.Module:
    torch.save(content, path)
    return rebuild(build_saliency_net, load_checkpoint(path), path)


def with_args(checkpoint: dict, **args) -> dict:
    """The same checkpoint with more backbone_args."""
    settings = checkpoint["settings"]
    return checkpoint | {"settings": settings | {"backbone_args": settings["backbone_args"] | args}}


class Attack:
    """Pickles as a call that creates a folder."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("load", [load_checkpoint, read_weights])
def test_nothing_is_executed(checkpoint, tmp_path, load, is_zip):
    mark, path = tmp_path / "mark", tmp_path / "a.pth"
    for content in (Attack(mark), checkpoint | {"training": {"a": Attack(mark)}}):
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        torch.load(path, weights_only=False)
        assert mark.exists(), "not an attack"
        mark.rmdir()
        words = (
            r"a\.pth cannot be read as a checkpoint: it holds more than tensors .*\.mkdir\): save only network.state"
        )
        with pytest.raises(InputError, match=words) as caught:
            load(path)
        assert "weights_only" not in str(caught.value)  # torch's advice how to execute the file
        assert not mark.exists()


@pytest.fixture
def server():
    """An address, and the list of paths requested from it."""
    requested = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            requested.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", requested
        running.shutdown()


def test_settings_fetch_nothing_and_name_no_files(checkpoint, tmp_path, server, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    address, requested = server
    overlay = {"url": f"{address}/weights.pth", "hf_hub_id": None, "source": "url"}
    name, args = checkpoint["settings"]["backbone"], checkpoint["settings"]["backbone_args"]
    fetching = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    with contextlib.suppress(Exception):
        timm.create_model(name, features_only=True, **args, **fetching)
    assert requested == ["/weights.pth"], "not an attack"
    requested.clear()
    with pytest.raises(InputError, match="--backbone_args must not contain pretrained"):
        save_and_rebuild(with_args(checkpoint, **fetching), tmp_path / "a.pth")
    assert requested == []

    with pytest.raises(FileNotFoundError):  # timm looks for the file
        timm.create_model(name, features_only=True, **args, checkpoint_path=str(tmp_path / "secret"))
    with pytest.raises(InputError, match="--backbone_args must not contain checkpoint_path"):
        save_and_rebuild(with_args(checkpoint, checkpoint_path=str(tmp_path / "secret")), tmp_path / "a.pth")
    with pytest.raises(InputError, match="hf-hub:somebody/weights is unknown"):
        settings = checkpoint["settings"] | {"backbone": "hf-hub:somebody/weights"}
        save_and_rebuild(checkpoint | {"settings": settings}, tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([torch.zeros(1)], "is not a checkpoint of this project: it lacks stage, settings, network, training"),
        ({"stage": "saliency", "settings": {}, "network": {}}, "it lacks training"),
        ({"stage": "saliency", "settings": {}, "network": {}, "training": {}}, "settings of its .* lack 'image_size'"),
    ],
)
def test_contents_that_are_not_checkpoints(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"a\.pth .*{message}"):
        save_and_rebuild(content, tmp_path / "a.pth")


# a plain pickle makes torch warn before it refuses the file
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\n<!DOCTYPE html>\n<title>\x1b[31m404</title>", "it is a web page: fetch the file itself"),
        (pickle.dumps({"a": 5}, protocol=4), "it is damaged, or not written by torch.save"),
    ],
)
def test_the_reason_is_named(tmp_path, content, reason):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.pth cannot be read as a checkpoint: {reason}") as caught:
        load_checkpoint(tmp_path / "a.pth")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("content", [b"", b"epoch,loss\n1,2\n", b"PK\x03\x04 cut", pickle.dumps({"a": 5}, protocol=4)])
def test_files_that_are_not_checkpoints(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with warnings.catch_warnings(action="error"), pytest.raises(InputError, match=r"a\.pth cannot be read as a check"):
        load_checkpoint(tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"is a folder: name its last\.pth"):
        load_checkpoint(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        load_checkpoint(tmp_path / "none.pth")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such file")
def test_a_device_is_no_checkpoint(settings):
    for load in (load_checkpoint, lambda path: build_backbone(settings, path)):
        with pytest.raises(InputError, match=f"{os.devnull} cannot be read as a checkpoint"):
            load(os.devnull)


def test_checkpoints_of_another_network(checkpoint, tmp_path):
    network = save_and_rebuild(checkpoint, tmp_path / "a.pth")
    assert all(torch.equal(value, checkpoint["network"][key]) for key, value in network.state_dict().items())
    with pytest.raises(InputError, match=r"a\.pth does not fit the network: \d+ weights missing \['backbone"):
        save_and_rebuild(checkpoint | {"network": {}}, tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"a\.pth does not fit the network: .* [1-9]\d* of another shape \['"):
        save_and_rebuild(with_args(checkpoint, embed_dim=32), tmp_path / "a.pth")
    with pytest.raises(InputError, match=r"cannot be built with .*no_such_setting"):
        save_and_rebuild(with_args(checkpoint, no_such_setting=1), tmp_path / "a.pth")


# --resume


def training_state() -> TrainingState:
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam([{"params": network.parameters(), "initial_lr": 1e-3}])
    scaler, batches = torch.amp.GradScaler("cpu"), DistributedBatchSampler(1, 1, 0)
    mean = timm.utils.ModelEmaV3(network)
    return TrainingState("saliency", {}, network, optimizer, scaler, ["a"], batches, mean)


@pytest.fixture
def saved_training(tmp_path) -> dict:
    """The content of a checkpoint after one step."""
    state = training_state()
    loss = state.network(torch.ones(1, 2)).sum()
    state.scaler.scale(loss).backward()
    state.take_step({"loss": loss})
    state.save(RunFolder(tmp_path, "run", resume=False, is_main=True, options={}))
    return load_checkpoint(tmp_path / "run/last.pth")


def test_a_training_is_restored(saved_training, tmp_path):
    state = training_state()
    state.load(tmp_path / "run/last.pth")
    assert (state.epoch, state.step, state.total_steps, state.best_score) == (0, 1, 1, -1.0)
    assert state.loss_sums["loss"].item() == saved_training["training"]["loss_sums"]["loss"]
    for network, saved in ((state.network, "weights"), (state.result, "network")):
        expected = (saved_training | saved_training["training"])[saved]
        assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
    moments, expected = state.optimizer.state_dict()["state"], saved_training["training"]["optimizer"]["state"]
    assert all(torch.equal(moments[0][name], value) for name, value in expected[0].items())


def test_a_checkpoint_of_another_training(saved_training, tmp_path):
    for change, message in (
        ({"weights": {"weight": torch.zeros(1, 2)}}, r"does not fit the network: 1 weights missing \['bias'\]"),
        ({"names_digest": "0", "num_samples": 3}, r"was trained on other images.* \(3 then, 1 now\)"),
    ):
        torch.save(saved_training | {"training": saved_training["training"] | change}, tmp_path / "a.pth")
        with pytest.raises(InputError, match=rf"a\.pth {message}"):
            training_state().load(tmp_path / "a.pth")


# --pretrained PATH


WEIGHT = "patch_embed.proj.bias"


@pytest.fixture(scope="module")
def settings(checkpoint) -> dict:
    return {key: checkpoint["settings"][key] for key in ("backbone", "backbone_args", "pixel_mean", "pixel_std")}


@pytest.fixture(scope="module")
def timm_weights(settings) -> dict:
    """Weights of the same network by timm's names."""
    return timm.create_model(settings["backbone"], img_size=64, **settings["backbone_args"]).state_dict()


def test_files_of_weights(checkpoint, settings, timm_weights, tmp_path):
    torch.save(checkpoint, tmp_path / "a.pth")
    torch.save(timm_weights, tmp_path / "b.pth")
    torch.save({"state_dict": {}, "state_dict_ema": timm_weights, "epoch": 5}, tmp_path / "c.pth")
    save_file(timm_weights, tmp_path / "d.safetensors")
    ours, theirs = checkpoint["network"][f"backbone.network.{WEIGHT}"], timm_weights[WEIGHT]
    for name, weight in (("a.pth", ours), ("b.pth", theirs), ("c.pth", theirs), ("d.safetensors", theirs)):
        backbone = build_backbone(settings, str(tmp_path / name), image_size=64)
        assert torch.equal(backbone.network.state_dict()[WEIGHT], weight), name
        assert "state_dict" not in backbone.network.pretrained_cfg


@pytest.mark.parametrize(
    ("key", "prefix"),
    [("net", ""), ("model_state", "module."), ("params", "backbone."), ("model", "encoder."), ("a", "model.encoder.")],
)
def test_weights_under_a_key_and_behind_a_prefix(settings, timm_weights, tmp_path, key, prefix):
    weights = {prefix + name: weight for name, weight in timm_weights.items()}
    args = argparse.Namespace(lr=1e-3, opt="sgd")  # as in a checkpoint of timm's training
    torch.save(
        {key: weights, "args": args, "epoch": 5, "optimizer": {"state": {}}}, tmp_path / "a.pth", pickle_protocol=3
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*protocol")
        backbone = build_backbone(settings, str(tmp_path / "a.pth"), image_size=64)
    assert torch.equal(backbone.network.state_dict()[WEIGHT], timm_weights[WEIGHT])


def test_files_that_are_not_weights(checkpoint, settings, timm_weights, tmp_path):
    path, tensors = tmp_path / "a.pth", tmp_path / "a.safetensors"
    ours = {key: value for key, value in checkpoint["network"].items() if not key.endswith(WEIGHT)}
    for content, message in (
        ([torch.zeros(1)], "cannot be read as weights: expected one state dict, found none"),
        ({"net": timm_weights, "other": timm_weights}, "cannot be read .* found net, other: save the state dict of"),
        ({0: torch.zeros(1)}, ".*"),
        ({"a": torch.zeros(1)}, "lacks [0-9]+ weights of the backbone"),
        ({key: value for key, value in timm_weights.items() if key != WEIGHT}, rf"lacks 1 weights .*{WEIGHT}"),
        (checkpoint | {"network": ours}, rf"does not fit the network: 1 weights missing .*{WEIGHT}"),
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=rf"--pretrained .*a\.pth {message}"):
            build_backbone(settings, str(path), image_size=64)
    for content in (b"", b"\xff" * 100):
        tensors.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.safetensors cannot .* not written by safetensors: fetch"):
            build_backbone(settings, str(tensors), image_size=64)
