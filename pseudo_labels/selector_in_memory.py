"""The selector on labels in memory: image by image, before anyone knows the thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from formats.images import check_size, load_aligned_grey
from pseudo_labels.fusion_inputs import load_checked_cams
from pseudo_labels.selector import Thresholds, measure, painted, saliency_mask, select_regions, split_mask


@dataclass(frozen=True)
class ImageSelector:
    """The selector as its user set it, on N images: image_labels bool [N, C], saliency maps, and where masks of several
    classes are split the maps of all images. Methods take an image by its place in these. All files of an image have
    the size of its true label map."""

    thresholds: Thresholds
    mask_threshold: float
    image_labels: np.ndarray
    maps: Sequence[Path]
    split_cams: Sequence[Path] | None
    truth: Sequence[Path]

    def measure_image(self, index: int, label: np.ndarray) -> tuple[int, tuple[float, float, float], np.ndarray]:
        """Of an image with one class: its label, what `measure` tells, and the mask painted with it, uint8 [H, W]."""
        label_of_class = int(self.image_labels[index].argmax()) + 1
        saliency = load_aligned_grey(self.maps[index], self.truth[index], label.shape)
        mask = painted(saliency_mask(saliency, self.mask_threshold), label_of_class)
        return label_of_class, measure(label, saliency, self.mask_threshold), mask

    def load_split(self, index: int, shape_hw) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Maps and classes of an image whose mask is to be split, and its saliency map."""
        cams, classes = load_checked_cams(self.split_cams[index], self.image_labels[index])
        check_size(self.split_cams[index], cams.shape[1:], self.truth[index], shape_hw)
        return cams, classes, load_aligned_grey(self.maps[index], self.truth[index], shape_hw)

    def split(self, index: int, label: np.ndarray, thresholds: np.ndarray) -> tuple[np.ndarray, list[int], list[int]]:
        """The label after selection with a split mask, the classes of the image, and those that were replaced."""
        cams, classes, saliency = self.load_split(index, label.shape)
        if not len(classes):
            return label, [], []
        mask = saliency_mask(saliency, self.mask_threshold)
        label, replaced = select_regions(label, split_mask(mask, cams, classes), classes, thresholds)
        return label, classes.tolist(), replaced
