"""Checkpoints and weights made to do harm: beside each refusal stands what the plain loader would have done."""

import contextlib
import copy
import http.server
import io
import itertools
import struct
import threading
import zipfile
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn.modules.module import register_module_parameter_registration_hook

import utils.checkpoint
from datasets.epoch_batches import EpochBatches
from formats.errors import InputError
from models.backbone_weights import read_weights
from models.backbones import build_backbone
from models.puzzle_cam_checkpoint import read_puzzle_cam
from models.saliency_net import build_saliency_net
from utils.checkpoint import load_checkpoint, rebuild
from utils.run_folder import RunFolder
from utils.training_state import TrainingState


@pytest.fixture(scope="module")
def checkpoint(networks) -> dict:
    """What a saliency checkpoint holds."""
    return torch.load(networks / "saliency.pth", weights_only=True)


def rebuilt(content, path) -> torch.nn.Module:
    torch.save(content, path)
    return rebuild(build_saliency_net, load_checkpoint(path), path)


def with_settings(checkpoint: dict, **settings) -> dict:
    return checkpoint | {"settings": checkpoint["settings"] | settings}


def with_args(checkpoint: dict, **args) -> dict:
    return with_settings(checkpoint, backbone_args=checkpoint["settings"]["backbone_args"] | args)


def test_the_checkpoint_is_one(checkpoint, tmp_path):
    assert rebuilt(checkpoint, tmp_path / "a.pth").state_dict().keys() == checkpoint["network"].keys()


def test_settings_that_describe_an_absurd_network(checkpoint, tmp_path):
    absurd = with_settings(checkpoint, decoder_width=1 << 14)
    with torch.device("meta"):  # what the plain builder would take memory for
        outline = build_saliency_net(absurd["settings"])
    assert sum(weight.numel() for weight in outline.parameters()) > 10**10
    with pytest.raises(InputError, match=r"a\.pth does not fit the network"):
        rebuilt(absurd, tmp_path / "a.pth")
    for other in (
        with_settings(checkpoint, decoder_width=1 << 30),
        with_settings(checkpoint, image_size=1 << 40),
        with_args(checkpoint, depths=(10**9, 1, 1, 1)),
        with_args(checkpoint, embed_dim=1e9),
        with_settings(checkpoint, backbone="a" * (1 << 15)),
        with_settings(checkpoint, classes=[0] * (1 << 15)),
        with_settings(checkpoint, classes=[[[[]] * 1000] * 1000] * 1000),  # the same again and again, in a small file
    ):
        with pytest.raises(InputError, match=r"a\.pth cannot be used: something in the settings .* over 16384"):
            rebuilt(other, tmp_path / "a.pth")


def test_more_blocks_than_there_is_time_for(checkpoint, tmp_path, monkeypatch):
    """Each costs some milliseconds to draw up, though it takes no memory: here minutes."""
    monkeypatch.setattr(utils.checkpoint, "MOST_UNUSED", 100)
    count = itertools.count()
    handle = register_module_parameter_registration_hook(lambda *_: next(count) and None)
    for state in ({}, checkpoint["network"]):
        absurd = with_args(checkpoint, depths=[16384] * 4) | {"network": state}
        with pytest.raises(InputError, match=r"a\.pth does not fit the network, which has over \d+ weights"):
            rebuilt(absurd, tmp_path / "a.pth")
    handle.remove()
    assert next(count) < 4 * len(checkpoint["network"]) + 500
    rebuilt(checkpoint, tmp_path / "a.pth")


def test_buffers_that_no_file_holds(checkpoint, tmp_path):
    """The index of a window has a number for each pair of its pixels: here 2 GiB, in each of four stages."""
    absurd = with_args(checkpoint, embed_dim=8, num_heads=(1, 1, 1, 1), window_size=128)
    with torch.device("meta"):
        state = build_saliency_net(absurd["settings"]).state_dict()
    weights = {name: torch.zeros(weight.shape, dtype=weight.dtype) for name, weight in state.items()}
    with pytest.raises(
        InputError, match=r"a\.pth cannot be used: its network asks for \d{10} bytes besides its weights"
    ):
        rebuilt(absurd | {"network": weights}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 1 << 22


def packed(path) -> Path:
    """The same file with its parts deflated."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(path.parent / "packed.pth", "w", zipfile.ZIP_DEFLATED) as to:
        for name in source.namelist():
            to.writestr(name, source.read(name))
    return path.parent / "packed.pth"


def repeated(path) -> Path:
    """The same file with its largest part under many names."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a/more", b"")
        largest = max(archive.infolist(), key=lambda member: member.file_size)
        for index in range(2):
            archive.filelist.append(copy.copy(largest))
            archive.filelist[-1].filename = f"a/more{index}"
    return path


