"""Time of the training step of our scripts, compared with a plain loop.

    python -m benchmarks.training_step
    python -m benchmarks.training_step --network saliency -- --backbone swin-small --train_batch 8
    python -m benchmarks.training_step -- --data_dir data/voc12 --label_name SegmentationClassAug

Flags after `--` are those of train_segmentation.py or SOD_train.py; the default batches are smaller on CPUs. Scenes are
drawn unless the flags name data. All sides have the same network with random weights. The plain loop: float32 without
TF32, contiguous and pageable memory, PyTorch's default optimizer, `.item()` of each loss. The sides take turns on one
batch in memory; after a warm-up, the fastest turn counts.
"""

import argparse
import shlex
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import options
import SOD_train
import train_segmentation
from benchmarks.report import device_kind, environment_line, save_page
from datasets.drawn_scenes import write_saliency_scenes, write_voc_scenes
from datasets.epoch_batches import EpochBatches, build_loader
from datasets.saliency_folder import SaliencyTraining
from datasets.voc12 import SegmentationTraining
from formats.labels import IGNORE_LABEL
from formats.saliency_layout import training_pairs
from formats.voc_layout import find_voc_root, label_folder, list_path, load_class_names, load_ids
from metrics.tables import markdown_table
from models.saliency_losses import saliency_objective, to_unit_range
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
        self.classes = list(load_class_names(voc_root))
        self.pairs = train_segmentation.labelled_images(ids, voc_root, label_folder(args.label_name, voc_root))
        self.side_px = args.crop_size

    def build(self) -> nn.Module:
        names = ("head_width", "use_gn", "mode", "output_stride")
        settings = options.backbone_settings(self.args) | {"classes": self.classes}
        settings |= {name: getattr(self.args, name) for name in names}
        return train_segmentation.build_network(settings, self.args, resumes=True)

    def loader(self, steps: int, workers: int, device: torch.device):
        """The loader of the script over `steps` batches; files are repeated as needed."""
        args, num_samples = self.args, steps * self.args.train_batch
        pairs = zip(*islice(cycle(self.pairs), num_samples))
        dataset = SegmentationTraining(*pairs, len(self.classes) + 1, args.crop_size, args.long_side, args.seed)
        return build_loader(dataset, EpochBatches(num_samples, args.train_batch, args.seed), workers, device)

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
        world = World(rank=0, size=1, device=batch[0].device, is_main=True)
        train_segmentation.train_step(network, state, batch, None, self.args, world)


class Saliency:
    """Data, network and step of SOD_train.py."""

    def __init__(self, flags: list[str]):
        args = self.args = options.SOD_train().parse_args(flags)
        self.pairs = training_pairs(args.train_root)
        self.side_px, self.clip = args.image_size, args.clip

    def build(self) -> nn.Module:
        args, settings = self.args, options.backbone_settings(self.args)
        settings |= {"decoder_width": args.decoder_width, "image_size": args.image_size}
        return build_saliency_net(settings, dropout=args.dropout, edge_drop_path=args.edge_drop_path)

    def loader(self, steps: int, workers: int, device: torch.device):
        args, num_samples = self.args, steps * self.args.train_batch
        pairs = list(islice(cycle(self.pairs), num_samples))
        dataset = SaliencyTraining(pairs, args.seed, colour_jitter=args.colour_jitter)
        batches = EpochBatches(num_samples, args.train_batch, args.seed, sides_px=[args.image_size])
        return build_loader(dataset, batches, workers, device)

    def optimizer(self, network: nn.Module):
        return build_optimizer([{"params": list(network.parameters())}], "adam", self.args.lr)

    def plain_optimizer(self, network: nn.Module):
        return torch.optim.Adam(network.parameters(), lr=self.args.lr)

    def plain_loss(self, outputs: dict, masks: Tensor) -> Tensor:
        return saliency_objective(outputs, to_unit_range(masks), self.args.edge_loss)["loss"]

    def train_step(self, network: nn.Module, state: TrainingState, batch: list[Tensor]) -> None:
        SOD_train.train_step(network, state, batch, self.args)


