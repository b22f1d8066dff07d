"""Options of the saliency training: resuming, running means, parts of batches, scales, edges."""

import json
import shutil

import numpy as np
import pytest
import torch
from conftest import TINY_SWIN, plain_network, run_main
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from timm.utils import ModelEmaV3
from training_commands import COMMANDS, log_of, saliency_command, weights

import options
import SOD_train
import train_classification
import train_segmentation
from datasets.distributed_batch_sampler import DistributedBatchSampler
from datasets.saliency_folder import SaliencyTraining, cached_share
from formats.errors import InputError, MissingInputError
from formats.images import load_grey, load_image, save_grey, scale_maps
from formats.saliency_layout import benchmark_pairs, edge_paths, saliency_pairs, training_pairs
from models.saliency_net import build_saliency_net
from utils.precision import autocast, half_type, loss_scaler
from utils.training_state import TrainingState

ALL_AT_ONCE = {
    "SOD_train": "--ema 0.9 --accumulate 2 --train_scales 0.5 1 1.5 --grad_checkpointing --decay_epoch 1"
    " --optimizer adamw --weight_decay 0.1 --head_lr 10 --warmup_steps 5",
    "train_classification": "",
    "train_segmentation": "--ema 0.9 --accumulate 2 --warmup_steps 5 --ohem 0.5 --class_balance 0.9"
    " --label_smoothing 0.1",
}


class Interrupted(Exception):
    pass


def interrupt_after(monkeypatch, module, steps: int) -> None:
    """Make `train_step` of a script fail after `steps` calls."""
    train_step, done = module.train_step, []

    def counted(*args):
        if len(done) == steps:
            raise Interrupted
        done.append(1)
        return train_step(*args)

    monkeypatch.setattr(module, "train_step", counted)


@pytest.mark.parametrize("module", [SOD_train, train_classification, train_segmentation])
def test_a_run_stopped_within_an_epoch_resumes_exactly(module, scenes, tmp_path, monkeypatch):
    script = module.__name__
    extra = f"{ALL_AT_ONCE[script]} --save_every 1"
    run_main(script, COMMANDS[script](scenes, tmp_path, f"--tag whole --max_epoch 2 {extra}"))
    command = COMMANDS[script](scenes, tmp_path, f"--tag parts --max_epoch 2 {extra}")
    for steps in (2, 2):  # stopped in the first epoch and in the second, of three steps each
        with monkeypatch.context() as patch:
            interrupt_after(patch, module, steps)
            with pytest.raises(Interrupted):
                run_main(script, command + (" --resume" if (tmp_path / "parts").exists() else ""))
    torch.manual_seed(99)  # what a new process would find
    run_main(script, command + " --resume")
    whole, parts = weights(tmp_path / "whole/last.pth"), weights(tmp_path / "parts/last.pth")
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")  # no step's loss is counted twice or lost


def tiny_network(**drop):
    settings = options.backbone_settings(options.SOD_train().parse_args(TINY_SWIN.split()))
    torch.manual_seed(0)
    return build_saliency_net(settings | {"decoder_width": 8, "image_size": 64}, **drop)


def one_step(flags: str, scaler=None) -> dict[str, torch.Tensor]:
    """Weights of a tiny network after one step of plain SGD on a fixed batch."""
    args = options.SOD_train().parse_args(f"{TINY_SWIN} {flags}".split())
    network = tiny_network(dropout=0.0, edge_drop_path=0.0).eval()
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    scaler = scaler or torch.amp.GradScaler("cpu", enabled=False)
    names, batches = list("abcd"), DistributedBatchSampler(4, 4, seed=0)
    state = TrainingState("saliency", {}, network, optimizer, scaler, names, batches)
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (4, 3, 64, 64), generator=generator, dtype=torch.uint8)
    masks = 255 * (torch.rand(4, 1, 64, 64, generator=generator) > 0.5).to(torch.uint8)
    SOD_train.train_step(network, state, [images, masks], args)
    return network.state_dict()


def test_parts_of_a_batch_give_the_step_of_the_whole():
    whole, parts = one_step(""), one_step("--accumulate 4")
    for name, value in whole.items():
        assert torch.allclose(value, parts[name], atol=1e-5), name


def test_gradients_are_clipped_after_the_scale_is_removed():
    plain = one_step("--clip 0.001")
    scaled = one_step("--clip 0.001", torch.amp.GradScaler("cpu", init_scale=4096.0))
    unclipped = one_step("--clip 0")
    moved = [name for name in plain if not torch.allclose(plain[name], unclipped[name], atol=1e-4)]
    assert moved  # the clip has an effect
    for name, value in plain.items():
        assert torch.allclose(value, scaled[name], atol=1e-5), name


