"""Losses that improve class activation maps: Puzzle-CAM and EPS."""

import torch
import torch.nn.functional as F
from torch import Tensor

SALIENT_OVERLAP = 0.4  # a class counts as foreground if more than this fraction of its area is salient
FOREGROUND_WEIGHT = 0.5
PUZZLE_WEIGHT = 4.0


def split_tiles(images: Tensor) -> Tensor:
    """Split images [B, C, H, W] into quarters [4 B, C, H / 2, W / 2]: upper left, upper right, lower left, lower right.

    An odd last row or column is dropped.
    """
    height, width = images.shape[-2] // 2, images.shape[-1] // 2
    rows = images[..., :height, :], images[..., height : 2 * height, :]
    return torch.cat([row[..., start : start + width] for row in rows for start in (0, width)])


def merge_tiles(maps: Tensor) -> Tensor:
    """Merge the maps of `split_tiles`: [4 B, C, h, w] → [B, C, 2 h, 2 w]."""
    upper_left, upper_right, lower_left, lower_right = maps.chunk(4)
    upper, lower = torch.cat([upper_left, upper_right], dim=3), torch.cat([lower_left, lower_right], dim=3)
    return torch.cat([upper, lower], dim=2)


def puzzle_loss(full: Tensor, merged: Tensor, image_labels: Tensor) -> Tensor:
    """Puzzle-CAM's reconstruction loss (Jo & Yu, ICIP 2021).

    Mean absolute difference of the raw maps of whole images and of their merged tiles, both [B, C, h, w]. Maps of
    classes that are 0 in image_labels [B, C] are set to 0.
    """
    present = image_labels[:, :, None, None]
    if merged.shape != full.shape:
        merged = F.interpolate(merged, size=full.shape[-2:], mode="bilinear", align_corners=False)
    return F.l1_loss(full * present, merged * present)


def puzzle_weight(step: int, total_steps: int) -> float:
    """Weight α of the puzzle loss: rises linearly from 0 to 4 over the first half of all steps."""
    return PUZZLE_WEIGHT * min(1.0, 2 * step / total_steps)


def eps_loss(maps: Tensor, image_labels: Tensor, saliency: Tensor) -> Tensor:
    """EPS's saliency loss (Lee et al., CVPR 2021).

    maps [B, C + 1, h, w], raw, background last; image_labels [B, C]; saliency [B, 1, H, W] in 0..1 → scalar: the mean
    of (½ M_fg + ½ (1 − M_bg) − saliency)². M_fg is the sum of the softmax maps of the image's classes of whose area
    more than 0.4 is salient; M_bg is the background map plus the maps of its other classes.
    """
    saliency = F.interpolate(saliency, size=maps.shape[-2:], mode="area")  # [B, 1, h, w]
    probs = maps.softmax(dim=1)  # [B, C + 1, h, w]
    classes, background = probs[:, :-1], probs[:, -1:]
    with torch.no_grad():
        area, salient = classes.round(), saliency.round()
        overlap = (area * salient).sum(dim=(2, 3)) / area.sum(dim=(2, 3)).clamp(min=1e-4)  # [B, C]
        is_foreground = (image_labels * (overlap > SALIENT_OVERLAP))[:, :, None, None]
        is_background = image_labels[:, :, None, None] - is_foreground
    foreground_map = (classes * is_foreground).sum(dim=1, keepdim=True)  # [B, 1, h, w]
    background_map = (classes * is_background).sum(dim=1, keepdim=True) + background  # [B, 1, h, w]
    estimate = FOREGROUND_WEIGHT * foreground_map + (1 - FOREGROUND_WEIGHT) * (1 - background_map)
    return F.mse_loss(estimate, saliency)
