"""Cross entropy for segmentation, with variants for noisy or unbalanced labels.

Sums and counts are separate, so that parts of a batch and processes add up to the mean over the whole batch.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from formats.labels import IGNORE_LABEL


def sum_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    hard_share: float = 1.0,
) -> Tensor:
    """Cross entropy summed over the counted pixels. logits float [B, L, H, W], labels uint8 or int64 [B, H, W] → [].

    labels            255 is ignored
    label_smoothing   share of the target distributed evenly over all L labels, 0..1
    class_weights     float [L]: loss factor of each label
    hard_share        share of the labelled pixels of each image that counts, those of the largest loss (OHEM,
                      Shrivastava et al., CVPR 2016), 0..1
    """
    sums = hard_share == 1 and not torch.are_deterministic_algorithms_enabled()  # not deterministic on GPUs
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
    hardest = losses.flatten(1).sort(dim=1, descending=True).values  # [B, H W]; ignored pixels have loss 0: last
    place = torch.arange(hardest.shape[1], device=labels.device)  # [H W]
    return torch.where(place < count_pixels(labels, hard_share)[:, None], hardest, 0).sum()


def count_pixels(labels: Tensor, hard_share: float = 1.0) -> Tensor:
    """Number of pixels of each image in `sum_cross_entropy`. labels [B, H, W] → int64 [B]."""
    labelled = (labels != IGNORE_LABEL).flatten(1).sum(dim=1)  # [B]
    return labelled if hard_share == 1 else (labelled * hard_share).ceil().long()


def class_balanced_weights(images_with_label: Tensor, pixels_of_label: Tensor, beta: float) -> Tensor:
    """Class weights by the effective number of images (Cui et al., CVPR 2019, eq. 2–5): (1 − β) / (1 − β^n).

    images_with_label, pixels_of_label: counts int64 [L] over the training set → float32 [L], scaled to a mean of 1 over
    all labelled pixels, so that the learning rate keeps its scale; 0 for labels that do not occur.
    """
    effective = 1 - beta ** images_with_label.clamp(min=1).double()
    weights = torch.where(pixels_of_label > 0, (1 - beta) / effective, 0)
    mean = (weights * pixels_of_label).sum() / pixels_of_label.sum().clamp(min=1)
    return (weights / mean if mean > 0 else weights).float()
