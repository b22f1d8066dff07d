"""One process per device: how scripts start the processes, and what these exchange."""

import logging
import multiprocessing
import os
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.elastic.multiprocessing.api import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
from torch.nn.parallel import DistributedDataParallel

from formats.errors import InputError, shorten
from utils import interruption
from utils.interruption import Interrupted, call_main
from utils.memory import keep_freed_memory
from utils.precision import compute_deterministically

LAST_STEPS_S = 600  # time for workers to finish their step and save after a signal


@dataclass(frozen=True)
class World:
    """The place of this process among all of the run.

    local_size: number of processes on this machine; part: (I, N) if the run is part I of N runs that share a folder.
    """

    rank: int
    size: int
    device: torch.device
    local_size: int = 1
    part: tuple[int, int] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def take_part(self, items):
        """Return the part of this run of a sequence. Raises `InputError` if nothing is left for it."""
        if not self.part:
            return items
        index, count = self.part
        if index > len(items):
            raise InputError(f"--part {index}/{count} has no images: choose at most {len(items)} parts")
        return items[index - 1 :: count]

    def share(self, items):
        """Return the share of this process in a sequence."""
        return items[self.rank :: self.size]

    def wait_for_all(self) -> None:
        if self.size > 1:
            dist.barrier()


def start_processes(main, args) -> World | None:
    """With several GPUs, run `main(args)` in one process per GPU and return None after they have ended; otherwise,
    return the `World` of this process. Also applies `args.deterministic`.
    """
    gpu_ids = choose_gpus(args.gpu_id, torch.cuda.device_count())
    if len(gpu_ids) > 1 and "RANK" not in os.environ:
        launch_workers(main, args, len(gpu_ids))
        return None
    compute_deterministically(args.deterministic)
    part = getattr(args, "part", None)
    return replace(start_distributed(gpu_ids), part=None if part == "learn" else part)


def choose_gpus(requested: list[int] | None, num_visible: int) -> list[int]:
    """Indices of the GPUs to use: those requested, or all visible ones; an empty list means the CPU.

    On Windows, where GPUs cannot exchange gradients, only one. Raises `InputError` for a GPU that does not exist.
    """
    visible = list(range(num_visible))
    chosen = sorted(set(requested)) if requested and visible else visible
    if not set(chosen) <= set(visible):
        raise InputError(f"--gpu_id {shorten(requested)}: no such GPU; there are {shorten(visible)}")
    return chosen[:1] if sys.platform == "win32" else chosen


def launch_workers(main, args, num_workers: int) -> None:
    """Run `main(args)` in `num_workers` processes of this machine by PyTorch's elastic launcher.

    The first failure ends all workers: an `InputError` of a worker is raised here again, other failures as
    `ChildFailedError` with the worker's traceback. A signal is passed on to the workers, then raised as `Interrupted`.
    """
    # the launcher would log the traceback of a user's mistake
    logging.getLogger("torch.distributed.elastic.multiprocessing.api").setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(LAST_STEPS_S))
    interruption.set_resume_hint(interruption.RESUME_ADVICE)
    with TemporaryDirectory() as reports:
        logs = DefaultLogsSpecs(log_dir=reports)
        place = {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0"}
        config = LaunchConfig(1, 1, num_workers, max_restarts=0, logs_specs=logs, **place)
        try:
            elastic_launch(config, _run_worker)(main, args, reports)
        except SignalException as error:  # the workers have received the signal and ended
            interruption.ignore_signals(*interruption.SIGNALS)
            for worker in multiprocessing.active_children():  # unless a second signal came
                worker.kill()
            raise Interrupted(error.sigval) from None
        except ChildFailedError:
            # it may report a worker that failed only because another had exited, so look for the `InputError` itself
            for mistake in sorted(Path(reports).glob("mistake_*.txt")):
                raise InputError(mistake.read_text(encoding="utf-8")) from None
            raise


def _run_worker(main, args, reports: str) -> None:
    interruption.listen()
    try:
        call_main(main, args)
    except InputError as error:
        Path(reports, f"mistake_{os.environ['RANK']}.txt").write_text(str(error), encoding="utf-8")
        raise
    except Interrupted as stop:
        raise SystemExit(stop.exit_code) from None


def start_distributed(gpu_ids: list[int]) -> World:
    """Join the process group if torchrun or `launch_workers` started this process, and print where the run computes."""
    rank, size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if gpu_ids and local_rank >= len(gpu_ids):
        raise InputError(f"{local_rank + 1} processes on this machine, but only GPUs {gpu_ids}: start one for each GPU")
    device = torch.device("cuda", gpu_ids[local_rank]) if gpu_ids else torch.device("cpu")
    if gpu_ids:
        torch.cuda.set_device(device)
    else:
        keep_freed_memory()
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if gpu_ids else "gloo", timeout=timedelta(minutes=30))
    if rank == 0:
        on_cpu = f"the CPU ({torch.get_num_threads()} threads): no GPU is visible"
        print("running on", f"{size} GPU{'s' if size > 1 else ''}" if gpu_ids else on_cpu, flush=True)
    return World(rank, size, device, local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def stop_distributed() -> None:
    """Leave the process group once all processes have arrived here."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def gradients_stay_local(model, wait: bool):
    """Context manager that, if `wait`, does not synchronise gradients: for all parts of a batch except the last."""
    return model.no_sync() if wait and isinstance(model, DistributedDataParallel) else nullcontext()


def sum_over_processes(value: Tensor) -> Tensor:
    """The sum of a tensor over all processes; `value` itself if there is only one."""
    return _reduce(value, dist.ReduceOp.SUM)


def min_over_processes(value: Tensor) -> Tensor:
    """The element-wise minimum of a tensor over all processes."""
    return _reduce(value, dist.ReduceOp.MIN)


def sum_counts_over_processes(counts: np.ndarray) -> np.ndarray:
    """The sum of a numpy array over all processes."""
    return sum(gather_from_processes([counts]))


def agree_on_signal(device: torch.device, may_wait: bool) -> int | None:
    """The number of a signal that any process has received, equal in all processes, or None. On GPUs the exchange makes
    processes wait, so it is left out unless they `may_wait`.
    """
    if dist.is_initialized() and device.type == "cuda" and not may_wait:
        return None
    return int(_reduce(torch.tensor(interruption.pending() or 0, device=device), dist.ReduceOp.MAX)) or None


def share_buffers(module: torch.nn.Module) -> None:
    """Copy the buffers of the main process, such as batch-norm statistics, to all others."""
    if dist.is_initialized():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def gather_from_processes(rows: list) -> list:
    """The lists of all processes, concatenated in order of rank."""
    if not dist.is_initialized():
        return rows
    parts = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def _reduce(value: Tensor, operation) -> Tensor:
    if dist.is_initialized():
        value = value.clone()
        dist.all_reduce(value, op=operation)
    return value
