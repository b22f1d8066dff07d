"""Images of a VOC tree: training crops with image labels or label maps."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.transforms import Crop, channels_first, check_long_side, crop_image, crop_map, draw_crop
from formats.errors import InputError
from formats.images import check_size, decode_image, image_size, load_aligned_grey, load_image, read_bytes
from formats.labels import IGNORE_LABEL, check_labels, lack_classes, load_label
from formats.voc_layout import files_of_ids, find_photographs


class RandomCrops(Dataset):
    """Crops of images; each is a function of (seed, epoch, index) alone, where (epoch, index) is the key."""

    def __init__(self, images: Sequence[Path], crop_size: int, long_side, seed: int):
        self.images, self.crop_size, self.seed = images, crop_size, seed
        self.long_side = check_long_side(long_side)

    def __len__(self) -> int:
        return len(self.images)

    def load_crop(self, epoch: int, index: int) -> tuple[torch.Tensor, Crop]:
        """Draw a crop and decode no more of the image than it needs: uint8 [3, S, S], and the crop."""
        path, rng = self.images[index], np.random.default_rng([self.seed, epoch, index])
        content = read_bytes(path)
        crop = draw_crop(image_size(content, path), self.crop_size, self.long_side, rng)
        return channels_first(crop_image(decode_image(content, path, crop.reduction), crop)), crop


class ClassificationTraining(RandomCrops):
    """Crops with image labels: key (epoch, index) → image uint8 [3, S, S], image labels float32 [C].

    With `maps`, a `GreyMap` of saliency for each image, a third value follows: uint8 [1, S, S].
    """

    def __init__(self, images, image_labels: np.ndarray, crop_size: int, long_side, seed: int, maps=None):
        super().__init__(images, crop_size, long_side, seed)
        self.image_labels, self.maps = image_labels.astype(np.float32), maps

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        image, crop = self.load_crop(epoch, index)
        sample = image, torch.from_numpy(self.image_labels[index])
        if not self.maps:
            return sample
        saliency = load_aligned_grey(self.maps[index], self.images[index], crop.image_hw)
        return *sample, torch.from_numpy(crop_map(saliency, crop))[None]


class SegmentationTraining(RandomCrops):
    """Crops with label maps: key (epoch, index) → image uint8 [3, S, S], label uint8 [S, S]."""

    def __init__(self, images, labels: Sequence[Path], num_labels: int, crop_size: int, long_side, seed: int):
        super().__init__(images, crop_size, long_side, seed)
        self.labels, self.num_labels = labels, num_labels

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        image, crop = self.load_crop(epoch, index)
        label = load_label(self.labels[index])
        check_size(self.labels[index], label.shape, self.images[index], crop.image_hw)
        check_labels(label, self.num_labels, self.labels[index])
        return image, torch.from_numpy(crop_map(label, crop, border=IGNORE_LABEL))


def count_labels(labels: Sequence[Path], num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the label files that contain each label, and its pixels: int64 [L], int64 [L]."""
    images, pixels = np.zeros(num_labels, np.int64), np.zeros(num_labels, np.int64)
    for path in labels:
        label = load_label(path)
        check_labels(label, num_labels, path)
        counts = np.bincount(label.ravel(), minlength=256)[:num_labels]
        images, pixels = images + (counts > 0), pixels + counts
    return images, pixels


def find_labelled_images(ids: list[str], voc_root, folder) -> list[tuple[Path, Path]]:
    """Find the image and the label of every id, with labels in `folder`.

    Raises `InputError` for missing files, and if the labels hold 255, but no class.
    """
    images, labels = find_photographs(voc_root, ids), files_of_ids(folder, ids, ".png")
    if lack_classes(labels):
        found = f"{folder}: the {len(labels)} labels hold only 255 (ignored) and 0 (background), no class"
        raise InputError(f"{found}: save masks of one class as 0 and 1, or choose other labels")
    return list(zip(images, labels))


def load_labelled(image_path, label_path, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Load an image, RGB uint8 [H, W, 3], and its label map, uint8 [H, W] of 0..num_labels-1 and 255.

    Raises `InputError` if their sizes differ or a label does not exist.
    """
    image, label = load_image(image_path), load_label(label_path)
    check_size(label_path, label.shape, image_path, image.shape[:2])
    check_labels(label, num_labels, label_path)
    return image, label
