"""Checkpoints and weights that are damaged, incomplete or malicious."""

import contextlib
import http.server
import os
import pickle
import threading
import warnings

import pytest
import timm
import torch
from safetensors.torch import save_file

from datasets.epoch_batches import EpochBatches
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
        with pytest.raises(InputError, match=r"a\.pth cannot be read as a checkpoint: .* more than tensors") as caught:
            load(path)
        assert "weights_only" not in str(caught.value)
        assert not mark.exists()


def test_the_error_is_not_preceded_by_a_warning(tmp_path):
    """torch warns about the protocol of a plain pickle before it refuses the file."""
    (tmp_path / "a.pth").write_bytes(pickle.dumps({"a": 5}, protocol=4))
    with pytest.warns(UserWarning, match="pickle protocol"), contextlib.suppress(Exception):
        torch.load(tmp_path / "a.pth", weights_only=True)
    with warnings.catch_warnings(record=True) as seen, pytest.raises(InputError, match=r"a\.pth cannot be read"):
        load_checkpoint(tmp_path / "a.pth")
    assert seen == []


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
        ({"state_dict": {"a": torch.zeros(1)}}, "it lacks stage, settings, network, training"),
        ({"stage": "saliency", "settings": {}, "network": {}}, "it lacks training"),
        (
            {"stage": "saliency", "settings": {}, "network": {}, "training": {}},
            "settings of its network lack 'image_size'",
        ),
    ],
)
def test_files_that_are_not_checkpoints(tmp_path, content, message):
    with pytest.raises(InputError, match=rf"a\.pth .*{message}"):
        save_and_rebuild(content, tmp_path / "a.pth")


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


def training_state(ema: bool = True) -> TrainingState:
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam([{"params": network.parameters(), "initial_lr": 1e-3}])
    mean = timm.utils.ModelEmaV3(network) if ema else None
    scaler, batches = torch.amp.GradScaler("cpu"), EpochBatches(1, 1, 0)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": None}, "does not match this script and its options"),
        ({"weights": {"weight": torch.zeros(1, 2)}}, r"does not fit the network: 1 weights missing \['bias'\]"),
        ({"optimizer": {"state": {}, "param_groups": []}}, "does not match this script and its options"),
        (
            {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-3, "params": [0]}]}},
            "does not match this script and its options",
        ),
        ({"num_samples": 3}, "was trained on 3 images, now there are 1"),
        ({"names_digest": "0"}, "was trained on other images, or in another order of the list"),
    ],
)
def test_a_checkpoint_of_another_training(saved_training, tmp_path, change, message):
    saved_training["training"] |= change
    torch.save(saved_training, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"a\.pth {message}"):
        training_state().load(tmp_path / "a.pth")


@pytest.mark.parametrize("key", ["optimizer", "scaler", "weights", "epoch", "loss_sums", "num_samples"])
def test_a_checkpoint_that_lacks_a_part_of_the_training(saved_training, tmp_path, key):
    del saved_training["training"][key]
    torch.save(saved_training, tmp_path / "a.pth")
    with pytest.raises(InputError, match=rf"--resume: .*a\.pth does not match this script and its options \('{key}'\)"):
        training_state().load(tmp_path / "a.pth")


def test_the_options_decide_about_the_optimizer(saved_training, tmp_path):
    """Only the learning rate of the last step comes from the checkpoint."""
    (group,) = saved_training["training"]["optimizer"]["param_groups"]
    group |= {"lr": 0.01, "betas": (0.5, 0.5), "maximize": True}
    torch.save(saved_training, tmp_path / "a.pth")
    state = training_state()
    state.load(tmp_path / "a.pth")
    (restored,) = state.optimizer.param_groups
    assert (restored["lr"], restored["betas"], restored["maximize"]) == (0.01, (0.9, 0.999), False)


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


def test_files_that_are_not_weights(checkpoint, settings, timm_weights, tmp_path):
    path, tensors = tmp_path / "a.pth", tmp_path / "a.safetensors"
    ours = {key: value for key, value in checkpoint["network"].items() if not key.endswith(WEIGHT)}
    for content, message in (
        ([torch.zeros(1)], "cannot be read as weights"),
        ({"a": torch.zeros(1)}, "lacks [0-9]+ weights of the backbone"),
        ({key: value for key, value in timm_weights.items() if key != WEIGHT}, rf"lacks 1 weights .*{WEIGHT}"),
        (checkpoint | {"network": ours}, rf"does not fit the network: 1 weights missing .*{WEIGHT}"),
    ):
        torch.save(content, path)
        with pytest.raises(InputError, match=rf"--pretrained .*a\.pth {message}"):
            build_backbone(settings, str(path), image_size=64)
    for content in (b"", b"\xff" * 100):
        tensors.write_bytes(content)
        with pytest.raises(InputError, match=r"--pretrained .*a\.safetensors cannot be read as weights"):
            build_backbone(settings, str(tensors), image_size=64)