@pytest.mark.parametrize("make", [packed, repeated])
def test_checkpoints_that_unpack_to_more_than_they_are(checkpoint, settings, tmp_path, make):
    torch.save(checkpoint | {"network": {"a": torch.zeros(1 << 22)}}, tmp_path / "a.pth")
    path = make(tmp_path / "a.pth")
    assert torch.load(path, weights_only=True)["network"]["a"].shape == (1 << 22,)
    with pytest.raises(InputError, match=r"\.pth cannot be read as a checkpoint: .* when unpacked"):
        load_checkpoint(path)
    refuse_weights(settings, path, "cannot be read as weights: .* when unpacked")


def test_checkpoints_with_two_directories(tmp_path):
    """Zipfile reads the second, of one empty part; torch the first, to which the end of the file points."""
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "a.pth")
    content = packed(tmp_path / "a.pth").read_bytes()
    length, start = struct.unpack("<2L", content[-10:-2])
    harmless = bytearray(content[start : start + 46])  # what is said of a part, then its name and a comment
    harmless[10:12], harmless[20:28] = bytes(2), bytes(8)  # stored; of no bytes
    struct.pack_into("<3H", harmless, 28, 0, 0, length - 46)
    (tmp_path / "b.pth").write_bytes(content[:-22] + harmless + bytes(length - 46) + content[-22:])
    with zipfile.ZipFile(tmp_path / "b.pth") as archive:
        assert [member.file_size for member in archive.infolist()] == [0]
    assert torch.load(tmp_path / "b.pth", weights_only=True)["a"].shape == (1 << 20,)
    with pytest.raises(InputError, match=r"b\.pth cannot be read as a checkpoint: its directory lies in two places"):
        load_checkpoint(tmp_path / "b.pth")


def test_settings_in_settings_in_settings(checkpoint, tmp_path):
    """Five thousand lists in each other are more than Python looks into, or prints."""
    content = io.BytesIO()
    torch.save(with_args(checkpoint, depths="HERE"), content)
    here, lists = b"X\4\0\0\0HERE", b"]" * 5001 + b"a" * 5000  # pickled; torch.save itself does not go so far
    with zipfile.ZipFile(content) as source, zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name).replace(here, lists))
    assert torch.load(tmp_path / "a.pth", weights_only=True)["settings"]["backbone_args"]["depths"][0][0][0]
    for load in (load_checkpoint, read_weights):
        with pytest.raises(InputError, match=r"a\.pth cannot be used: the settings of its network are no plain values"):
            load(tmp_path / "a.pth")
    for odd in ({1, 2}, torch.zeros(3), b"a", 1j):
        with pytest.raises(InputError, match="no plain values"):
            rebuilt(with_settings(checkpoint, pixel_mean=odd), tmp_path / "b.pth")


@pytest.mark.parametrize("name", ["bool", "uint8", "int32", "complex64", "bits8", "float4_e2m1fn_x2", "float8_e5m2"])
def test_weights_of_types_that_no_network_has(checkpoint, tmp_path, name):
    odd = torch.zeros(8, dtype=torch.uint8).view(getattr(torch, name))
    with pytest.raises(InputError, match=r"a\.pth cannot be used: a is no tensor of numbers"):
        rebuilt(checkpoint | {"network": {"a": odd}}, tmp_path / "a.pth")


