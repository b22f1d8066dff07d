"""One process per device: how scripts start them, and what a process knows of the others."""

import json
import logging
import multiprocessing
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, record
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from formats.errors import InputError
from utils import interruption
from utils.interruption import Interrupted, call
from utils.memory import keep_freed_memory

LAST_STEPS_S = 600  # what workers may take, after a signal, to finish their steps and save


@dataclass(frozen=True)
class World:
    """This process among all: `rank` of `size`, its `device`, whether it is the one that writes and prints; and how
    many of all are on this machine."""

    rank: int
    size: int
    device: torch.device
    is_main: bool
    local_size: int = 1


def choose_gpus(requested: list[int] | None, num_visible: int) -> list[int]:
    """The GPUs to use: all visible ones unless some are requested; none at all, where none is visible, means the CPU.

    On Windows, where GPUs have no way to exchange gradients, one. Raises `InputError` for an index beyond the visible.
    """
    if num_visible == 0:
        if requested and int(os.environ.get("RANK", 0)) == 0:
            print(f"--gpu_id {' '.join(map(str, requested))}: no GPU is visible, the CPU is used", file=sys.stderr)
        return []
    unknown = [index for index in requested or [] if not 0 <= index < num_visible]
    if unknown:
        there = ", ".join(map(str, range(num_visible)))
        raise InputError(f"--gpu_id {' '.join(map(str, unknown))}: no such GPU; there are {there}")
    chosen = sorted(set(requested)) if requested else list(range(num_visible))
    return chosen[:1] if sys.platform == "win32" else chosen


def launched() -> bool:
    """Whether a launcher (torchrun, or `launch_workers`) started this process."""
    return "RANK" in os.environ


def launch_workers(main, args, num_workers: int) -> bool:
    """Runs `main(args)` in `num_workers` processes of this machine through PyTorch's elastic launcher.

    False, with nothing done, if there is one worker only or this process is such a worker itself. The first failure
    ends all workers; an `InputError` among them is raised here again, any other exception with its traceback. Signals
    are handed on to the workers; when these have ended, `Interrupted` is raised.
    """
    if num_workers < 2 or launched():
        return False
    # it would print the traceback of a user's mistake; what matters of it is raised below
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    interruption.advise(advice := "run the same command again, a training with --resume")
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(LAST_STEPS_S))  # after which it kills them
    with TemporaryDirectory() as reports:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_workers,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=reports),
        )
        try:
            elastic_launch(config, _work)(main, args)
        except SignalException as signal:  # of the launcher, which has handed it on and waited
            interruption.listen()
            interruption.advise(advice)
            for worker in multiprocessing.active_children():  # a second signal ended its waiting
                worker.kill()
            raise Interrupted(signal.sigval) from None
        except ChildFailedError as error:
            _, failure = error.get_first_failure()
            signum = failure.exitcode - 128 if failure.exitcode > 0 else -failure.exitcode
            if signum in interruption.SIGNALS:  # sent to a worker alone
                raise Interrupted(signum) from None
            _raise_mistake(reports)
            report = failure.error_file_data["message"]
            callstack = report["extraInfo"]["py_callstack"] if isinstance(report, dict) else failure.message
            raise RuntimeError(f"worker {failure.local_rank} failed:\n{callstack}") from error
    return True


def _raise_mistake(reports) -> None:
    """Raises the `InputError` of a worker, if there is one. Others fail too, for want of the one that left, and may
    have been seen first."""
    for path in sorted(Path(reports).rglob("error.json")):
        try:
            kind, _, message = json.loads(path.read_text())["message"]["message"].partition(": ")
        except (ValueError, TypeError):  # of a worker that was killed, or failed in another way
            continue
        if kind in ("InputError", "MissingInputError"):
            raise InputError(message) from None


def _work(main, args) -> None:
    interruption.listen()
    try:
        record(call)(main, args)  # leaves a report of a failure for the launcher
    except Interrupted as signal:
        raise SystemExit(signal.exit_code) from None


def start_distributed(gpu_ids: list[int]) -> World:
    """Joins the process group if a launcher started this process; size 1 otherwise. Says once where it runs."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if gpu_ids and local_rank >= len(gpu_ids):
        raise InputError(f"{local_rank + 1} processes on this machine, but only GPUs {gpu_ids}: start one for each GPU")
    device = torch.device("cuda", gpu_ids[local_rank]) if gpu_ids else torch.device("cpu")
    if gpu_ids:
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    if launched() and not dist.is_initialized():
        dist.init_process_group("nccl" if gpu_ids else "gloo", timeout=timedelta(minutes=30))
    if rank == 0:
        where = f"{size} GPU{'s' if size > 1 else ''}" if gpu_ids else f"the CPU ({torch.get_num_threads()} threads)"
        print(f"running on {where}" + ("" if gpu_ids else ": no GPU is visible"), flush=True)
    return World(rank, size, device, is_main=rank == 0, local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def seed_step(seed: int, epoch: int, step: int, rank: int) -> None:
    """Dropout of a step depends on nothing before it, so that a resumed run goes on as if never interrupted."""
    torch.manual_seed(int(np.random.SeedSequence([seed, epoch, step, rank]).generate_state(1)[0]))


def gradients_stay_local(model, wait: bool):
    """A context in which gradients are not yet exchanged between processes: for all parts of a batch but the last."""
    return model.no_sync() if wait and isinstance(model, DistributedDataParallel) else nullcontext()


def stop_distributed() -> None:
    """Leaves the process group, when all have come so far: none ends while another still works with it."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def sum_counts_over_processes(counts):
    """Adds a numpy array of every process; all of them get the sum."""
    if not dist.is_initialized():
        return counts
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    total = torch.as_tensor(counts, device=device)
    dist.all_reduce(total)
    return total.cpu().numpy()


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The sum of a tensor over all processes; `value` itself where there is one."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value)
    return value


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes."""
    return sum_over_processes(value) / (dist.get_world_size() if dist.is_initialized() else 1)


def min_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The least of a tensor over all processes, element by element."""
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value, op=dist.ReduceOp.MIN)
    return value


def agreed_signal(device: torch.device, may_wait: bool) -> int | None:
    """The signal that asks any of the processes to end, the same answer in all of them.

    Several GPUs are asked only when the caller `may_wait` for them: till then the answer is None.
    """
    if not dist.is_initialized():
        return interruption.pending()
    if device.type == "cuda" and not may_wait:
        return None
    requested = torch.tensor(interruption.pending() or 0, device=device)
    dist.all_reduce(requested, op=dist.ReduceOp.MAX)
    return int(requested.item()) or None


def share_buffers(module: torch.nn.Module) -> None:
    """Gives every process the buffers of the first one."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def gather_from_processes(rows: list) -> list:
    """The lists of all processes, joined in order of their rank."""
    if not dist.is_initialized():
        return rows
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def wait_for_all() -> None:
    if dist.is_initialized():
        dist.barrier()
