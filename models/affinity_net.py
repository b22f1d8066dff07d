"""Affinity network: finds the class boundaries at which the expansion of class activation maps stops."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.backbones import Backbone, build_backbone

WIDTH = 32
NORM_GROUPS = 4


class AffinityNet(nn.Module):
    """Frozen backbone; all stages reduced to 32 channels, resized to stride 4 and classified as edge or not.

    forward: images float [B, 3, H, W], normalised → edge logits [B, 1, H / 4, W / 4] (rounded up).
    The weights and batch-norm statistics of the backbone do not change in training.
    """

    def __init__(self, backbone: Backbone):
        super().__init__()
        self.backbone = backbone.requires_grad_(False)
        self.reduce = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, WIDTH, kernel_size=1, bias=False), nn.GroupNorm(NORM_GROUPS, WIDTH))
            for c in backbone.channels
        )
        self.classify = nn.Conv2d(WIDTH * len(backbone.channels), 1, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        size_hw = [-(-side // 4) for side in images.shape[-2:]]  # (H / 4, W / 4), rounded up
        with torch.no_grad():
            features = self.backbone(images)  # finest first: [B, C_i, H_i, W_i]
        reduced = [reduce(feature) for reduce, feature in zip(self.reduce, features)]  # [B, 32, H_i, W_i]
        resized = [F.relu(F.interpolate(maps, size_hw, mode="bilinear")) for maps in reduced]  # [B, 32, H / 4, W / 4]
        return self.classify(torch.cat(resized, dim=1))  # [B, 1, H / 4, W / 4]

    def train(self, mode: bool = True):
        super().train(mode)
        self.backbone.eval()
        return self


def build_affinity_net(settings: dict, pretrained: str = "none") -> AffinityNet:
    """Build the network described by the settings of a checkpoint. Arguments: see `build_backbone`."""
    return AffinityNet(build_backbone(settings, pretrained, output_stride=16, all_stages=True))
