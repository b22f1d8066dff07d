"""Networks applied at several scales and to the mirror image, results joined."""

import torch
import torch.nn.functional as F
from torch import Tensor


def merge_scales(predict, images: Tensor, scales, flip: bool, combine: str = "sum", multiple: int = 1) -> Tensor:
    """Sum (or "max") over scales and mirror images of `predict`, each result brought back to the size of the images.

    images: float [B, 3, H, W]; predict: [N, 3, h, w] → maps [N, K, h', w'] of any size. → [B, K, H, W].
    Scaled sides are rounded to whole multiples of `multiple` px; at scale 1 the images stay as they are.
    """
    size_hw = images.shape[-2:]
    join = {"sum": torch.add, "max": torch.maximum}[combine]
    total = None
    for scale in scales:
        scaled = images  # [B, 3, h, w]
        if scale != 1:
            scaled = resize(images, [max(1, round(side * scale / multiple)) * multiple for side in size_hw])
        maps = predict(torch.cat([scaled, scaled.flip(3)]) if flip else scaled)  # [B or 2 B, K, h', w']
        if flip:
            straight, mirrored = maps.chunk(2)
            maps = join(straight, mirrored.flip(3))  # [B, K, h', w']
        maps = resize(maps, size_hw)  # [B, K, H, W]
        total = maps if total is None else join(total, maps)
    return total


def resize(x: Tensor, size_hw) -> Tensor:
    """Bilinear: [B, C, H, W] → [B, C, *size_hw]."""
    if tuple(x.shape[-2:]) == tuple(size_hw):
        return x
    return F.interpolate(x, size=tuple(size_hw), mode="bilinear", align_corners=False)
