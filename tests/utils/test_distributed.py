"""Several processes: GPUs are chosen as requested, workers are launched, and two processes give the result of one."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import PROJECT, TINY_SWIN, run_main
from training_commands import IMPORTS_S, TWO_PROCESSES, log_of, weights

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
import sys
sys.path.insert(0, {project!r})
import torch
from torch.nn.parallel import DistributedDataParallel
import options, SOD_train
from datasets.distributed_batch_sampler import DistributedBatchSampler, build_loader
from datasets.saliency_folder import SaliencyTraining
from models.saliency_net import build_saliency_net
from formats.saliency_layout import saliency_pairs
from utils.distributed import start_distributed, stop_distributed
from utils.training_state import TrainingState

world = start_distributed([])
torch.manual_seed(0)
args = options.SOD_train().parse_args(({flags!r} + " --clip 0 --accumulate " + sys.argv[1]).split())
settings = dict(options.backbone_settings(args), decoder_width=8, image_size=64)
network = build_saliency_net(settings, dropout=0.0, edge_drop_path=0.0).eval()
model = DistributedDataParallel(network) if world.size > 1 else network
data = SaliencyTraining(saliency_pairs({data!r}), seed=0)
batches = DistributedBatchSampler(len(data), 4, 0, world.rank, world.size, sides_px=[64])
optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
names = [str(index) for index in range(len(data))]
scaler = torch.amp.GradScaler("cpu", enabled=False)
state = TrainingState("saliency", settings, network, optimizer, scaler, names, batches)
SOD_train.train_step(model, state, next(iter(build_loader(data, batches, 0, world.device))), args)
loss = state.finish_epoch()
if world.is_main:
    gradients = {{name: p.grad for name, p in network.named_parameters()}}
    torch.save(gradients | {{"loss": torch.tensor(loss["loss"])}}, {output!r})
del model, state, optimizer  # they hold the process group
stop_distributed()
"""


@pytest.mark.slow
def test_two_processes_give_the_gradients_of_one(scenes, tmp_path):
    """And the mean loss of one; also when each process computes its share of the batch in two parts."""
    results = {}
    for name, launcher, parts in (("one", [sys.executable], 1), ("two", TWO_PROCESSES, 1), ("parts", TWO_PROCESSES, 2)):
        script, output = tmp_path / f"{name}.py", tmp_path / f"{name}.pth"
        places = {"project": str(PROJECT), "data": str(scenes / "dataset/DRAWN-TR"), "output": str(output)}
        script.write_text(GRADIENTS.format(flags=TINY_SWIN, **places))
        done = subprocess.run([*launcher, str(script), str(parts)], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        results[name] = torch.load(output, weights_only=True)
    for name, value in results["one"].items():
        for other in ("two", "parts"):
            atol = 1e-5 * max(1, value.abs().max().item())
            assert torch.allclose(value, results[other][name], atol=atol), (other, name)


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
