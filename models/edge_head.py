"""Edge-aware module of the salient object network, and its training target."""

import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn


class EdgeHead(nn.Module):
    """Predicts object boundaries from the four encoder features.

    R2, R3 and R4 are projected to C0 channels, weighted by channel from the global maximum of R1, and summed; the sum
    passes the same convolution twice. R1 is used only through its maximum.

    forward: features 4 × [B, C_i, H_i, W_i], finest first; output size (H, W) in px → edge logits [B, 1, H, W].
    """

    def __init__(self, channels: list[int], drop_path: float = 0.3):
        super().__init__()
        width = channels[0]
        self.lift = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(c, width, kernel_size=2, stride=2), nn.BatchNorm2d(width), nn.ReLU())
            for c in channels[1:]
        )
        self.weigh = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)) for _ in channels[1:]
        )
        self.norm = nn.BatchNorm2d(width)
        self.refine = nn.Sequential(
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.drop_path = DropPath(drop_path)
        self.classify = nn.Conv2d(width, 1, kernel_size=1)

    def forward(self, features: list[Tensor], size_hw: tuple[int, int]) -> Tensor:
        size_r1 = features[0].shape[-2:]  # (H1, W1)
        strongest = features[0].amax(dim=(2, 3))  # [B, C0]
        total = 0  # then [B, C0, H1, W1]
        for lift, weigh, feature in zip(self.lift, self.weigh, features[1:]):
            lifted = F.interpolate(lift(feature), size=size_r1, mode="nearest")  # [B, C0, H1, W1]
            total = total + lifted * weigh(strongest)[:, :, None, None]  # [B, C0, H1, W1]
        y = self.refine(self.norm(total))  # [B, C0, H1, W1]
        y = y + self.refine(self.drop_path(y))  # [B, C0, H1, W1]
        return F.interpolate(self.classify(y), size=size_hw, mode="nearest")  # [B, 1, H, W]


def edge_target(mask: Tensor) -> Tensor:
    """Soft band of about 5 px along the boundary: mask [B, 1, H, W] in 0..1 → edge [B, 1, H, W] in 0..1.

    Morphological gradient (dilation − erosion), 3×3 maximum, 3×3 mean.
    """
    dilated = F.max_pool2d(mask, kernel_size=3, stride=1, padding=1)
    eroded = -F.max_pool2d(-mask, kernel_size=3, stride=1, padding=1)
    band = F.max_pool2d(dilated - eroded, kernel_size=3, stride=1, padding=1)
    return F.avg_pool2d(band, kernel_size=3, stride=1, padding=1)
