"""Pictures with object masks for the salient object network."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.paired_transforms import channels_first, draw_saliency_augmentation
from image_files import (
    binarize_mask,
    check_size,
    decode_grey,
    decode_image,
    load_grey_of,
    load_image,
    load_mask,
    read_bytes,
)
from image_headers import size_in_header


class SaliencyTraining(Dataset):
    """Augmented training pairs: key (epoch, index, side S) → image uint8 [3, S, S], mask uint8 [1, S, S] of 0 and 255.

    With `edges`, the path of an edge map for each pair, a third value follows: edge uint8 [1, S, S]. The augmentation
    is a function of (seed, epoch, index) alone. `cached`: indices whose files are held in memory, as they are on disk.
    `colour_jitter`: strength of the change of colours, 0..1.
    """

    def __init__(
        self,
        pairs: list[tuple[Path, Path]],
        seed: int,
        edges: list[Path] | None = None,
        cached=(),
        colour_jitter: float = 1.0,
    ):
        self.pairs, self.seed, self.edges, self.colour_jitter = pairs, seed, edges, colour_jitter
        self.contents = {path: read_bytes(path) for index in cached for path in self.files_of(index)}

    def __len__(self) -> int:
        return len(self.pairs)

    def files_of(self, index: int) -> list[Path]:
        return [*self.pairs[index], *([self.edges[index]] if self.edges else [])]

    def __getitem__(self, key: tuple[int, int, int]):
        epoch, index, side_px = key
        image_path, mask_path = self.pairs[index]
        content = self.read(image_path)
        image_hw = size_in_header(content, image_path)
        mask = binarize_mask(decode_grey(self.read(mask_path), mask_path))
        check_size(mask_path, mask.shape, image_path, image_hw)
        maps = [mask.view(np.uint8) * 255]
        if self.edges:
            maps.append(load_grey_of(self.edges[index], image_path, image_hw, self.read))
        rng = np.random.default_rng([self.seed, epoch, index])
        drawn = draw_saliency_augmentation(image_hw, side_px, rng)
        image = drawn.of_image(decode_image(content, image_path, drawn.crop.reduction), rng, self.colour_jitter)
        return channels_first(image), *(torch.from_numpy(drawn.of_map(grey))[None] for grey in maps)

    def read(self, path: Path) -> bytes:
        return self.contents[path] if path in self.contents else read_bytes(path)


def load_pair(image_path, mask_path) -> tuple[np.ndarray, np.ndarray]:
    """Image RGB uint8 [H, W, 3] and mask bool [H, W], as on disk."""
    image, mask = load_image(image_path), load_mask(mask_path)
    check_size(mask_path, mask.shape, image_path, image.shape[:2])
    return image, mask


def cached_share(mode: str, num_pairs: int, rank: int, size: int) -> range:
    """Indices to hold in memory: none (no), every `size`-th from `rank` (part), or all (full)."""
    return {"no": range(0), "part": range(rank, num_pairs, size), "full": range(num_pairs)}[mode]