def test_weights_that_are_larger_than_their_file(checkpoint, tmp_path):
    name = next(iter(checkpoint["network"]))
    expanded = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save({"a": expanded}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 10_000
    assert torch.load(tmp_path / "a.pth", weights_only=True)["a"].numel() == 1 << 40  # 4 TiB, if it were copied
    with pytest.raises(InputError, match=rf"a\.pth cannot be used: {name} .* fewer numbers than its shape"):
        rebuilt(checkpoint | {"network": checkpoint["network"] | {name: expanded}}, tmp_path / "a.pth")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(checkpoint, tmp_path, value):
    name = next(iter(checkpoint["network"]))
    weight = torch.full_like(checkpoint["network"][name], value)
    with pytest.raises(InputError, match=rf"a\.pth cannot be used: {name} holds numbers that are not finite"):
        rebuilt(checkpoint | {"network": checkpoint["network"] | {name: weight}}, tmp_path / "a.pth")


@pytest.fixture
def server():
    """An address, and what was asked of it."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


def test_settings_fetch_nothing_and_name_no_files(checkpoint, tmp_path, server, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    address, asked = server
    overlay = {"url": f"{address}/weights.pth", "hf_hub_id": None, "source": "url"}
    name, args = checkpoint["settings"]["backbone"], checkpoint["settings"]["backbone_args"]
    fetching = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    with contextlib.suppress(Exception):
        timm.create_model(name, features_only=True, **args, **fetching)
    assert asked == ["/weights.pth"]
    asked.clear()
    with pytest.raises(InputError, match="--backbone_args pretrained names weights"):
        rebuilt(with_args(checkpoint, **fetching), tmp_path / "a.pth")
    assert asked == []

    with pytest.raises(FileNotFoundError):  # it looked for the file
        timm.create_model(name, features_only=True, **args, checkpoint_path=str(tmp_path / "secret"))
    with pytest.raises(InputError, match="--backbone_args checkpoint_path names weights"):
        rebuilt(with_args(checkpoint, checkpoint_path=str(tmp_path / "secret")), tmp_path / "a.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage": ["saliency"]}, "stage is a list"),
        ({"settings": 5}, "settings is a int"),
        ({"network": [torch.zeros(1)]}, "network is a list"),
        ({"network": {"a": 5}}, "a is no tensor of numbers"),
        ({"network": {5: torch.zeros(1)}}, "the name of a weight is a int"),
        ({"network": {"a": torch.zeros(2, 2).to_sparse()}}, "a is no tensor of numbers"),
        ({"network": {"a": torch.zeros(1, device="meta")}}, "a is no tensor of numbers"),
        ({"network": {}}, "does not fit the network"),
        ({"training": None}, "training is a NoneType"),
        ({"settings": {}}, "settings of its network are incomplete"),
    ],
)
def test_checkpoints_of_other_content(checkpoint, tmp_path, change, message):
    with pytest.raises(InputError, match=rf"a\.pth .*{message}"):
        rebuilt(checkpoint | change, tmp_path / "a.pth")


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": 5},
        {"backbone": ["swin"]},
        {"backbone": "hf-hub:somebody/weights"},
        {"backbone_args": 5},
        {"backbone_args": [1]},
        {"backbone_args": {"embed_dim": "x"}},
        {"backbone_args": {5: 5}},
        {"backbone_args": {"embed_dim": -4}},
        {"pixel_mean": "abc"},
        {"pixel_mean": [1, 2]},
        {"pixel_std": 3},
        {"pixel_std": [0, 1, 1]},
        {"decoder_width": "8"},
        {"decoder_width": -8},
        {"decoder_width": 0},
        {"decoder_width": None},
        {"decoder_width": float("nan")},
        {"image_size": "64"},
        {"image_size": -64},
        {"image_size": 0},
        {"image_size": 3.5},
    ],
    ids=str,
)
def test_odd_settings(checkpoint, tmp_path, settings):
    with pytest.raises(InputError):
        rebuilt(with_settings(checkpoint, **settings), tmp_path / "a.pth")


# --resume


def training_state(ema: bool = False) -> TrainingState:
    network = torch.nn.Linear(2, 1)
    optimizer = torch.optim.Adam([{"params": network.parameters(), "initial_lr": 1e-3}])
    mean = timm.utils.ModelEmaV3(network) if ema else None
    return TrainingState(network, optimizer, torch.amp.GradScaler("cpu"), ["a"], EpochBatches(1, 1, 0), mean)


@pytest.fixture
def saved_training(tmp_path) -> dict:
    """What is saved after one step."""
    state = training_state(ema=True)
    loss = state.network(torch.ones(1, 2)).sum()
    state.scaler.scale(loss).backward()
    state.take_step({"loss": loss})
    state.save(RunFolder(tmp_path, "run", resume=False, is_main=True, options={}), "saliency", {})
    return load_checkpoint(tmp_path / "run/last.pth")


def resume(content: dict, path, **change) -> None:
    torch.save(content | {"training": content["training"] | change}, path)
    training_state(ema=True).load(path)


def test_a_training_that_is_one(saved_training, tmp_path):
    resume(saved_training, tmp_path / "a.pth")
    resume(saved_training, tmp_path / "a.pth", scaler={})
    resume(saved_training, tmp_path / "a.pth", step=0, loss_sums={})


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "x"},
        {"step": -4},
        {"step": 2},
        {"step": True},
        {"total_steps": 1.5},
        {"num_samples": torch.zeros(1).expand(1 << 20, 1 << 20)},
        {"best_score": float("nan")},
        {"best_score": 10**600},
        {"loss_sums": {}},
        {"loss_sums": [1]},
        {"loss_sums": {"loss": float("inf")}},
        {"loss_sums": {"loss": "1"}},
        {"scaler": [1]},
        {"scaler": {"scale": 1.0}},
        {"weights": None},
        {"weights": {"weight": torch.full((1, 2), float("nan")), "bias": torch.zeros(1)}},
        {"optimizer": {}},
        {"optimizer": None},
        {"optimizer": {"state": {}, "param_groups": []}},
        {"optimizer": {"state": {}, "param_groups": [{"params": [0]}]}},
    ],
    ids=str,
)
def test_trainings_of_other_content(saved_training, tmp_path, change):
    with pytest.raises(InputError, match=r"a\.pth"):
        resume(saved_training, tmp_path / "a.pth", **change)


@pytest.mark.parametrize(
    "change",
    [
        {"exp_avg": torch.zeros(3)},
        {"exp_avg": torch.full((1, 2), float("nan"))},
        {"exp_avg": torch.zeros(1, dtype=torch.float64).expand(1 << 20, 1 << 20)},
        {"exp_avg": "x"},
        {"step": torch.zeros(2)},
        {"exp_avg_sq": None},
        {"momentum_buffer": torch.zeros(1, 2)},
    ],
    ids=["shape", "nan", "expanded", "text", "steps", "none", "more"],
)
def test_moments_of_other_content(saved_training, tmp_path, change):
    optimizer = saved_training["training"]["optimizer"]
    moments = optimizer["state"]
    for state in ({**moments, 0: moments[0] | change}, {**moments, 5: moments[0]}, {**moments, "0": moments[0]}):
        with pytest.raises(InputError, match=r"--resume: .*a\.pth"):
            resume(saved_training, tmp_path / "a.pth", optimizer=optimizer | {"state": state})


def test_the_options_say_how_fast_it_learns(saved_training, tmp_path):
    """Not the file, of which nothing is taken but the rate of its last step."""
    (group,) = saved_training["training"]["optimizer"]["param_groups"]
    group |= {"lr": "x", "betas": None, "maximize": True}
    torch.save(saved_training, tmp_path / "a.pth")
    state = training_state(ema=True)
    with pytest.raises(InputError, match=r"--resume: .*a\.pth"):
        state.load(tmp_path / "a.pth")
    group["lr"] = 0.01
    torch.save(saved_training, tmp_path / "a.pth")
    state.load(tmp_path / "a.pth")
    assert state.optimizer.param_groups[0]["betas"] == (0.9, 0.999)
    assert not state.optimizer.param_groups[0]["maximize"]


# --pretrained PATH


WEIGHT = "patch_embed.proj.bias"


@pytest.fixture(scope="module")
def settings(checkpoint) -> dict:
    return {key: checkpoint["settings"][key] for key in ("backbone", "backbone_args", "pixel_mean", "pixel_std")}


@pytest.fixture(scope="module")
def timms_weights(settings) -> dict:
    """The same network's by timm's names, as timm's own files hold them."""
    return timm.create_model(settings["backbone"], img_size=64, **settings["backbone_args"]).state_dict()


def refuse_weights(settings: dict, path, message: str) -> None:
    with pytest.raises(InputError, match=rf"--pretrained .*{path.name} {message}"):
        build_backbone(settings, str(path), image_size=64)


def test_weights_that_are_whole(checkpoint, settings, timms_weights, tmp_path):
    torch.save(checkpoint, tmp_path / "a.pth")
    torch.save(timms_weights, tmp_path / "b.pth")
    torch.save({"state_dict": {}, "state_dict_ema": timms_weights, "epoch": 5}, tmp_path / "c.pth")
    save_file(timms_weights, tmp_path / "d.safetensors")
    ours = checkpoint["network"][f"backbone.network.{WEIGHT}"]
    for name, weight in (
        ("a.pth", ours),
        *((name, timms_weights[WEIGHT]) for name in ("b.pth", "c.pth", "d.safetensors")),
    ):
        backbone = build_backbone(settings, str(tmp_path / name), image_size=64)
        assert torch.equal(backbone.network.state_dict()[WEIGHT], weight)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda weight: torch.full_like(weight, float("nan")), "holds numbers that are not finite"),
        (lambda weight: torch.full_like(weight, float("inf"), dtype=torch.complex64), "is no tensor of numbers"),
        (lambda weight: torch.zeros(1).expand(weight.shape), r"\[16\] has fewer numbers than its shape"),
    ],
    ids=["nan", "complex", "expanded"],
)
@pytest.mark.filterwarnings("ignore:Casting complex values")
def test_weights_that_the_plain_loader_takes(checkpoint, settings, timms_weights, tmp_path, make, message):
    weight = make(timms_weights[WEIGHT])
    network = build_backbone(settings, image_size=64).network
    network.load_state_dict({WEIGHT: weight}, strict=False)
    assert torch.equal(network.state_dict()[WEIGHT].nan_to_num(), weight.real.float().nan_to_num())

    ours = checkpoint["network"] | {f"backbone.network.{WEIGHT}": weight}
    torch.save(checkpoint | {"network": ours}, tmp_path / "ours.pth")
    torch.save(timms_weights | {WEIGHT: weight}, tmp_path / "timms.pth")
    for name in ("ours.pth", "timms.pth"):
        refuse_weights(settings, tmp_path / name, rf"cannot be used: \S*{WEIGHT} {message}")


