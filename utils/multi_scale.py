"""Multi-scale, mirrored and sliding-window prediction with any network."""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.precision import require_finite


def merge_scales(predict, images: Tensor, scales, flip: bool, combine: str = "sum", multiple: int = 1) -> Tensor:
    """Combine predictions over scales and mirror images by "sum" or "max", at the size of the images.

    images: float [B, 3, H, W]; predict: [N, 3, h, w] → maps [N, K, h', w'] of any size. → [B, K, H, W].
    Scaled sides are rounded to multiples of `multiple` px; scale 1 keeps the size of the images.
    Raises `InputError` for results that are not finite.
    """
    size_hw = images.shape[-2:]
    merge = {"sum": torch.add, "max": torch.maximum}[combine]
    total = None
    for scale in scales:
        scaled = images  # [B, 3, h, w]
        if scale != 1:
            scaled_hw = [max(1, round(side * scale / multiple)) * multiple for side in size_hw]
            scaled = resize(images, scaled_hw)  # [B, 3, h, w]
        maps = predict(torch.cat([scaled, scaled.flip(3)]) if flip else scaled)  # [B or 2 B, K, h', w']
        if flip:
            straight, mirrored = maps.chunk(2)
            maps = merge(straight, mirrored.flip(3))  # [B, K, h', w']
        maps = resize(maps, size_hw)  # [B, K, H, W]
        total = maps if total is None else merge(total, maps)
    return require_finite(total)


def slide_windows(predict, images: Tensor, window_px: int, stride_px: int) -> Tensor:
    """Apply `predict` to square windows that cover the images; overlapping predictions are averaged.

    images: float [B, 3, H, W]; predict: [B, 3, h, w] → maps [B, K, h', w'] of any size. → [B, K, H, W].
    Windows start every `stride_px`; the last window of a row or column is moved back to the border, without padding.
    Images no larger than a window are predicted whole.
    """
    height, width = images.shape[-2:]
    if max(height, width) <= window_px:
        return predict(images)
    total, num_windows = None, images.new_zeros(height, width)
    for top in window_starts(height, window_px, stride_px):
        for left in window_starts(width, window_px, stride_px):
            place = (..., slice(top, top + window_px), slice(left, left + window_px))
            window = images[place]  # [B, 3, h, w]
            maps = resize(predict(window), window.shape[-2:])  # [B, K, h, w]
            if total is None:
                total = maps.new_zeros(*maps.shape[:2], height, width)
            total[place] += maps
            num_windows[place] += 1
    return total / num_windows


def window_starts(length_px: int, window_px: int, stride_px: int) -> list[int]:
    """Starts of the windows along a side in px; the last window ends at the border."""
    last = max(0, length_px - window_px)
    return [*range(0, last, stride_px), last]


def resize(x: Tensor, size_hw) -> Tensor:
    """Bilinear: [B, C, H, W] → [B, C, *size_hw]."""
    if tuple(x.shape[-2:]) == tuple(size_hw):
        return x
    return F.interpolate(x, size=tuple(size_hw), mode="bilinear", align_corners=False)
