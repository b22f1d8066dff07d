"""Networks applied at several scales, to the mirror image and to windows of large images, results joined."""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.precision import checked_finite


def merge_scales(predict, images: Tensor, scales, flip: bool, combine: str = "sum", multiple: int = 1) -> Tensor:
    """Sum (or "max") over scales and mirror images of `predict`, each result brought back to the size of the images.

    images: float [B, 3, H, W]; predict: [N, 3, h, w] → maps [N, K, h', w'] of any size. → [B, K, H, W].
    Scaled sides are rounded to whole multiples of `multiple` px; at scale 1 the images stay as they are.
    """
    size_hw = images.shape[-2:]
    is_last = images.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if is_last else torch.contiguous_format
    join = {"sum": torch.add, "max": torch.maximum}[combine]
    total = None
    for scale in scales:
        scaled = images  # [B, 3, h, w]
        if scale != 1:
            scaled_hw = [max(1, round(side * scale / multiple)) * multiple for side in size_hw]
            scaled = resize(images.contiguous(), scaled_hw)  # [B, 3, h, w]; three channels-last ones would take longer
            scaled = scaled.contiguous(memory_format=layout)  # [B, 3, h, w]
        maps = predict(torch.cat([scaled, scaled.flip(3)]) if flip else scaled)  # [B or 2 B, K, h', w']
        if flip:
            straight, mirrored = maps.chunk(2)
            maps = join(straight, mirrored.flip(3))  # [B, K, h', w']
        maps = resize(maps, size_hw)  # [B, K, H, W]
        total = maps if total is None else join(total, maps)
    return checked_finite(total)


def sliding_windows(predict, images: Tensor, window_px: int, stride_px: int) -> Tensor:
    """`predict` on square windows that together cover the images, one place after the other; where windows overlap,
    the mean of their maps. An image that is no larger than a window passes as it is.

    images: float [B, 3, H, W]; predict: [B, 3, h, w] → maps [B, K, h', w'] of any size. → [B, K, H, W].
    Windows begin every `stride_px`; the last ones are pulled back to the border, so that none is padded.
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
    """Where windows begin along a side, the last so that it ends with the side; 0 alone where one covers all."""
    last = max(0, length_px - window_px)
    return [*range(0, last, stride_px), last]


def resize(x: Tensor, size_hw) -> Tensor:
    """Bilinear: [B, C, H, W] → [B, C, *size_hw]."""
    if tuple(x.shape[-2:]) == tuple(size_hw):
        return x
    return F.interpolate(x, size=tuple(size_hw), mode="bilinear", align_corners=False)