def test_safetensors_made_to_do_harm(settings, timms_weights, tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(timms_weights | {WEIGHT: torch.full((16,), float("nan"))}, path)
    refuse_weights(settings, path, f"cannot be used: {WEIGHT} holds numbers that are not finite")
    path.write_bytes(b"\xff" * 100)
    refuse_weights(settings, path, "cannot be read as weights")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": [torch.zeros(1)]}, "is no checkpoint of this project: network is a list"),
        ({"settings": 5}, "is no checkpoint of this project: settings is a int"),
        ({"network": {5: torch.zeros(1)}}, "cannot be used: the name of a weight is a int"),
        ({"network": {"backbone.a": 5}}, r"cannot be used: backbone\.a is no tensor of numbers"),
        ({"network": {"backbone.a": torch.zeros(2, 2).to_sparse()}}, r"cannot be used: backbone\.a is no tensor"),
        ({"network": {"backbone.a": torch.zeros(1, device="meta")}}, r"cannot be used: backbone\.a is no tensor"),
    ],
    ids=["list", "settings", "name", "number", "sparse", "meta"],
)
def test_backbones_of_other_content(checkpoint, settings, tmp_path, change, message):
    """The plain loader ends with a traceback where a name or a weight is asked for what only the right kind has."""
    torch.save(checkpoint | change, tmp_path / "a.pth")
    refuse_weights(settings, tmp_path / "a.pth", message)


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"state_dict": [1]}, {"model": {"a": 5}}, {"a": "b"}], ids=str)
def test_weights_that_are_none(settings, tmp_path, content):
    torch.save(content, tmp_path / "a.pth")
    refuse_weights(settings, tmp_path / "a.pth", "(holds a list|cannot be)")


