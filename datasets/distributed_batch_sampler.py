"""Assignment of images to batches: a function of seed, epoch and step alone, for any number of processes."""

import warnings

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from formats.errors import InputError
from utils import interruption


class DistributedBatchSampler:
    """Batches of keys (epoch, index) for process `rank` of `size` processes: a `batch_sampler` of PyTorch's DataLoader.

    Each epoch permutes the images. Global batch b consists of the images b * batch_size to (b + 1) * batch_size - 1 of
    the permutation, and each process takes every `size`-th of them. Images that do not fill the last batch are left
    out in this epoch; a data set smaller than a batch is one batch.

    The next iteration begins at `epoch` and `first_step`. With `sides_px`, keys are (epoch, index, side), and each
    batch draws one of the sides.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int, rank: int = 0, size: int = 1, sides_px=()):
        if batch_size % size:
            found = f"--train_batch {batch_size} cannot be divided among {size} processes"
            raise InputError(f"{found}: choose a multiple of {size}")
        if num_samples < size:
            raise InputError(f"{num_samples} images cannot be divided among {size} processes: use fewer processes")
        self.num_samples, self.batch_size, self.seed, self.rank, self.size = num_samples, batch_size, seed, rank, size
        self.sides_px = tuple(sides_px)
        self.epoch, self.first_step = 0, 0

    def check_parts(self, parts: int = 1, norm_needs_two: bool = True) -> None:
        """Raise `InputError` unless the share of each process can be divided into `parts` (--accumulate).

        With `norm_needs_two`, each part must have two images, because batch norm of maps of 1×1 px fails for one.
        """
        if self.batch_size // self.size % parts:
            found = f"--accumulate {parts} must divide {self.batch_size // self.size}, the images per step and process"
            raise InputError(f"{found} (--train_batch {self.batch_size}, {self.size} processes)")
        if min(self.batch_size, self.num_samples) // self.size // parts < 1 + norm_needs_two:
            found = f"{self.num_samples} images, --train_batch {self.batch_size}, {self.size} processes, {parts} parts"
            needed = "batch norm needs at least two images" if norm_needs_two else "a step needs at least one image"
            raise InputError(f"{found}: {needed} per part; raise --train_batch or lower --accumulate")

    def __len__(self) -> int:
        return max(1, self.num_samples // self.batch_size)

    def __iter__(self):
        order = self.draw_order(self.epoch)
        for step in range(self.first_step, len(self)):
            yield self._keys(order, step)

    def last_keys(self) -> list[tuple]:
        """Return the keys of this process in the last step of the epoch."""
        return self._keys(self.draw_order(self.epoch), len(self) - 1)

    def _keys(self, order: np.ndarray, step: int) -> list[tuple]:
        batch = order[step * self.batch_size : (step + 1) * self.batch_size]
        side = ()
        if self.sides_px:
            side = (int(np.random.default_rng([self.seed, self.epoch, step, 1]).choice(self.sides_px)),)
        return [(self.epoch, int(index), *side) for index in batch[self.rank :: self.size]]

    def draw_order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.num_samples)

    def list_indices(self, epoch: int, step: int) -> list[int]:
        """Return the indices of the images of a step, over all processes."""
        return self.draw_order(epoch)[step * self.batch_size : (step + 1) * self.batch_size].tolist()


def build_loader(dataset: Dataset, batches, workers: int, device: torch.device) -> DataLoader:
    """Build a loader over batches of keys. Its generator keeps the start of workers out of the global random state."""
    interruption.kill_workers_at_exit()
    # PyTorch warns about more workers than cores, which do no harm when images are decoded
    warnings.filterwarnings("ignore", message="This DataLoader will create")
    return DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        pin_memory=device.type == "cuda",
        persistent_workers=workers > 0,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(0),
    )


def _start_worker(worker_id: int) -> None:
    interruption.exit_with_parent(*interruption.SIGNALS)  # workers finish the current step after a signal
    cv2.setNumThreads(0)  # one thread per worker, because the workers run in parallel
    torch.set_num_threads(1)
