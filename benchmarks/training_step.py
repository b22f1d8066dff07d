r"""The training step of our scripts beside a plain loop, and what each change to that loop is worth alone.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --network saliency
    python -m benchmarks.training_step --compile -- --backbone resnest50 --train_batch 8 \
        --data_dir data/voc12 --label_name SegmentationClassAug

What follows `--` are flags of train_segmentation.py or SOD_train.py, whose defaults are measured on a GPU; on the CPU
ResNeSt-101 at 320 px, or Swin-B at 224 px, with small batches takes two or three minutes. Data are scenes drawn for it
unless the flags name others. The sides, described in training_loops.py, take turns; the first turn does not count, of
the others the fastest does. Weights are random, and one batch lies ready; the loader has a table of its own.
"""

import argparse
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.autograd import DeviceType
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.report import device_kind, environment_line, save_page
from benchmarks.training_loops import TASKS, OurLoop, PlainLoop
from datasets.drawn_scenes import write_saliency_scenes, write_voc_scenes
from metrics.tables import markdown_table
from utils.precision import half_type

ON_THE_CPU = {"segmentation": "--train_batch 2 --crop_size 320", "saliency": "--train_batch 4"}
STEADY = {"segmentation": "--lr 1e-4", "saliency": ""}  # random weights must not diverge
# dense, 16 bits, by the makers' data sheets
PEAK_TFLOPS = {"A100": 312, "H100 80GB HBM3": 989, "H200": 989, "RTX 4090": 165, "RTX 3090": 71}
PEAK_TFLOPS |= {"L40S": 362, "L4": 121, "A10": 125, "V100": 125, "T4": 65}
DRAWN, DRAWN_HW = 32, (375, 500)
OPERATIONS = 10  # of the profile
LOADER_TURNS = 2


