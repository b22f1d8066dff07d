"""A convolution over coarse and fine features together, on CPUs without the many products of enlarged features.

Features are enlarged channel by channel and linearly, so that channels can as well be joined before: by nine 1×1
convolutions on the coarse grid, one for each place of the kernel, whose results are enlarged and moved by that place.
For the decoder of DeepLabV3+ with 256 channels these are a quarter of the products at output stride 16, half of them
at 8, and the same sums up to rounding.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BLOCK_PX = 64  # of a side, made by one product: the larger, the more of its weights are 0


class JoinedConvolution(nn.Conv2d):
    """3×3, padding 1, over features of two sizes.

    forward: coarse [B, c_coarse, h, w], enlarged bilinearly with corners aligned, before fine [B, c_fine, H, W]
    → [B, c_out, H, W]. On GPUs, where products cost less than memory, features are enlarged first.
    """

    def __init__(self, c_coarse: int, c_fine: int, c_out: int):
        super().__init__(c_coarse + c_fine, c_out, kernel_size=3, padding=1, bias=False)
        self.channels = (c_coarse, c_fine)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        join = self.enlarge_last if fine.device.type == "cpu" else self.enlarge_first
        return join(coarse, fine)  # [B, c_out, H, W]

    def enlarge_first(self, coarse: Tensor, fine: Tensor) -> Tensor:
        coarse = F.interpolate(coarse, fine.shape[-2:], mode="bilinear", align_corners=True)  # [B, c_coarse, H, W]
        return super().forward(torch.cat([coarse, fine], dim=1))  # [B, c_out, H, W]

    def enlarge_last(self, coarse: Tensor, fine: Tensor) -> Tensor:
        height, width = fine.shape[-2:]  # (H, W)
        of_coarse, of_fine = self.weight.split(self.channels, dim=1)  # [c_out, c_coarse, 3, 3], [c_out, c_fine, 3, 3]
        places = of_coarse.permute(2, 3, 0, 1).flatten(0, 2)[..., None, None]  # [9 c_out, c_coarse, 1, 1]
        maps = F.conv2d(coarse, places).unflatten(1, (3, 3, -1))  # [B, 3, 3, c_out, h, w]
        rows = maps.permute(0, 4, 1, 5, 2, 3).flatten(0, 2)  # [3 B h, w, 3, c_out]
        rows = sum_of_places(rows, width)  # [3 B h, W, c_out]
        whole = rows.flatten(1).view(len(fine), coarse.shape[-2], 3, width * self.out_channels)  # [B, h, 3, W c_out]
        whole = sum_of_places(whole, height).unflatten(2, (width, -1))  # [B, H, W, c_out]
        return F.conv2d(fine, of_fine, self.bias, padding=1).add_(whole.permute(0, 3, 1, 2))  # [B, c_out, H, W]


def sum_of_places(lines: Tensor, length: int) -> Tensor:
    """Lines of n entries for each of the three places of a kernel, [N, n, 3, K] → their sum [N, length, K], where lines
    are enlarged, those of the first place moved one forward, those of the last one back, and 0 comes from outside."""
    n = lines.shape[1]
    weights = torch.eye(n, dtype=lines.dtype)[None]  # [1, n, n]
    weights = F.interpolate(weights, length, mode="linear", align_corners=True)[0].T  # [length, n]
    weights = F.pad(weights, (0, 0, 1, 1)).unfold(0, 3, 1)  # [length, n, 3]
    blocks = []  # [N, BLOCK_PX, K]
    for start in range(0, length, BLOCK_PX):
        stop, step = min(start + BLOCK_PX, length), (n - 1) / max(1, length - 1)
        used = slice(max(0, math.floor((start - 1) * step)), math.ceil(stop * step) + 1)  # others have no weight
        blocks.append(weights[start:stop, used].flatten(1) @ lines[:, used].flatten(1, 2))
    return torch.cat(blocks, dim=1) if len(blocks) > 1 else blocks[0]  # [N, length, K]
