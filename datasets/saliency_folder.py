"""Pictures with object masks for the salient object network."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.transforms import SaliencyAugmentation, channels_first, draw_saliency_augmentation
from formats.images import (
    binarize_mask,
    check_size,
    decode_image,
    decode_size,
    load_aligned_grey,
    load_image,
    load_mask,
    read_bytes,
)

AT_ONCE = 4  # pictures: more take more memory, and no less time


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
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[tuple[int, int, int]]) -> list[tuple[torch.Tensor, ...]]:
        """Pictures of a batch, as PyTorch's loader asks for them: each step for a few of them before the next step,
        while its code is still in the cache."""
        parts = (keys[first : first + AT_ONCE] for first in range(0, len(keys), AT_ONCE))
        return [picture for part in parts for picture in self.pictures(part)]

    def pictures(self, keys: list[tuple[int, int, int]]) -> Iterator[tuple[torch.Tensor, ...]]:
        paths = [self.files_of(index) for _, index, _ in keys]
        contents = [self.read(files[0]) for files in paths]
        sizes_hw = [decode_size(content, files[0]) for content, files in zip(contents, paths)]
        rngs = [np.random.default_rng([self.seed, epoch, index]) for epoch, index, _ in keys]
        drawn = [draw_saliency_augmentation(hw, key[2], rng) for hw, key, rng in zip(sizes_hw, keys, rngs)]
        # one after the other and before the images, for a mask in full size may take much memory
        maps = [self.load_maps(*made_of) for made_of in zip(paths, sizes_hw, drawn)]
        images = [
            decode_image(content, files[0], each.crop.reduction) for content, files, each in zip(contents, paths, drawn)
        ]
        images = [each.of_image(image, rng, self.colour_jitter) for each, image, rng in zip(drawn, images, rngs)]
        for image, greys in zip(images, maps):
            yield channels_first(image), *(torch.from_numpy(grey)[None] for grey in greys)

    def load_maps(self, files: list[Path], image_hw: tuple[int, int], drawn: SaliencyAugmentation) -> list[np.ndarray]:
        """Mask of 0 and 255 and, if there is one, edge map as they are drawn, uint8 [S, S]."""
        mask, *edges = (load_aligned_grey(path, files[0], image_hw, self.read) for path in files[1:])
        return [drawn.of_map(grey) for grey in (binarize_mask(mask).view(np.uint8) * 255, *edges)]

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