def test_running_mean_of_the_weights():
    network, scaler = torch.nn.Linear(1, 1), loss_scaler(torch.device("cpu"), True)
    optimizer, ema = torch.optim.SGD(network.parameters(), lr=1.0), ModelEmaV3(network, 0.9)
    state = TrainingState("saliency", {}, network, optimizer, scaler, ["a"], DistributedBatchSampler(1, 1, seed=0), ema)
    before = network.weight.detach().clone()
    for _ in range(2):  # the first step sets the mean, the second moves it by a tenth of the way
        network.weight.grad, network.bias.grad = torch.ones(1, 1), torch.ones(1)
        state.take_step({"loss": torch.zeros(())})
    assert torch.allclose(network.weight, before - 2)
    assert torch.allclose(state.result.weight, before - 1.1)


def test_sixteen_bit_types(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert half_type(cpu) is half_type(cpu, False) is half_type(gpu, False) is None
    assert not autocast(cpu, True)._enabled
    for multiplies, dtype in ((True, torch.bfloat16), (False, None)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda answer=multiplies: answer)
        assert half_type(cpu, "cpu") == dtype
        assert autocast(cpu, "cpu")._enabled == multiplies
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert half_type(gpu) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert half_type(gpu) == torch.float16


def test_each_batch_draws_a_side():
    batches = DistributedBatchSampler(12, 4, seed=0, sides_px=[32, 64, 96])
    sides = []
    for batches.epoch in range(8):
        for batch in batches:
            assert len({side for _, _, side in batch}) == 1
            sides.append(batch[0][2])
    assert set(sides) == {32, 64, 96}


def test_sides_of_scales():
    assert [SOD_train.scale_side(224, scale) for scale in (1, 0.75, 1.25, 0.01)] == [224, 160, 288, 32]
    assert SOD_train.scale_side(100, 1) == 100


def test_shares_of_cache_modes():
    shares = [list(cached_share(mode, 5, rank=1, size=2)) for mode in ("no", "part", "full")]
    assert shares == [[], [1, 3], [0, 1, 2, 3, 4]]


def test_ready_edges(scenes, tmp_path):
    pairs = saliency_pairs(scenes / "dataset/DRAWN-TR")
    with pytest.raises(MissingInputError, match=r"lacks 12 of 12 edge maps"):
        edge_paths(scenes, pairs)
    for place in (tmp_path / "flat", tmp_path / "sets/DRAWN-TR"):
        for image, _ in pairs:
            height, width = load_image(image).shape[:2]
            save_grey(place / f"{image.stem}.png", np.full((height, width), 102, np.uint8))
    for folder in ("flat", "sets"):
        edges = scale_maps(edge_paths(tmp_path / folder, pairs))
        _, _, edge = SaliencyTraining(pairs, seed=0, edges=edges)[0, 0, 64]
        assert torch.equal(edge, torch.full((1, 64, 64), 102, dtype=torch.uint8))
    for image, _ in pairs:
        save_grey(tmp_path / f"ones/{image.stem}.png", np.ones((64, 80), np.uint8))
    edges = scale_maps(edge_paths(tmp_path / "ones", pairs))
    assert SaliencyTraining(pairs, seed=0, edges=edges, cached=[0])[0, 0, 64][2].unique().tolist() == [255]
    run_main("SOD_train", saliency_command(scenes, tmp_path, f"--tag ready --max_epoch 1 --edge_dir {tmp_path}/flat"))
    run_main("SOD_train", saliency_command(scenes, tmp_path, "--tag online --max_epoch 1"))
    assert log_of(tmp_path / "ready")[0]["edge_loss"] != log_of(tmp_path / "online")[0]["edge_loss"]
    save_grey(tmp_path / "flat" / f"{pairs[0][0].stem}.png", np.zeros((9, 9), np.uint8))
    with pytest.raises(InputError, match=r"is 9×9 px, but .* is 80×64 px"):
        run_main("SOD_train", saliency_command(scenes, tmp_path, f"--max_epoch 1 --edge_dir {tmp_path}/flat"))


def test_edges_of_two_data_sets_lie_in_two_folders(scenes, tmp_path):
    shutil.copytree(scenes / "dataset/DRAWN-TR", tmp_path / "OTHER")
    pairs = training_pairs([scenes / "dataset", tmp_path / "OTHER"])
    shutil.copytree(scenes / "dataset/DRAWN-TR/Masks", tmp_path / "edges")
    with pytest.raises(MissingInputError, match="lacks 24 of 24"):  # one folder cannot serve two sets of equal stems
        edge_paths(tmp_path / "edges", pairs)
    for name in ("DRAWN-TR", "OTHER"):
        shutil.copytree(scenes / "dataset/DRAWN-TR/Masks", tmp_path / "edges" / name)
    assert [path.parent.name for path in edge_paths(tmp_path / "edges", pairs)] == ["DRAWN-TR"] * 12 + ["OTHER"] * 12


def test_learning_rates(scenes, tmp_path, monkeypatch):
    """The encoder is slower by --head_lr, and both rise over --warmup_steps before --decay_epoch lowers them."""
    rates, train_step = [], SOD_train.train_step

    def note_rates(model, state, batch, args) -> None:
        in_backbone = set(map(id, state.network.backbone.parameters()))
        groups = {id(group["params"][0]) in in_backbone: group["lr"] for group in state.optimizer.param_groups}
        rates.append((groups[True], groups[False]))
        train_step(model, state, batch, args)

    monkeypatch.setattr(SOD_train, "train_step", note_rates)
    flags = "--lr 0.1 --head_lr 10 --warmup_steps 2 --decay_epoch 1 --gamma 0.5 --optimizer adamw --max_epoch 2"
    run_main("SOD_train", COMMANDS["SOD_train"](scenes, tmp_path, f"--tag run {flags}"))
    assert np.allclose(rates, [[rate, 10 * rate] for rate in (0.05, 0.1, 0.1, 0.05, 0.05, 0.05)])


def test_several_training_sets(scenes, tmp_path):
    shutil.copytree(scenes / "dataset/DRAWN-TR", tmp_path / "OTHER")
    parse = options.SOD_train().parse_args
    assert parse([]).train_root == ["dataset"]
    assert parse(["--train_root", "a", "b", "--train_root", "c"]).train_root == ["a", "b", "c"]
    assert parse(["--train_root", "a"]).train_root == ["a"]
    assert len(training_pairs([scenes / "dataset", tmp_path / "OTHER"])) == 24  # benchmark/ is passed over
    with pytest.raises(InputError, match="for testing"):
        training_pairs([scenes / "dataset/benchmark"])


def test_validation_on_several_data_sets(scenes, tmp_path, monkeypatch):
    monkeypatch.setattr("predict.prepare_for_inference", plain_network)
    shutil.copytree(scenes / "dataset/benchmark/DRAWN-TE", tmp_path / "benchmark/ONE")
    shutil.copytree(scenes / "dataset/benchmark/DRAWN-TE", tmp_path / "benchmark/TWO")
    assert list(benchmark_pairs([tmp_path / "benchmark"])) == ["ONE", "TWO"]
    learns = "--max_epoch 16 --decay_epoch 16 --lr 1e-2 --dropout 0 --edge_drop_path 0 --colour_jitter 0"
    run_main("SOD_train", saliency_command(scenes, tmp_path, f"--tag run --val_root {tmp_path}/benchmark {learns}"))
    row = log_of(tmp_path / "run")[-1]
    assert row["val/ONE/MAE"] == row["val/TWO/MAE"] == row["val/MAE"]
    # the same scores as by the files and evaluate.py
    run_main(
        "predict", f"--load_path {tmp_path}/run/last.pth --input {tmp_path}/benchmark/ONE --output {tmp_path}/maps/ONE"
    )
    run_main("evaluate", f"saliency --pred {tmp_path}/maps --gt_root {tmp_path}/benchmark --json {tmp_path}/s.json")
    assert all(np.ptp(load_grey(path)) > 50 for path in (tmp_path / "maps/ONE").glob("*.png"))
    scores = json.loads((tmp_path / "s.json").read_text())[f"{tmp_path}/maps"]["ONE"]
    assert {f"val/{name}": scores[name] for name in ("MAE", "maxF", "S")} == pytest.approx(
        {name: row[name] for name in ("val/MAE", "val/maxF", "val/S")}, abs=1e-9
    )


def test_tensorboard_shows_numbers_and_pictures(scenes, tmp_path):
    run_main("SOD_train", saliency_command(scenes, tmp_path, "--tag run --max_epoch 2 --val_every 1"))
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert {"loss", "saliency_loss", "edge_loss", "lr"} <= set(events.Tags()["scalars"])
    (title,) = events.Tags()["images"]
    assert title == "image, mask, map, edge target, edge"
    assert [picture.step for picture in events.Images(title)] == [3, 6]
    assert (events.Images(title)[0].width, events.Images(title)[0].height) == (5 * 64, 4 * 64)


@pytest.mark.slow
def test_a_compiled_network_learns_the_same():
    """Without code generation, which takes minutes."""
    images, moved = torch.randn(2, 3, 64, 64), {}
    for compiles in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        network = tiny_network(dropout=0.0, edge_drop_path=0.0).train()
        if compiles:
            network.compile(backend="aot_eager")
        outputs = network(images)
        (sum(logits.square().mean() for logits in outputs["saliency"]) + outputs["edge"].square().mean()).backward()
        assert bool(torch._dynamo.utils.counters["frames"]["ok"]) is compiles
        gradients = {name: value.grad for name, value in network.named_parameters()}
        moved[compiles] = gradients | {name: value.double() for name, value in network.named_buffers()}
    for name, value in moved[False].items():
        assert torch.allclose(value, moved[True][name], atol=1e-5), name
