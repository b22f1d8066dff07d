"""Pictures of a VOC tree: training crops with image labels or label maps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.transforms import channels_first, check_long_side, crop_image, crop_map, draw_crop
from formats.errors import InputError
from formats.images import check_size, decode_image, decode_size, load_aligned_grey, load_image, read_bytes
from formats.labels import IGNORE_LABEL, check_labels, load_label


class ClassificationTraining(Dataset):
    """Key (epoch, index) → image uint8 [3, S, S], image labels float32 [C] and, where there are saliency maps, that of
    the crop uint8 [1, S, S]; random by (seed, epoch, index) alone."""

    def __init__(
        self, images: Sequence[Path], image_labels: np.ndarray, crop_size: int, long_side, seed: int, maps=None
    ):
        self.images, self.image_labels, self.maps = images, image_labels.astype(np.float32), maps
        self.crop_size, self.long_side, self.seed = crop_size, check_long_side(long_side), seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        content = read_bytes(self.images[index])
        image_hw = decode_size(content, self.images[index])
        crop = draw_crop(image_hw, self.crop_size, self.long_side, rng)
        image = crop_image(decode_image(content, self.images[index], crop.reduction), crop)
        sample = channels_first(image), torch.from_numpy(self.image_labels[index])
        if not self.maps:
            return sample
        saliency = load_aligned_grey(self.maps[index], self.images[index], image_hw)
        return *sample, torch.from_numpy(crop_map(saliency, crop))[None]


class SegmentationTraining(Dataset):
    """Key (epoch, index) → image uint8 [3, S, S], label uint8 [S, S]; random by (seed, epoch, index) alone."""

    def __init__(
        self, images: Sequence[Path], labels: Sequence[Path], num_labels: int, crop_size: int, long_side, seed: int
    ):
        self.images, self.labels, self.num_labels = images, labels, num_labels
        self.crop_size, self.long_side, self.seed = crop_size, check_long_side(long_side), seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        rng = np.random.default_rng([self.seed, epoch, index])
        content, label = read_bytes(self.images[index]), load_label(self.labels[index])
        image_hw = decode_size(content, self.images[index])
        check_size(self.labels[index], label.shape, self.images[index], image_hw)
        check_labels(label, self.num_labels, self.labels[index])
        crop = draw_crop(image_hw, self.crop_size, self.long_side, rng)
        image = crop_image(decode_image(content, self.images[index], crop.reduction), crop)
        label = crop_map(label, crop, border=IGNORE_LABEL)
        return channels_first(image), torch.from_numpy(label)


def count_labels(labels: Sequence[Path], num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Over label files: how many hold each label, and of how many pixels it is. → int64 [L], int64 [L]"""
    images, pixels = np.zeros(num_labels, np.int64), np.zeros(num_labels, np.int64)
    for path in labels:
        label = load_label(path)
        check_labels(label, num_labels, path)
        counts = np.bincount(label.ravel(), minlength=256)[:num_labels]
        images, pixels = images + (counts > 0), pixels + counts
    return images, pixels


def check_any_labelled(labels: Sequence[Path]) -> None:
    """Raises `InputError` where every pixel of every label file is ignored; reads no more files than it takes."""
    if not any((load_label(path) != IGNORE_LABEL).any() for path in labels):
        raise InputError(
            f"{labels[0].parent}: every pixel of the {len(labels)} labels is {IGNORE_LABEL}, ignored: there is nothing "
            "to learn from or to score; make them again, or name others"
        )


def load_labelled(image_path, label_path, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Image RGB uint8 [H, W, 3] and label uint8 [H, W] in 0..num_labels-1 or 255, checked against each other."""
    image, label = load_image(image_path), load_label(label_path)
    check_size(label_path, label.shape, image_path, image.shape[:2])
    check_labels(label, num_labels, label_path)
    return image, label
