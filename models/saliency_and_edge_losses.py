"""Losses of the salient object network."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.edge_head import edge_target


def to_unit_range(grey: Tensor) -> Tensor:
    """uint8 in 0..255 → float in 0..1; floats are returned unchanged."""
    return grey / 255 if grey.dtype == torch.uint8 else grey


def boundary_weight(mask: Tensor) -> Tensor:
    """1 + 5 · |mean of the 31×31 neighbourhood − mask|: [B, 1, H, W] → [B, 1, H, W] in 1..6.

    Pixels outside the image count as background. The mean is separated into columns and rows.
    """
    rows = F.avg_pool2d(mask, kernel_size=(31, 1), stride=1, padding=(15, 0))
    mean = F.avg_pool2d(rows, kernel_size=(1, 31), stride=1, padding=(0, 15))
    return 1 + 5 * (mean - mask).abs()


def structure_loss(logits: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """Weighted BCE + weighted IoU of F3Net (Wei et al., AAAI 2020).

    logits, mask, weight: [B, 1, H, W], mask in 0..1 → scalar, the mean over the images. The weights apply to the BCE
    of each pixel; the published code weights its mean, which cancels them.
    """
    bce = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")  # [B, 1, H, W]
    bce = (weight * bce).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))  # [B, 1]
    probs = logits.sigmoid()
    intersection = (probs * mask * weight).sum(dim=(2, 3))  # [B, 1]
    union = ((probs + mask) * weight).sum(dim=(2, 3)) - intersection
    iou = 1 - (intersection + 1) / (union + 1)
    return (bce + iou).mean()


def edge_loss(logits: Tensor, edge: Tensor) -> Tensor:
    """BCE + Dice loss on the soft boundary band; logits, edge: [B, 1, H, W], edge in 0..1 → scalar."""
    bce = F.binary_cross_entropy_with_logits(logits, edge)
    probs = logits.sigmoid()
    overlap = 2 * (probs * edge).sum(dim=(1, 2, 3)) + 1
    dice = 1 - overlap / ((probs + edge).sum(dim=(1, 2, 3)) + 1)
    return bce + dice.mean()


def saliency_objective(
    outputs: dict, mask: Tensor, edge_weight: float, edge: Tensor | None = None
) -> dict[str, Tensor]:
    """Training loss of a batch: each side output has weight 1, the edge output `edge_weight`.

    outputs: of `SaliencyNet`, converted to float32; mask, edge: [B, 1, H, W] in 0..1; the edge is computed from the
    mask if not given. → {"loss", "saliency_loss", "edge_loss"}, scalars.
    """
    weight = boundary_weight(mask)
    saliency = torch.stack([structure_loss(logits.float(), mask, weight) for logits in outputs["saliency"]]).sum()
    edge_part = edge_loss(outputs["edge"].float(), edge_target(mask) if edge is None else edge)
    return {
        "loss": saliency + edge_weight * edge_part,
        "saliency_loss": saliency.detach(),
        "edge_loss": edge_part.detach(),
    }
