"""Rounds of self-training: a network predicts the images that it was trained on, and its predictions become the labels
of the next round, after a selector.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from formats.images import check_size
from formats.labels import IGNORE_LABEL, load_label

SURE = 0.7  # chosen on 249 photographs with masks (docs/photographs.md)


def doubt_changes(label: np.ndarray, probability: np.ndarray, previous_path) -> np.ndarray:
    """Set a predicted label, uint8 [H, W], to 255 where it differs from the previous label and is unsure.

    probability: float [H, W] of the predicted class, 0..1; a pixel is unsure below `SURE`. Raises `InputError` if the
    previous label has another size.
    """
    previous = load_label(previous_path)
    check_size(previous_path, previous.shape, "its image", label.shape)
    return np.where((label != previous) & (probability < SURE), IGNORE_LABEL, label).astype(np.uint8)


def share_of_changes(folder, previous_folder, ids: Sequence[str]) -> float:
    """Share, 0..1, of the pixels of all images whose labels differ between two folders."""
    changed = total = 0
    for image_id in ids:
        one, other = (load_label(Path(path) / f"{image_id}.png") for path in (folder, previous_folder))
        changed, total = changed + np.count_nonzero(one != other), total + one.size
    return changed / total
