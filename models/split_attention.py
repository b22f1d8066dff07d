"""ResNeSt's split attention (Zhang et al., CVPRW 2022) with fewer passes over its maps than timm's."""

import torch
from timm.layers import SplitAttn
from torch import Tensor, nn


class SplitAttention(SplitAttn):
    """timm's layer up to rounding, [B, c_in, H, W] → [B, c_out, H, W]: a mean of `radix` parts, weighed by channel.

    timm sums whole parts before it takes their mean over the image, weighs them in a tensor of their own (in 32 bits,
    under autocast), and leaves channels-last memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        x = self.act0(self.drop(self.bn0(self.conv(x))))  # [B, radix c_out, H, W]
        parts = x.chunk(self.radix, dim=1)  # radix × [B, c_out, H, W]
        mean = sum(x.mean(dim=(2, 3), keepdim=True).chunk(self.radix, dim=1))  # [B, c_out, 1, 1]
        weights = self.fc2(self.act1(self.bn1(self.fc1(mean))))  # [B, radix c_out, 1, 1]
        weights = self.rsoftmax(weights).to(x.dtype).view(len(x), -1, 1, 1)  # [B, radix c_out, 1, 1]
        weights = weights.chunk(self.radix, dim=1)  # radix × [B, c_out, 1, 1]
        joined = parts[0] * weights[0]  # [B, c_out, H, W]
        for part, weight in zip(parts[1:], weights[1:]):
            joined = torch.addcmul(joined, part, weight)  # [B, c_out, H, W]
        return joined  # [B, c_out, H, W]


def replace_split_attention(network: nn.Module) -> None:
    """Makes each split attention of a timm network one of ours; its weights and their names stay."""
    for module in network.modules():
        if type(module) is SplitAttn:
            module.__class__ = SplitAttention