def main(argv: list[str]) -> None:
    args = parse(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        flags = [*([] if device.type == "cuda" else ON_THE_CPU[args.network].split()), *STEADY[args.network].split()]
        flags += ["--pretrained", "none", *data_flags(args, Path(folder)), *args.flags]
        task = TASKS[args.network](flags)
        batch = next(iter(task.loader(1, 0, device)))
        if args.alone:
            print(alone_s(PlainLoop(task, device, batch, **{args.alone: True}), args, device))
            return
        loops = sides(args, task, flags, batch, device)
        flops = {side: count_flops(loops[side]) for side in ("plain loop", "the script")}
        times = measure(loops, args, device)
        profiles = profile_table(loops["plain loop"], loops["the script"], device)
        loading = loader_table(task, loops["the script"], args, device)
    if device.type == "cuda":
        del loops
        torch.cuda.empty_cache()
        times["plain loop, cuDNN's fastest"] = in_a_process_of_its_own("cudnn_benchmark", argv)
    parts = [describe(task, device), speed_table(times, flops, device), loading, profiles, environment_line()]
    command = f"python -m benchmarks.training_step {shlex.join(argv)}"
    save_page(f"training_step_{args.network}_{device_kind()}", command, parts)


def parse(argv: list[str]):
    parser = argparse.ArgumentParser(description="Speed of the training step.")
    parser.add_argument("--network", choices=TASKS, default="segmentation", help="by the flags of its script")
    parser.add_argument("--compile", action="store_true", help="also compiled; takes minutes on a CPU")
    parser.add_argument("--turns", type=int, default=6, help="of each side; the first does not count")
    parser.add_argument("--steps", type=int, help="of a turn (default 5 on GPUs, 1 on the CPU)")
    parser.add_argument(
        "--loader_steps", type=int, help="of a turn with the loader (default 100 on GPUs, 8 on the CPU)"
    )
    parser.add_argument("--alone", help=argparse.SUPPRESS)  # a change that cannot be measured beside the others
    parser.add_argument("flags", nargs="*", help="flags of the script, after --")
    args = parser.parse_args(argv)
    on_gpu = torch.cuda.is_available()
    args.steps = args.steps or (5 if on_gpu else 1)
    args.loader_steps = args.loader_steps or (100 if on_gpu else 8)
    return args


def data_flags(args, folder: Path) -> list[str]:
    """None where the flags name data; else those of scenes drawn into `folder`, as large as photographs of VOC."""
    if args.network == "saliency":
        if "--train_root" in args.flags:
            return []
        write_saliency_scenes(folder / "DRAWN", DRAWN, 0, *DRAWN_HW)
        return ["--train_root", str(folder)]
    if "--label_name" in args.flags:
        return []
    write_voc_scenes(folder / "VOC2012", folder / "lists", DRAWN, 1, 0, *DRAWN_HW)
    return ["--data_dir", str(folder), "--list_dir", str(folder / "lists"), "--label_name", "SegmentationClassAug"]


def sides(args, task, flags: list[str], batch, device: torch.device) -> dict:
    """The loops by name: the plain one, with one change each, then the script's, by its defaults and with one flag."""
    on_gpu = device.type == "cuda"
    changes = {"channels last": "channels_last", "fused optimizer": "fused"}
    changes |= {"mixed precision": "amp"} if half_type(device, "cpu") else {}
    changes |= {"TF32": "tf32"} if on_gpu else {}
    changes |= {"compiled": "compile"} if args.compile else {}
    loops = {"plain loop": PlainLoop(task, device, batch)}
    loops |= {f"plain loop, {name}": PlainLoop(task, device, batch, **{key: True}) for name, key in changes.items()}
    is_last = task.args.channels_last if task.args.channels_last != "gpu" else on_gpu
    extra = ["", f"--channels_last {not is_last}"]
    extra += ["--amp cpu"] if not on_gpu and half_type(device, "cpu") else []
    extra += [f"{flag} --compile".strip() for flag in extra if "channels" not in flag] if args.compile else []
    for flag in extra:
        loops[f"the script {flag}".strip()] = OurLoop(TASKS[args.network]([*flags, *flag.split()]), device, batch)
    return loops


def measure(loops: dict, args, device: torch.device) -> dict[str, float]:
    """Seconds of a step in the fastest turn of each."""
    times: dict[str, list] = {name: [] for name in loops}
    for turn in range(args.turns):
        for name, loop in loops.items():
            times[name].append(turn_s(loop, args.steps, device))
        print(f"turn {turn + 1} of {args.turns}", flush=True)
    return {name: min(turns[1:]) for name, turns in times.items()}


def turn_s(loop, steps: int, device: torch.device) -> float:
    with loop.settings():
        started = now(device)
        for _ in range(steps):
            loop.step()
        return (now(device) - started) / steps


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def alone_s(loop, args, device: torch.device) -> float:
    return min([turn_s(loop, args.steps, device) for _ in range(args.turns)][1:])


def in_a_process_of_its_own(change: str, argv: list[str]) -> float:
    """Of the plain loop with one change: what cuDNN has chosen for a size holds for all loops of a process."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--alone", change, *argv]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def count_flops(loop) -> int:
    """Of convolutions and matrix products in one step, two for each product and its sum."""
    with loop.settings(), FlopCounterMode(display=False) as counter:
        loop.step()
    return counter.get_total_flops()


def describe(task, device: torch.device) -> str:
    args = task.args
    return f"{args.backbone}, {task.side_px} px, batch {args.train_batch}, {device.type}"


def speed_table(times: dict[str, float], flops: dict[str, int], device: torch.device) -> str:
    """`flops` of a step of either side: on CPUs the script has fewer."""
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    peak = next((peak for known, peak in PEAK_TFLOPS.items() if re.search(rf"\b{known}\b", name)), None)
    unit = "TFLOP/s, of a peak not known" if name and not peak else "TFLOP/s"
    rows = []
    for side, step_s in times.items():
        tflops = flops["the script" if side.startswith("the script") else "plain loop"] / step_s / 1e12
        rate = f"{tflops:.2f}" + (f" ({100 * tflops / peak:.0f} % of {peak})" if peak else "")
        rows.append([side, f"{1e3 * step_s:.0f}", f"{times['plain loop'] / step_s:.2f} ×", rate])
    return markdown_table(["", "ms/step", "of the plain loop's speed", unit], rows)


def loader_table(task, loop: OurLoop, args, device: torch.device) -> str:
    """The script's step on a batch that is on hand, and on what its loader reads; they take turns, and the fastest
    counts. Alone, the loader is timed over many more batches than lie ready when the first one does."""
    steps, workers = args.loader_steps, task.args.workers
    alone = max(steps, 20 * workers)
    ways = {
        "training, a batch on hand": lambda: (turn_s(loop, steps, device), 0.0),
        f"training, {workers} workers load": lambda: loaded_s(task, loop, steps, device),
        f"loading alone, {alone} batches": lambda: (loading_s(task, alone, device), 0.0),
    }
    turns = [[way() for way in ways.values()] for _ in range(LOADER_TURNS)]
    (on_hand_s, _), (_, waited_s), _ = best = [min(times) for times in zip(*turns)]
    rows = [[name, f"{1 / step_s:.2f}", f"{on_hand_s / step_s:.2f}"] for name, (step_s, _) in zip(ways, best)]
    table = markdown_table([f"{steps} steps", "steps/s", "of training with a batch on hand"], rows)
    return f"{table}\n\nThe loop waited {1e3 * waited_s:.1f} ms a step for data."


def loaded_s(task, loop: OurLoop, steps: int, device: torch.device) -> tuple[float, float]:
    """Seconds of a step with the loader, and how many of them it waits for its batch. The first step does not count:
    memory that a process shares with workers it has just started is copied when it is written to."""
    with loop.settings():
        batches = iter(task.loader(steps + 1, task.args.workers, device))
        loop.step(next(batches))
        waited_s, started = 0.0, now(device)
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited_s += time.perf_counter() - asked
            loop.step(batch)
        return (now(device) - started) / steps, waited_s / steps


def loading_s(task, steps: int, device: torch.device) -> float:
    batches = iter(task.loader(steps + 1, task.args.workers, device))
    next(batches)
    started = time.perf_counter()
    for _ in batches:
        pass
    return (time.perf_counter() - started) / steps


def profile_table(plain: PlainLoop, ours: OurLoop, device: torch.device) -> str:
    """The operations that take longest in one step of either."""
    before, after = (profile_ms(loop, device) for loop in (plain, ours))
    names = sorted({**before, **after}, key=lambda name: -max(before.get(name, 0), after.get(name, 0)))[:OPERATIONS]
    rows = [[name, *(f"{side.get(name, 0):.1f}" for side in (before, after))] for name in names]
    return markdown_table(["operation, ms in one step", "plain loop", "the script"], rows)


def profile_ms(loop, device: torch.device) -> dict[str, float]:
    time_us = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    with loop.settings(), torch.profiler.profile() as profile:
        loop.step()
        now(device)
    operations = [event for event in profile.key_averages() if event.device_type == DeviceType.CPU]
    return {event.key: getattr(event, time_us) / 1e3 for event in operations}


if __name__ == "__main__":
    main(sys.argv[1:])