def test_expanded_weights_are_not_summed(settings, tmp_path):
    """Weights are known by their sums, for which the plain loader makes doubles of them: here 2 PiB.
    Less might be promised by a system that promises all that addresses reach."""
    expanded = torch.zeros(1).expand(1 << 24, 1 << 24)
    with pytest.raises(RuntimeError, match="alloc"):
        expanded.double()
    torch.save({"a": expanded}, tmp_path / "a.pth")
    refuse_weights(settings, tmp_path / "a.pth", "cannot be used: a .* has fewer numbers than its shape")


@pytest.mark.parametrize("key", ["decoder.classifier.8.weight", "aspp.conv1.weight"])
def test_puzzle_cam_weights_without_numbers(key):
    """The length of one is the number of classes, each of which gets a name: 2^40 of them in a file without numbers."""
    blocks = [
        f"model.layer{n + 1}.{block}.conv2.fc1.bias" for n, count in enumerate((3, 4, 6, 3)) for block in range(count)
    ]
    ends = {"decoder.classifier.8.weight": torch.zeros(3, 1, 1, 1), "aspp.conv1.weight": torch.zeros(3, 1, 1, 1)}
    weights = dict.fromkeys(blocks, torch.zeros(1)) | ends
    assert read_puzzle_cam(weights, "p.pth")[0]["head_width"] == 3
    for odd in (torch.zeros(1 << 40, 0, 1, 1), torch.tensor(5.0)):
        with pytest.raises(InputError, match=rf"p\.pth lacks the convolution {key}"):
            read_puzzle_cam(weights | {key: odd}, "p.pth")


def test_puzzle_cam_copies_are_not_compared_before_they_are_checked():
    for odd in (torch.zeros(1, device="meta"), torch.zeros(2, 2).to_sparse()):
        pair = {"model.conv1.weight": odd, "stage1.0.weight": odd.clone()}
        with pytest.raises((NotImplementedError, RuntimeError)):
            torch.equal(*pair.values())
        with pytest.raises(InputError, match=r"p\.pth cannot be used: model\.conv1\.weight is no tensor of numbers"):
            read_puzzle_cam(pair, "p.pth")
