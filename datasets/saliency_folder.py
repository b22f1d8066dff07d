"""Images with object masks for training the salient object network."""

from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.transforms import change_colours, channels_first, crop_image, crop_map, draw_saliency_crop
from formats import images


class SaliencyTraining(Dataset):
    """Augmented training pairs: key (epoch, index, side S) → image uint8 [3, S, S], mask uint8 [1, S, S] of 0 and 255.

    With `edges`, an edge map for each pair, a third value follows: edge uint8 [1, S, S]. The augmentation is a function
    of (seed, epoch, index) alone. The files of the indices `cached` are held in memory, as they are on disk.
    `colour_jitter` is the strength of the colour changes, 0..1.
    """

    def __init__(
        self,
        pairs: list[tuple[Path, Path]],
        seed: int,
        edges: list[images.GreyMap] | None = None,
        cached=(),
        colour_jitter: float = 1.0,
    ):
        self.pairs, self.seed, self.edges, self.colour_jitter = pairs, seed, edges, colour_jitter
        self.contents = {path: images.read_bytes(path) for index in cached for path in self.list_paths(index)}

    def __len__(self) -> int:
        return len(self.pairs)

    def list_paths(self, index: int) -> list[Path]:
        return [*self.pairs[index], *([self.edges[index].path] if self.edges else [])]

    def __getitem__(self, key: tuple[int, int, int]) -> tuple[torch.Tensor, ...]:
        epoch, index, side_px = key
        image_path, mask_path = self.pairs[index]
        content = self.read(image_path)
        image_hw = images.image_size(content, image_path)
        rng = np.random.default_rng([self.seed, epoch, index])
        crop = draw_saliency_crop(image_hw, side_px, rng)
        files = [images.GreyMap(mask_path), *([self.edges[index]] if self.edges else [])]
        mask, *edges = (images.load_aligned_grey(file, image_path, image_hw, self.read) for file in files)
        maps = [crop_map(grey, crop) for grey in (images.binarize_mask(mask).view(np.uint8) * 255, *edges)]
        image = crop_image(images.decode_image(content, image_path, crop.reduction), crop)
        image = change_colours(image, rng, self.colour_jitter)
        return channels_first(image), *(torch.from_numpy(grey)[None] for grey in maps)

    def read(self, path: Path) -> bytes:
        return self.contents[path] if path in self.contents else images.read_bytes(path)


def load_pair(image_path, mask_path) -> tuple[np.ndarray, np.ndarray]:
    """Load an image, RGB uint8 [H, W, 3], and its mask, bool [H, W], at their original size."""
    image, mask = images.load_image(image_path), images.load_mask(mask_path)
    images.check_size(mask_path, mask.shape, image_path, image.shape[:2])
    return image, mask


def cached_share(mode: str, num_pairs: int, rank: int, size: int) -> range:
    """Return the indices to hold in memory: none (no), every `size`-th from `rank` on (part), or all (full)."""
    return {"no": range(0), "part": range(rank, num_pairs, size), "full": range(num_pairs)}[mode]
