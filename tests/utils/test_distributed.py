"""Several processes: GPUs are chosen as requested, workers are launched, and several give the result of one."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import PROJECT, TINY_SWIN, run_main
from training_commands import COMMANDS, IMPORTS_S, TWO_PROCESSES, log_of, weights

from formats.errors import InputError
from utils.distributed import choose_gpus


def test_choice_of_gpus(monkeypatch):
    assert choose_gpus(None, 0) == choose_gpus([3], 0) == []  # no GPU at all: the CPU, whatever is requested
    assert choose_gpus(None, 4) == [0, 1, 2, 3]
    assert choose_gpus([1], 4) == [1]
    with monkeypatch.context() as windows:
        windows.setattr("utils.distributed.sys.platform", "win32")
        assert choose_gpus(None, 4) == [0]
    with pytest.raises(InputError, match=r"--gpu_id 0, 4: no such GPU; there are 0, 1"):
        choose_gpus([0, 4], 2)


GRADIENTS = """
import importlib, json, multiprocessing, os, socket, sys
sys.path.insert(0, {project!r})
import torch
from torch.nn.modules.batchnorm import _BatchNorm
import options
from utils.training_state import TrainingState

script, cases = {script!r}, {cases!r}
training = importlib.import_module(script)
take_step = TrainingState.take_step
_BatchNorm.train = lambda layer, mode=True: torch.nn.Module.train(layer, False)

def run(rank, count, port, output, words):
    def save_and_step(state, losses, clip=0.0):
        if rank == 0:
            gradients = {{name: p.grad for name, p in state.network.named_parameters() if p.grad is not None}}
            torch.save(gradients, output)
        take_step(state, losses, clip)

    TrainingState.take_step = save_and_step
    if count > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    training.main(getattr(options, script)().parse_args(words))

fork = multiprocessing.get_context("fork")  # modules are imported once
for count, output, words in cases:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    workers = [fork.Process(target=run, args=(rank, count, port, output, words)) for rank in range(count)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flags", "parts"),
    [
        ("SOD_train", f"--dropout 0 --edge_drop_path 0 --clip 0 {TINY_SWIN} drop_path_rate=0", "--accumulate 2"),
        ("train_classification", "--puzzle", ""),
        ("train_segmentation", "--dropout 0 --class_balance 0.9", "--accumulate 2"),
    ],
)
def test_processes_give_the_gradients_of_one(script, flags, parts, scenes, tmp_path):
    """And its mean loss, with the statistics of batch norms frozen; also if processes divide their share into parts."""
    flags += " --max_epoch 1 --train_batch 12 --workers 0"
    cases = [(count, f"{tmp_path}/{count}.pth", f"--tag {count} {flags}") for count in (1, 2, 3, 4)]
    cases.append((2, f"{tmp_path}/parts.pth", f"--tag parts {flags} {parts}"))
    cases = [(count, output, COMMANDS[script](scenes, tmp_path, flags).split()) for count, output, flags in cases]
    (tmp_path / "run.py").write_text(GRADIENTS.format(project=str(PROJECT), script=script, cases=cases))
    done = subprocess.run([sys.executable, tmp_path / "run.py"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (one, loss), *others = (
        (torch.load(tmp_path / f"{tag}.pth", weights_only=True), log_of(tmp_path / tag)[0]["loss"])
        for tag in ("1", "2", "3", "4", "parts")
    )
    for gradients, its_loss in others:
        assert its_loss == pytest.approx(loss, rel=1e-5)
        for name, value in one.items():
            atol = 1e-5 * max(1, value.abs().max().item())
            assert torch.allclose(value, gradients[name], atol=atol), name


@pytest.mark.slow
def test_two_processes_resume_exactly_and_score_what_they_save(scenes, tmp_path):
    benchmark = scenes / "dataset/benchmark"

    def run(command: str) -> None:
        line = [*TWO_PROCESSES, *command.split()]
        done = subprocess.run(line, cwd=PROJECT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr

    train = f"SOD_train.py {TINY_SWIN} --train_root {scenes}/dataset --val_root {benchmark}/DRAWN-TE --lr 1e-2"
    train += f" --log_path {tmp_path} --train_batch 4 --ema 0.9 --accumulate 2 --grad_checkpointing --save_every 2"
    for flags in ("--tag parts --max_epoch 1", "--tag parts --max_epoch 2 --resume", "--tag whole --max_epoch 2"):
        run(f"{train} {flags}")
    parts, whole = (log_of(tmp_path / tag) for tag in ("parts", "whole"))
    assert parts[-1] == whole[-1]
    assert len(whole) == 3  # two epochs and a validation, logged by one process
    one, other = (weights(tmp_path / tag / "last.pth") for tag in ("parts", "whole"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    maps = f"--input {benchmark}/DRAWN-TE --output {tmp_path}/maps/DRAWN-TE"
    run(f"predict.py --load_path {tmp_path}/whole/last.pth {maps}")
    run_main("evaluate", f"saliency --pred {tmp_path}/maps --gt_root {benchmark} --json {tmp_path}/scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())[f"{tmp_path}/maps"]["DRAWN-TE"]
    assert scores["MAE"] == pytest.approx(whole[-1]["val/MAE"], abs=1e-6)


LAUNCH = """
import os, signal, sys, time
sys.path.insert(0, {project!r})
from formats.errors import InputError
from utils.interruption import run_script
from utils.distributed import launch_workers, start_distributed, stop_distributed, sum_counts_over_processes
import numpy as np

def main(args):
    if "RANK" not in os.environ:
        return launch_workers(main, args, 2)
    world = start_distributed([])
    if args == "mistake" and world.rank == 1:
        raise InputError("a mistake of the user")
    if args == "fault":
        raise ZeroDivisionError("a fault of the program")
    if args == "killed" and world.rank == 1:  # as the system does when memory is full
        os.kill(os.getpid(), signal.SIGKILL)
    if args == "killed":  # or this process might be found dead first
        time.sleep(600)
    total = sum_counts_over_processes(np.array([world.rank + 1]))
    if world.is_main:
        print("sum", int(total[0]), "of", world.size)
    stop_distributed()

if __name__ == "__main__":
    sys.exit(run_script(main, sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("argument", "code"),
    [
        ("fine", 0),
        ("mistake", 2),
        pytest.param("fault", 1, marks=pytest.mark.slow),
        pytest.param("killed", 1, marks=pytest.mark.slow),
    ],
)
def test_a_script_launches_its_own_workers(tmp_path, argument, code):
    """A worker that fails or dies ends the other, which waits for it, within a minute; the cause is shown."""
    (tmp_path / "launch.py").write_text(LAUNCH.format(project=str(PROJECT)))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "launch.py"), argument], capture_output=True, text=True, timeout=60 + IMPORTS_S
    )
    assert done.returncode == code, done.stderr
    if argument == "fine":
        assert "sum 3 of 2" in done.stdout
    if argument == "mistake":
        assert done.stderr.count("error: a mistake of the user") == 1
        assert "Traceback" not in done.stderr
    if argument == "fault":
        assert "ZeroDivisionError: a fault of the program" in done.stderr
    if argument == "killed":
        assert "(local_rank: 1)" in done.stderr
        assert "SIGKILL" in done.stderr
