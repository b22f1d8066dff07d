"""Schedules, optimizers, checkpoints and folders, against values computed by hand."""

import json

import pytest
import torch
from torch import nn

from datasets.epoch_batches import EpochBatches
from formats.errors import InputError, MissingInputError, shorten
from utils.checkpoint import load_checkpoint, load_weights, save_checkpoint
from utils.interruption import run_script
from utils.memory import batch_by_size
from utils.output_folder import record_options
from utils.precision import compute_deterministically, fastest_convolutions, loss_scaler
from utils.run_folder import RunFolder
from utils.schedules import build_optimizer, parameter_groups, polynomial_decay, set_lr, step_decay
from utils.training_state import TrainingState

CPU = torch.device("cpu")


def test_schedules():
    assert [step_decay(epoch, [15], 0.5) for epoch in (0, 14, 15, 29, 30)] == [1, 1, 0.5, 0.5, 0.25]
    assert [step_decay(epoch, [3, 5], 0.1) for epoch in (0, 2, 3, 4, 5, 9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert polynomial_decay(0, 10, 0.9) == 1
    assert polynomial_decay(5, 10, 0.9) == pytest.approx(0.5**0.9)
    assert polynomial_decay(9, 10, 1.0) == pytest.approx(0.1)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)


def test_parameter_groups_of_the_segmentation_recipe():
    """lr 0.007, head ×10, biases ×2 and without weight decay."""
    network = Network()
    groups = parameter_groups(network, head_factor=10, bias_factor=2)
    optimizer = build_optimizer(groups, "sgd", lr=0.007, momentum=0.9, weight_decay=4e-5)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    expected = {
        network.backbone.weight: (0.007, 4e-5),
        network.backbone.bias: (0.014, 0),
        network.head.weight: (0.07, 4e-5),
        network.head.bias: (0.14, 0),
    }
    for parameter, (lr, decay) in expected.items():
        assert found[id(parameter)] == pytest.approx((lr, decay))
    assert all(group["momentum"] == 0.9 and group["nesterov"] for group in optimizer.param_groups)
    set_lr(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0035)


def test_no_nesterov_without_momentum():
    optimizer = build_optimizer([{"params": [nn.Parameter(torch.zeros(1))]}], "sgd", 0.1, 0.0, 1e-4)
    assert optimizer.param_groups[0]["momentum"] == 0
    assert not optimizer.param_groups[0]["nesterov"]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fused_steps_are_those_of_the_plain_loop(name, device):
    torch.manual_seed(0)
    plain, fused = Network().to(device), Network().to(device)
    fused.load_state_dict(plain.state_dict())
    optimizers = []
    for network in (plain, fused):
        groups = parameter_groups(network, head_factor=10, bias_factor=2)
        optimizers.append(build_optimizer(groups, name, lr=0.01, momentum=0.9, weight_decay=1e-2))
    for group in optimizers[0].param_groups:
        group |= {"fused": False, "foreach": False}
    for _ in range(20):
        gradients = [torch.randn_like(weight) for weight in plain.parameters()]
        for network, optimizer in zip((plain, fused), optimizers):
            for weight, gradient in zip(network.parameters(), gradients):
                weight.grad = gradient.clone()
            optimizer.step()
    for one, other in zip(plain.parameters(), fused.parameters()):
        assert torch.allclose(one, other, rtol=0, atol=1e-5)  # of weights up to 9; without decay they are 0.015 off


def test_first_gradients_that_overflow_leave_no_momentum():
    weight = nn.Parameter(torch.zeros(1000))
    optimizer = build_optimizer([{"params": [weight]}], "sgd", lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((weight * torch.inf).sum()).backward()
    scaler.step(optimizer)
    assert not weight.any()
    assert not optimizer.state[weight]["momentum_buffer"].any()


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_runs_of_plain_optimizers_continue(name, tmp_path):
    """Runs of earlier versions continue with the fused optimizer: the next step is the same."""
    networks = [Network(), Network()]
    states = []
    for network, is_fused in zip(networks, (False, True)):
        optimizer = build_optimizer([{"params": list(network.parameters())}], name, lr=0.1, momentum=0.9)
        if not is_fused:
            optimizer.state.clear()
            optimizer.param_groups[0]["fused"] = False
        scaler, batches = loss_scaler(CPU, False), EpochBatches(1, 1, 0)
        states.append(TrainingState("saliency", {}, network, optimizer, scaler, ["a"], batches))
    old, new = states
    step(old)
    old.save(RunFolder(tmp_path, "run", resume=False, is_main=True, options={}))
    new.load(tmp_path / "run/last.pth")
    assert new.optimizer.param_groups[0]["fused"]
    for state in states:
        step(state)
    for one, other in zip(*(network.parameters() for network in networks)):
        assert torch.allclose(one, other, rtol=0, atol=1e-6)


def step(state: TrainingState) -> None:
    state.optimizer.zero_grad()
    loss = state.network.head(state.network.backbone(torch.ones(1, 2))).square().sum()
    loss.backward()
    state.take_step({"loss": loss})


def test_large_images_make_small_batches():
    assert batch_by_size([(375, 500)] * 9, 8, largest_scale=2) == [[*range(8)], [8]]
    assert batch_by_size([(1000, 2000)] * 9, 8) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert batch_by_size([(1000, 2000), (9, 9), (1000, 2000), (9, 9)], 8, largest_scale=2) == [[0], [1, 3], [2]]


def test_factors_are_rounded_unless_computing_deterministically():
    try:
        for wanted in (True, False):
            compute_deterministically(wanted)
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is (not wanted)
            assert torch.are_deterministic_algorithms_enabled() is wanted
    finally:
        compute_deterministically(False)


def test_convolutions_are_tried_only_where_sizes_come_again():
    with fastest_convolutions():
        assert torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(True)
        with fastest_convolutions():
            assert not torch.backends.cudnn.benchmark
        torch.use_deterministic_algorithms(False)
    assert not torch.backends.cudnn.benchmark


def test_checkpoints_name_the_weights_that_do_not_fit(tmp_path):
    save_checkpoint(tmp_path / "a.pth", "saliency", {"widths": (1, 2)}, Network(), {"epoch": 3})
    content = load_checkpoint(tmp_path / "a.pth")
    assert content["settings"] == {"widths": (1, 2)}
    load_weights(Network(), content["network"], "a.pth")
    with pytest.raises(InputError, match=r"2 weights missing \['0.bias', '0.weight'\], 4 unexpected"):
        load_weights(nn.Sequential(nn.Linear(2, 2)), content["network"], "a.pth")
    other = Network()
    other.head = nn.Linear(3, 2)
    with pytest.raises(InputError, match="1 of another shape"):
        load_weights(other, content["network"], "a.pth")
    with pytest.raises(MissingInputError):
        load_checkpoint(tmp_path / "b.pth")


def test_run_folders(tmp_path):
    with pytest.raises(InputError, match="--resume needs --tag"):
        RunFolder(tmp_path, None, resume=True, is_main=True, options={})
    run = RunFolder(tmp_path, "a", resume=False, is_main=True, options={"lr": 0.1})
    assert not run.path.exists()
    run.start(0)
    run.log("a line")
    run.scalars(7, {"loss": 0.5})
    run.close()
    assert "a line" in (tmp_path / "a/log.txt").read_text()
    assert json.loads((tmp_path / "a/log.jsonl").read_text()) == {"step": 7, "loss": 0.5}
    with pytest.raises(InputError, match="choose another --tag"):
        RunFolder(tmp_path, "a", resume=False, is_main=True, options={"lr": 0.1})
    assert not RunFolder(
        tmp_path, "a", resume=True, is_main=True, options={"lr": 0.2}
    ).resumes  # there is no last.pth: from the start
    other = RunFolder(tmp_path, None, resume=False, is_main=False, options={})
    other.start(0)
    other.log("x")
    other.close()
    assert not other.path.exists()


def test_output_folders_never_mix_options(tmp_path):
    record_options(tmp_path / "a", {"scales": (0.5, 1.0), "t0": 0.4}, ".png")
    record_options(tmp_path / "a", {"scales": (0.5, 1.0), "t0": 0.4}, ".png")
    with pytest.raises(InputError, match=r"made with t0 = 0\.4, not 0\.3"):
        record_options(tmp_path / "a", {"scales": (0.5, 1.0), "t0": 0.3}, ".png")


def test_files_of_unknown_origin_are_not_adopted(tmp_path):
    (tmp_path / "theirs.png").touch()
    with pytest.raises(InputError, match=r"but no options\.json"):
        record_options(tmp_path, {}, ".png")
    record_options(tmp_path, {"a": 1}, ".npz")


def test_a_resumed_run_keeps_its_options(tmp_path):
    RunFolder(tmp_path, "a", resume=False, is_main=True, options={"lr": 0.1, "max_epoch": 3}).start(0)
    (tmp_path / "a/last.pth").touch()
    RunFolder(tmp_path, "a", resume=True, is_main=True, options={"lr": 0.1, "max_epoch": 5})
    with pytest.raises(InputError, match=r"started with lr = 0\.1, not 0\.2"):
        RunFolder(tmp_path, "a", resume=True, is_main=True, options={"lr": 0.2, "max_epoch": 3})


def test_a_resumed_run_drops_what_it_logged_after_the_last_save(tmp_path):
    run = RunFolder(tmp_path, "a", resume=False, is_main=True, options={})
    run.start(0)
    for step in (3, 6):
        run.scalars(step, {"loss": float(step)})
    run.close()
    (tmp_path / "a/last.pth").touch()
    with open(tmp_path / "a/log.jsonl", "a") as log:
        log.write('{"step": 9, "lo')  # a line that was being written
    again = RunFolder(tmp_path, "a", resume=True, is_main=True, options={})
    again.start(3)
    again.scalars(6, {"loss": 0.5})
    again.close()
    rows = [json.loads(line) for line in (tmp_path / "a/log.jsonl").read_text().splitlines()]
    assert rows == [{"step": 3, "loss": 3.0}, {"step": 6, "loss": 0.5}]


def test_only_mistakes_of_the_user_become_one_line(capsys):
    def mistake(args):
        raise InputError("the file is missing")

    def wrapped(args):
        raise InputError("Caught InputError in DataLoader\nTraceback\nformats.errors.InputError: the file is missing")

    def fault(args):
        raise ZeroDivisionError

    for main in (mistake, wrapped):
        assert run_script(main, None) == 2
        assert capsys.readouterr().err == "error: the file is missing\n"
    assert run_script(lambda args: None, None) == 0
    with pytest.raises(ZeroDivisionError):
        run_script(fault, None)
    assert shorten("abcdefg") == "a, b, c, d, e and 2 more"


@pytest.mark.parametrize("content", [b"", b"epoch,loss\n1,2\n", b"PK\x03\x04 cut short"])
def test_files_that_are_not_checkpoints(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pth cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "a.pth")


def test_folders_and_pickles_that_are_not_checkpoints(tmp_path):
    with pytest.raises(InputError, match=r"is a folder: name its last\.pth"):
        load_checkpoint(tmp_path)
    torch.save({"network": print}, tmp_path / "a.pth")
    with pytest.raises(InputError, match="holds more than tensors and plain values") as refusal:
        load_checkpoint(tmp_path / "a.pth")
    assert "weights_only" not in str(refusal.value)


def test_paths_of_the_wrong_kind_are_mistakes_of_the_user(tmp_path, capsys):
    assert run_script(lambda args: (tmp_path).read_bytes(), None) == 2
    assert "Is a directory" in capsys.readouterr().err
