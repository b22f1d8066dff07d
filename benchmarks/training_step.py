"""Time of the training step of our scripts, compared with a plain loop.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --network saliency -- --backbone swin-small --train_batch 8
    python -m benchmarks.training_step -- --data_dir data/voc12 --label_name SegmentationClassAug

Flags after `--` are those of train_segmentation.py or SOD_train.py; the default batches are smaller on CPUs. Scenes are
drawn unless the flags name data. Both sides have the same network with random weights, and take turns on one batch in
memory. The plain loop: float32 without TF32, contiguous and pageable memory, PyTorch's default optimizer, `.item()` of
each loss. See benchmarks/timing.py.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import options
import SOD_train
import train_segmentation
from benchmarks.report import device_kind, save_page, time_cells
from benchmarks.timing import milliseconds
from datasets.distributed_batch_sampler import DistributedBatchSampler, build_loader
from datasets.drawn_scenes import write_saliency_scenes, write_voc_scenes
from datasets.saliency_folder import SaliencyTraining
from datasets.voc12 import SegmentationTraining, find_labelled_images
from formats.labels import IGNORE_LABEL
from formats.saliency_layout import training_pairs
from formats.voc_layout import find_voc_root, label_folder, list_path, load_class_names, load_ids
from metrics.tables import markdown_table
from models.saliency_and_edge_losses import saliency_objective, to_unit_range
from models.saliency_net import build_saliency_net
from utils.distributed import World
from utils.memory import memory_format
from utils.precision import allow_tf32, loss_scaler
from utils.schedules import build_optimizer, parameter_groups
from utils.training_state import TrainingState

FLAGS = {"segmentation": "--pretrained none --lr 1e-4", "saliency": "--pretrained none"}  # default rates may diverge
CPU_FLAGS = {"segmentation": "--train_batch 2 --crop_size 320", "saliency": "--train_batch 4"}
NUM_DRAWN, DRAWN_HW = 32, (375, 500)


class Segmentation:
    """Data, network and step of train_segmentation.py."""

    clip = 0.0

    def __init__(self, flags: list[str]):
        args = self.args = options.train_segmentation().parse_args(flags)
        voc_root = find_voc_root(args.data_dir)
        ids = load_ids(list_path(args.list_dir, args.train_list))
        pairs = find_labelled_images(ids, voc_root, label_folder(args.label_name, voc_root))
        self.classes = list(load_class_names(voc_root))
        self.data = SegmentationTraining(*zip(*pairs), len(self.classes) + 1, args.crop_size, args.long_side, args.seed)
        self.batches = DistributedBatchSampler(len(pairs), args.train_batch, args.seed)
        self.side_px = args.crop_size

    def build(self) -> nn.Module:
        names = ("head_width", "use_gn", "mode", "output_stride")
        settings = options.backbone_settings(self.args) | {"classes": self.classes}
        settings |= {name: getattr(self.args, name) for name in names}
        return train_segmentation.build_network(settings, self.args, resumes=True)

    def optimizer(self, network: nn.Module):
        args = self.args
        groups = parameter_groups(network, args.head_lr, bias_factor=2.0)
        return build_optimizer(groups, args.optimizer, args.lr, args.momentum, args.weight_decay)

    def plain_optimizer(self, network: nn.Module):
        settings = {name: getattr(self.args, name) for name in ("lr", "momentum", "weight_decay")}
        return torch.optim.SGD(network.parameters(), **settings, nesterov=True)

    def plain_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE_LABEL)

    def train_step(self, network: nn.Module, state: TrainingState, batch: list[Tensor]) -> None:
        world = World(rank=0, size=1, device=batch[0].device)
        train_segmentation.train_step(network, state, batch, None, self.args, world)


class Saliency:
    """Data, network and step of SOD_train.py."""

    def __init__(self, flags: list[str]):
        args = self.args = options.SOD_train().parse_args(flags)
        pairs = training_pairs(args.train_root)
        self.data = SaliencyTraining(pairs, args.seed, colour_jitter=args.colour_jitter)
        self.batches = DistributedBatchSampler(len(pairs), args.train_batch, args.seed, sides_px=[args.image_size])
        self.side_px, self.clip = args.image_size, args.clip

    def build(self) -> nn.Module:
        args, settings = self.args, options.backbone_settings(self.args)
        settings |= {"decoder_width": args.decoder_width, "image_size": args.image_size}
        return build_saliency_net(settings, dropout=args.dropout, edge_drop_path=args.edge_drop_path)

    def optimizer(self, network: nn.Module):
        return build_optimizer([{"params": list(network.parameters())}], "adam", self.args.lr)

    def plain_optimizer(self, network: nn.Module):
        return torch.optim.Adam(network.parameters(), lr=self.args.lr)

    def plain_loss(self, outputs: dict, masks: Tensor) -> Tensor:
        return saliency_objective(outputs, to_unit_range(masks), self.args.edge_loss)["loss"]

    def train_step(self, network: nn.Module, state: TrainingState, batch: list[Tensor]) -> None:
        SOD_train.train_step(network, state, batch, self.args)


TASKS = {"segmentation": Segmentation, "saliency": Saliency}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Speed of the training step.")
    parser.add_argument("--network", choices=TASKS, default="segmentation", help="which script")
    parser.add_argument("--turns", type=int, default=5, help="steps per side, after the warm-up; the fastest counts")
    parser.add_argument("flags", nargs="*", help="flags of the script, after --")
    args = parser.parse_args(argv)
    row = measure(args.network, args.flags, args.turns)
    table = markdown_table(["", "plain loop, ms/step", "the script, ms/step", "speed-up"], [time_cells(row)])
    save_page(f"training_step_{args.network}_{device_kind()}", "training_step", argv, [table])


def measure(network: str, flags: list[str], turns: int) -> dict:
    """Measure both sides: name, ms and largest GB (0 on CPUs) of a step of each, and 10¹² operations of a step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        preset = FLAGS[network].split() + (CPU_FLAGS[network].split() if device.type == "cpu" else [])
        task = TASKS[network]([*preset, *data_flags(network, flags, Path(folder)), *flags])
        batch = next(iter(build_loader(task.data, task.batches, 0, device)))
    ways, row = {}, {"name": f"{task.args.backbone}, {task.side_px} px, batch {task.args.train_batch}, {device.type}"}
    for name, build in (("plain", plain_step), ("ours", our_step)):
        before = torch.cuda.memory_allocated()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        ways[name] = partial(run_step, build(task, device, batch), name == "ours", device)
        with FlopCounterMode(display=False) as counter:
            ways[name](None)
        ways[name](None)  # the optimizer has its state now
        row[f"{name}_gb"] = (torch.cuda.max_memory_allocated() - before) / 1e9
    ms = milliseconds(ways, [["batch"]], turns)
    return row | {"plain_ms": ms["plain"], "ours_ms": ms["ours"], "tflop": counter.get_total_flops() / 1e12}