TASKS = {"segmentation": Segmentation, "saliency": Saliency}


class PlainLoop:
    """One step of a plain loop."""

    tf32 = False

    def __init__(self, task, device: torch.device, batch: list[Tensor]):
        self.task, self.device = task, device
        self.network = task.build().train()
        self.batch = self.network.backbone.normalise(batch[0]), batch[1].clone()
        self.network.to(device)
        self.optimizer = task.plain_optimizer(self.network)

    def step(self) -> None:
        images, target = (tensor.to(self.device) for tensor in self.batch)
        self.optimizer.zero_grad()
        loss = self.task.plain_loss(self.network(images), target)
        loss.backward()
        if self.task.clip:
            nn.utils.clip_grad_value_(self.network.parameters(), self.task.clip)
        self.optimizer.step()
        loss.item()


class ScriptLoop:
    """One step of our script, by its own functions."""

    tf32 = True

    def __init__(self, task, device: torch.device, batch: list[Tensor]):
        layout = torch.channels_last if isinstance(task, Saliency) else memory_format(device)
        self.task, self.device, self.batch = task, device, batch
        self.network = task.build().to(device, memory_format=layout).train()
        self.optimizer = task.optimizer(self.network)
        names = [str(number) for number in range(len(batch[0]))]
        batches, scaler = EpochBatches(len(names), len(names), seed=0), loss_scaler(device, task.args.amp)
        self.state = TrainingState("", {}, self.network, self.optimizer, scaler, names, batches)

    def step(self) -> None:
        batch = [tensor.to(self.device, non_blocking=True) for tensor in self.batch]
        self.task.train_step(self.network, self.state, batch)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Speed of the training step.")
    parser.add_argument("--network", choices=TASKS, default="segmentation", help="which script")
    parser.add_argument("--turns", type=int, default=6, help="turns per side, with the warm-up")
    parser.add_argument("--steps", type=int, default=1, help="steps per turn")
    parser.add_argument("flags", nargs="*", help="flags of the script, after --")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        flags = FLAGS[args.network].split() + (CPU_FLAGS[args.network].split() if device.type == "cpu" else [])
        task = TASKS[args.network]([*flags, *data_flags(args, Path(folder)), *args.flags])
        batch = next(iter(task.loader(1, 0, device)))
        loops = PlainLoop(task, device, batch), ScriptLoop(task, device, batch)
        turns = [[turn_s(loop, args.steps, device) for loop in loops] for _ in range(args.turns)]
    plain_s, ours_s = map(min, zip(*turns[1:]))
    title = f"{task.args.backbone}, {task.side_px} px, batch {task.args.train_batch}, {device.type}"
    row = [title, f"{1e3 * plain_s:.0f}", f"{1e3 * ours_s:.0f}", f"{plain_s / ours_s:.2f} ×"]
    table = markdown_table(["", "plain loop, ms/step", "the script, ms/step", "speed-up"], [row])
    command = f"python -m benchmarks.training_step {shlex.join(argv)}"
    save_page(f"training_step_{args.network}_{device_kind()}", command, [table, environment_line()])


def data_flags(args, folder: Path) -> list[str]:
    """Flags of drawn scenes of the size of VOC photographs, written to `folder`; none if the flags name data."""
    if {"--train_root", "--label_name"}.intersection(args.flags):
        return []
    if args.network == "saliency":
        write_saliency_scenes(folder / "DRAWN", NUM_DRAWN, 0, *DRAWN_HW)
        return ["--train_root", str(folder)]
    write_voc_scenes(folder / "VOC2012", folder / "lists", NUM_DRAWN, 1, 0, *DRAWN_HW)
    return ["--data_dir", str(folder), "--list_dir", str(folder / "lists"), "--label_name", "SegmentationClassAug"]


def turn_s(loop, steps: int, device: torch.device) -> float:
    allow_tf32(loop.tf32)
    started = read_clock(device)
    for _ in range(steps):
        loop.step()
    loop.optimizer.zero_grad()
    return (read_clock(device) - started) / steps


def read_clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main(sys.argv[1:])
