"""Pictures with object masks for the salient object network."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.paired_transforms import augment_saliency
from image_files import binarize_mask, decode_grey, decode_image, read_bytes
from input_errors import InputError


class SaliencyTraining(Dataset):
    """Augmented training pairs: key (epoch, index) → image uint8 [3, S, S], mask float32 [1, S, S] of 0 and 1.

    The augmentation is a function of (seed, epoch, index) alone. `cached`: indices whose two files are held in
    memory, as they are on disk. `colour_jitter`: strength of the change of colours, 0..1.
    """

    def __init__(
        self, pairs: list[tuple[Path, Path]], image_size: int, seed: int, cached=(), colour_jitter: float = 1.0
    ):
        self.pairs, self.image_size, self.seed, self.colour_jitter = pairs, image_size, seed, colour_jitter
        self.contents = {path: read_bytes(path) for index in cached for path in pairs[index]}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        image, mask = self.load(index)
        rng = np.random.default_rng([self.seed, epoch, index])
        image, mask = augment_saliency(image, mask, self.image_size, rng, self.colour_jitter)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask).float()[None]

    def load(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Image RGB uint8 [H, W, 3] and mask uint8 [H, W] of 0 and 1, as on disk."""
        image_path, mask_path = self.pairs[index]
        image = decode_image(self.read(image_path), image_path)
        mask = binarize_mask(decode_grey(self.read(mask_path), mask_path)).astype(np.uint8)
        if image.shape[:2] != mask.shape:
            raise InputError(f"{image_path} is {_size(image)}, but its mask {mask_path} is {_size(mask)}")
        return image, mask

    def read(self, path: Path) -> bytes:
        return self.contents[path] if path in self.contents else read_bytes(path)


def cached_share(mode: str, num_pairs: int, rank: int, size: int) -> range:
    """Indices to hold in memory: none (no), every `size`-th from `rank` (part), or all (full)."""
    return {"no": range(0), "part": range(rank, num_pairs, size), "full": range(num_pairs)}[mode]


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}×{image.shape[0]} px"
