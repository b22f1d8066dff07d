"""The salient object selector (SOS): on images of one class, the saliency mask may replace the pseudo label.

It works on finished labels of any origin. Source: "Salient Object Detection Enhanced Pseudo-Labels for Weakly
Supervised Semantic Segmentation", t0 = 0.4 and t1 = 0.2 there.
"""

import numpy as np

from label_files import IGNORE_LABEL


def overlap(label: np.ndarray, mask: np.ndarray) -> float:
    """IoU of the saliency mask (bool [H, W]) and the foreground of the label (uint8 [H, W]), 0..1.

    Pixels that the label ignores (255) count neither in the intersection nor in the union; 0 for an empty union.
    """
    counted = label != IGNORE_LABEL
    foreground = (label > 0) & counted
    union = np.count_nonzero((mask & counted) | foreground)
    return np.count_nonzero(mask & foreground) / union if union else 0.0


def select(label: np.ndarray, mask: np.ndarray, label_of_class: int, threshold: float) -> tuple[np.ndarray, bool]:
    """The label of a single-class image after selection, and whether it was replaced.

    label uint8 [H, W]; mask bool [H, W]; `threshold` is t0 for salient classes and t0 + t1 for the others. The mask,
    painted with the class, replaces the whole label if their overlap is above the threshold; an empty mask never.
    """
    if label.shape != mask.shape:
        raise ValueError(f"label is {list(label.shape)}, saliency mask {list(mask.shape)}")
    if not mask.any() or overlap(label, mask) <= threshold:
        return label, False
    return np.where(mask, label_of_class, 0).astype(np.uint8), True


def saliency_norm(saliency: np.ndarray) -> float:
    """‖S‖₂ of a map in 0..1 [H, W], divided by √(H·W) so that images of all sizes compare: 0..1."""
    return float(np.sqrt(np.mean(np.square(saliency, dtype=np.float64))))


def non_salient_classes(norms: np.ndarray, classes: np.ndarray, num_classes: int, share: float) -> np.ndarray:
    """Classes whose mean saliency norm over their single-class images is below `share` of the largest class's mean.

    norms float [N] and classes int [N] (1..C) of N single-class images → bool [C + 1]; a class without an image
    counts as salient.
    """
    counts = np.bincount(classes, minlength=num_classes + 1)
    means = np.bincount(classes, weights=norms, minlength=num_classes + 1) / np.maximum(counts, 1)
    return (counts > 0) & (means < share * means.max(initial=0))