def data_flags(network: str, flags: list[str], folder: Path) -> list[str]:
    """Flags of drawn scenes of the size of VOC photographs, written to `folder`; none if the flags name data."""
    if {"--train_root", "--label_name"}.intersection(flags):
        return []
    if network == "saliency":
        write_saliency_scenes(folder / "DRAWN", NUM_DRAWN, 0, *DRAWN_HW)
        return ["--train_root", str(folder)]
    write_voc_scenes(folder / "VOC2012", folder / "lists", NUM_DRAWN, 1, 0, *DRAWN_HW)
    return ["--data_dir", str(folder), "--list_dir", str(folder / "lists"), "--label_name", "SegmentationClassAug"]


def plain_step(task, device: torch.device, batch: list[Tensor]) -> Callable[[], None]:
    """The step of a plain loop."""
    network = task.build().train()
    pageable = network.backbone.normalise(batch[0]), batch[1].clone()
    optimizer = task.plain_optimizer(network.to(device))

    def step() -> None:
        images, target = (tensor.to(device) for tensor in pageable)
        optimizer.zero_grad()
        loss = task.plain_loss(network(images), target)
        loss.backward()
        if task.clip:
            nn.utils.clip_grad_value_(network.parameters(), task.clip)
        optimizer.step()
        loss.item()

    return step


def our_step(task, device: torch.device, batch: list[Tensor]) -> Callable[[], None]:
    """The step of our script, by its own functions."""
    layout = torch.channels_last if isinstance(task, Saliency) else memory_format(device)
    network = task.build().to(device, memory_format=layout).train()
    names, scaler = [str(number) for number in range(len(batch[0]))], loss_scaler(device, task.args.amp)
    batches = DistributedBatchSampler(len(names), len(names), seed=0)
    state = TrainingState("", {}, network, task.optimizer(network), scaler, names, batches)
    return lambda: task.train_step(network, state, [tensor.to(device, non_blocking=True) for tensor in batch])


def run_step(step: Callable[[], None], tf32: bool, device: torch.device, _) -> None:
    allow_tf32(tf32)
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
