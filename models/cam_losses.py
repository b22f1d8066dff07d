"""Losses that make class activation maps better than the image labels alone do: Puzzle-CAM and EPS."""

import torch
import torch.nn.functional as F
from torch import Tensor

SALIENT_OVERLAP = 0.4  # a class whose area is less salient counts as background
FOREGROUND_WEIGHT = 0.5
PUZZLE_WEIGHT = 4.0


def tiles(images: Tensor) -> Tensor:
    """The quarters of images [B, C, H, W] → [4 B, C, H / 2, W / 2]: all upper left ones, upper right, lower left, …

    A last odd row or column is left out.
    """
    height, width = images.shape[-2] // 2, images.shape[-1] // 2
    rows = images[..., :height, :], images[..., height : 2 * height, :]
    return torch.cat([row[..., start : start + width] for row in rows for start in (0, width)])


def merge_tiles(maps: Tensor) -> Tensor:
    """Maps of `tiles`, [4 B, C, h, w] → [B, C, 2 h, 2 w]."""
    upper_left, upper_right, lower_left, lower_right = maps.chunk(4)
    upper, lower = torch.cat([upper_left, upper_right], dim=3), torch.cat([lower_left, lower_right], dim=3)
    return torch.cat([upper, lower], dim=2)


def puzzle_loss(full: Tensor, merged: Tensor, image_labels: Tensor) -> Tensor:
    """Puzzle-CAM's reconstruction loss (Jo & Yu, ICIP 2021): the L1 distance of the raw maps of whole images and of
    their merged tiles, both [B, C, h, w], over all elements. Maps of classes absent in image_labels [B, C] count as 0.
    """
    present = image_labels[:, :, None, None]
    if merged.shape != full.shape:
        merged = F.interpolate(merged, size=full.shape[-2:], mode="bilinear", align_corners=False)
    return F.l1_loss(full * present, merged * present)


def puzzle_weight(step: int, total_steps: int) -> float:
    """α: rises linearly from 0 to 4 over the first half of all steps."""
    return PUZZLE_WEIGHT * min(1.0, 2 * step / total_steps)


def eps_loss(maps: Tensor, image_labels: Tensor, saliency: Tensor) -> Tensor:
    """EPS's saliency loss (Lee et al., CVPR 2021).

    maps [B, C + 1, h, w], raw, background last; image_labels [B, C]; saliency [B, 1, H, W] in 0..1. With the softmax
    over the maps, M_fg is the sum of the image's classes, M_bg the background's; classes that overlap with the saliency
    by less than 0.4 of their own area go to M_bg. Mean of (½ M_fg + ½ (1 − M_bg) − saliency)².
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
