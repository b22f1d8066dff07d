"""Cross entropy of a segmentation network, and its variants for labels that are noisy or unbalanced.

Sums and counts are given apart, so that parts of a batch and processes add up to the mean over the whole batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from formats.labels import IGNORE_LABEL


def summed_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    hard_share: float = 1.0,
) -> Tensor:
    """Sum of the losses of the pixels that count. logits float [B, L, H, W], labels uint8 or int64 [B, H, W] → [].

    labels            255 is ignored
    label_smoothing   share of the target spread evenly over all L labels, 0..1
    class_weights     float [L]: factor on the loss of the pixels of each label
    hard_share        of each image only this share of the labelled pixels counts, those of the largest loss (OHEM,
                      Shrivastava et al., CVPR 2016); image by image, so that it does not matter how a batch is divided
    """
    sums = hard_share == 1 and not torch.are_deterministic_algorithms_enabled()  # GPUs sum here in any order
    losses = F.cross_entropy(
        logits,
        labels.long(),
        weight=class_weights,
        ignore_index=IGNORE_LABEL,
        reduction="sum" if sums else "none",
        label_smoothing=label_smoothing,
    )
    if hard_share == 1:
        return losses.sum()
    hardest = losses.flatten(1).sort(dim=1, descending=True).values  # [B, H W]; ignored pixels are 0, and so come last
    place = torch.arange(hardest.shape[1], device=labels.device)  # [H W]
    return torch.where(place < _counted(labels, hard_share)[:, None], hardest, 0).sum()


def counted_pixels(labels: Tensor, hard_share: float = 1.0) -> Tensor:
    """How many pixels `summed_cross_entropy` adds up. labels [B, H, W] → int64 []."""
    return _counted(labels, hard_share).sum()


def class_balanced_weights(images_with_label: Tensor, pixels_of_label: Tensor, beta: float) -> Tensor:
    """Weights by the effective number of images of a label (Cui et al., CVPR 2019, eq. 2–5): (1 − β) / (1 − β^n).

    images_with_label, pixels_of_label: counts int64 [L] over the training set → float32 [L], scaled such that the mean
    over all labelled pixels is 1, which leaves the learning rate its meaning; 0 for labels that do not occur.
    """
    effective = 1 - beta ** images_with_label.clamp(min=1).double()
    weights = torch.where(pixels_of_label > 0, (1 - beta) / effective, 0)
    mean = (weights * pixels_of_label).sum() / pixels_of_label.sum().clamp(min=1)
    return (weights / mean if mean > 0 else weights).float()


def _counted(labels: Tensor, hard_share: float) -> Tensor:
    labelled = (labels != IGNORE_LABEL).flatten(1).sum(dim=1)  # [B]
    return labelled if hard_share == 1 else (labelled * hard_share).ceil().long()
