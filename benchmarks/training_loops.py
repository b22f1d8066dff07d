"""What benchmarks/training_step.py measures: a plain training loop as WSSS code has it, and the loop of our scripts."""

from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import options
import SOD_train
import train_segmentation
from benchmarks.plain_networks import as_published
from datasets.epoch_batches import EpochBatches, build_loader
from datasets.saliency_folder import SaliencyTraining
from datasets.voc12 import SegmentationTraining
from formats.labels import IGNORE_LABEL
from formats.saliency_layout import training_pairs
from formats.voc_layout import find_voc_root, label_folder, list_path, load_class_names, load_ids
from models.saliency_losses import saliency_objective, unit_range
from models.saliency_net import build_saliency_net
from utils.distributed import World, seed_step
from utils.memory import memory_format
from utils.precision import half_type, loss_scaler, multiply_in_tf32
from utils.schedules import build_optimizer, parameter_groups, set_lr
from utils.training_state import TrainingState


class Segmentation:
    """What train_segmentation.py does by its flags, from random weights."""

    clip = 0.0

    def __init__(self, flags: list[str]):
        args = self.args = options.train_segmentation().parse_args(flags)
        voc_root = find_voc_root(args.data_dir)
        ids = load_ids(list_path(args.list_dir, args.train_list))
        self.classes = load_class_names(voc_root)
        self.pairs = train_segmentation.labelled_images(ids, voc_root, label_folder(args.label_name, voc_root))
        self.side_px = args.crop_size

    def build(self) -> nn.Module:
        names = ("head_width", "use_gn", "mode", "output_stride")
        settings = options.backbone_settings(self.args) | {"classes": list(self.classes)}
        settings |= {name: getattr(self.args, name) for name in names}
        return train_segmentation.build_network(settings, self.args, resumes=True)

    def layout(self, device: torch.device) -> torch.memory_format:
        return memory_format(device)

    def loader(self, steps: int, workers: int, device: torch.device):
        """The script's loader over so many steps; there are as many files as it takes, each as often as it takes."""
        args, num_samples = self.args, steps * self.args.train_batch
        pairs = (self.pairs * (num_samples // len(self.pairs) + 1))[:num_samples]
        dataset = SegmentationTraining(
            *zip(*pairs), len(self.classes) + 1, args.crop_size, args.long_side, seed=args.seed
        )
        return build_loader(dataset, EpochBatches(num_samples, args.train_batch, args.seed), workers, device)

    def optimizer(self, network: nn.Module):
        args = self.args
        groups = parameter_groups(network, args.head_lr, bias_factor=2.0)
        return build_optimizer(groups, args.optimizer, args.lr, args.momentum, args.weight_decay)

    def plain_optimizer(self, network: nn.Module, fused: bool | None):
        args = self.args
        settings = {"lr": args.lr, "momentum": args.momentum, "weight_decay": args.weight_decay, "nesterov": True}
        return torch.optim.SGD(network.parameters(), **settings, fused=fused)

    def plain_target(self, labels: Tensor) -> Tensor:
        return labels.long()

    def plain_loss(self, output: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(output.float(), labels, ignore_index=IGNORE_LABEL)

    def train_step(self, model, state: TrainingState, batch: list[Tensor]) -> None:
        world = World(rank=0, size=1, device=batch[0].device, is_main=True)
        train_segmentation.train_step(model, state, batch, None, self.args, world)


class Saliency:
    """What SOD_train.py does by its flags, from random weights."""

    def __init__(self, flags: list[str]):
        args = self.args = options.SOD_train().parse_args(flags)
        self.pairs = training_pairs(args.train_root)
        self.side_px, self.clip = args.image_size, args.clip

    def build(self) -> nn.Module:
        args = self.args
        settings = {"decoder_width": args.decoder_width, "image_size": args.image_size}
        settings |= options.backbone_settings(args)
        return build_saliency_net(settings, dropout=args.dropout, edge_drop_path=args.edge_drop_path)

    def layout(self, device: torch.device) -> torch.memory_format:
        return torch.channels_last

    def loader(self, steps: int, workers: int, device: torch.device):
        """See `Segmentation.loader`."""
        args, num_samples = self.args, steps * self.args.train_batch
        pairs = (self.pairs * (num_samples // len(self.pairs) + 1))[:num_samples]
        dataset = SaliencyTraining(pairs, args.seed, colour_jitter=args.colour_jitter)
        batches = EpochBatches(num_samples, args.train_batch, args.seed, sides_px=[args.image_size])
        return build_loader(dataset, batches, workers, device)

    def optimizer(self, network: nn.Module):
        return build_optimizer([{"params": list(network.parameters())}], "adam", self.args.lr)

    def plain_optimizer(self, network: nn.Module, fused: bool | None):
        return torch.optim.Adam(network.parameters(), lr=self.args.lr, fused=fused)

    def plain_target(self, masks: Tensor) -> Tensor:
        return unit_range(masks)

    def plain_loss(self, output: dict, masks: Tensor) -> Tensor:
        return saliency_objective(output, masks, self.args.edge_loss)["loss"]

    def train_step(self, model, state: TrainingState, batch: list[Tensor]) -> None:
        SOD_train.train_step(model, state, batch, self.args)


TASKS = {"segmentation": Segmentation, "saliency": Saliency}


class PlainLoop:
    """A loop as WSSS code has it, with some of our changes or none: float32 without TF32, contiguous memory, float
    images and wide targets from ordinary memory, the optimizer that PyTorch chooses, `.item()` of each loss."""

    def __init__(self, task, device: torch.device, batch: list[Tensor], **changes):
        self.task, self.device, self.changes = task, device, changes
        self.layout = torch.channels_last if changes.get("channels_last") else torch.contiguous_format
        self.network = as_published(task.build()).train()
        self.batch = self.network.backbone.normalise(batch[0]), task.plain_target(batch[1]).clone()
        self.network.to(device, memory_format=self.layout)
        self.model = torch.compile(self.network) if changes.get("compile") else self.network
        self.optimizer = task.plain_optimizer(self.network, changes.get("fused"))
        amp = "cpu" if changes.get("amp") else False
        self.half, self.scaler = half_type(device, amp), loss_scaler(device, amp)

    @contextmanager
    def settings(self):
        """What is set for the whole process while it runs."""
        multiply_in_tf32(self.changes.get("tf32", False))
        torch.backends.cudnn.benchmark = self.changes.get("cudnn_benchmark", False)
        yield
        torch.backends.cudnn.benchmark = False
        self.optimizer.zero_grad()  # leaves the memory to the others

    def step(self) -> float:
        images, target = (tensor.to(self.device) for tensor in self.batch)
        images = images.contiguous(memory_format=self.layout)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, dtype=self.half or torch.bfloat16, enabled=self.half is not None):
            output = self.model(images)
        loss = self.task.plain_loss(output, target)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        if self.task.clip:
            nn.utils.clip_grad_value_(self.network.parameters(), self.task.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.item()


class OurLoop:
    """The body of the loop in our scripts: what they do with each batch, by their own functions."""

    def __init__(self, task, device: torch.device, batch: list[Tensor]):
        args = task.args
        self.task, self.device, self.batch = task, device, batch
        network = task.build().to(device, memory_format=task.layout(device)).train()
        self.model = torch.compile(network) if args.compile else network
        optimizer = task.optimizer(network)
        batches = EpochBatches(args.train_batch, args.train_batch, args.seed)
        names = [str(number) for number in range(args.train_batch)]
        self.state = TrainingState(network, optimizer, loss_scaler(device, args.amp), names, batches)

    @contextmanager
    def settings(self):
        multiply_in_tf32(not self.task.args.deterministic)
        yield
        self.state.optimizer.zero_grad()

    def step(self, batch: list[Tensor] | None = None) -> None:
        seed_step(self.task.args.seed, 0, self.state.step, 0)
        set_lr(self.state.optimizer, 1.0)
        batch = [tensor.to(self.device, non_blocking=True) for tensor in batch or self.batch]
        self.task.train_step(self.model, self.state, batch)
        if self.state.step % train_segmentation.LOSS_EVERY == 0:
            self.state.mean_loss()
