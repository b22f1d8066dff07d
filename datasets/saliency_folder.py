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
        image, mask = load_pair(*self.pairs[index], self.read)
        rng = np.random.default_rng([self.seed, epoch, index])
        image, mask = augment_saliency(image, mask.astype(np.uint8), self.image_size, rng, self.colour_jitter)
        return torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask).float()[None]

    def read(self, path: Path) -> bytes:
        return self.contents[path] if path in self.contents else read_bytes(path)


def load_pair(image_path, mask_path, read=read_bytes) -> tuple[np.ndarray, np.ndarray]:
    """Image RGB uint8 [H, W, 3] and mask bool [H, W], as on disk; `read` gives the bytes of a path."""
    image, mask = decode_image(read(image_path), image_path), binarize_mask(decode_grey(read(mask_path), mask_path))
    if image.shape[:2] != mask.shape:
        raise InputError(
            f"{image_path} is {image.shape[1]}×{image.shape[0]} px, "
            f"but its mask {mask_path} is {mask.shape[1]}×{mask.shape[0]} px"
        )
    return image, mask


def cached_share(mode: str, num_pairs: int, rank: int, size: int) -> range:
    """Indices to hold in memory: none (no), every `size`-th from `rank` (part), or all (full)."""
    return {"no": range(0), "part": range(rank, num_pairs, size), "full": range(num_pairs)}[mode]
