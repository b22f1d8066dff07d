"""DeepLabV3+ (Chen et al., ECCV 2018) with GroupNorm or batch norm in its head."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from formats.errors import InputError
from models.backbones import Backbone, build_backbone

ASPP_DILATION_PX = 96  # of the second branch, from the published dilations 1, 6, 12, 18 at stride 16
STRIDE_ADVICE = "choose one that can be dilated, such as resnet-50, resnest101, mobilenetv2 or convnext_tiny"
NORM_GROUPS = 4
LOW_LEVEL_CHANNELS = 48


class AtrousBranch(nn.Module):
    """Dilated convolution (1×1 for dilation 1), norm, ReLU: [B, c_in, H, W] → [B, c_out, H, W]."""

    def __init__(self, c_in: int, c_out: int, dilation: int, norm):
        super().__init__()
        size = {"kernel_size": 1} if dilation == 1 else {"kernel_size": 3, "padding": dilation, "dilation": dilation}
        self.atrous_conv = nn.Conv2d(c_in, c_out, bias=False, **size)
        self.bn = norm(c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.atrous_conv(x)))  # [B, c_out, H, W]


class ASPP(nn.Module):
    """Four dilated branches and the image mean, fused by a 1×1 convolution: [B, c_in, H, W] → [B, width, H, W]."""

    def __init__(self, c_in: int, width: int, dilations: tuple[int, int, int, int], norm, dropout: float):
        super().__init__()
        self.aspp1, self.aspp2, self.aspp3, self.aspp4 = (
            AtrousBranch(c_in, width, dilation, norm) for dilation in dilations
        )
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(c_in, width, kernel_size=1, bias=False), norm(width), nn.ReLU()
        )
        self.conv1 = nn.Conv2d(5 * width, width, kernel_size=1, bias=False)
        self.bn1 = norm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        branches = [branch(x) for branch in (self.aspp1, self.aspp2, self.aspp3, self.aspp4)]  # 4 × [B, width, H, W]
        mean = self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:])  # [B, width, H, W]
        fused = self.conv1(torch.cat([*branches, mean], dim=1))  # [B, width, H, W]
        return self.dropout(F.relu(self.bn1(fused)))  # [B, width, H, W]


class Decoder(nn.Module):
    """Enlarges the ASPP result to stride 4 and fuses it with the features there → logits [B, L, H / 4, W / 4].

    The 1×1 convolution of features with a coarser stride becomes a transposed one: each cell gives a square of outputs.
    align_corners: whether the first and last cells of the maps lie at the borders, or tile the image.
    """

    def __init__(
        self, c_low: int, low_stride: int, width: int, num_labels: int, norm, dropout: float, align_corners: bool
    ):
        super().__init__()
        self.align_corners = align_corners
        factor = round(low_stride / 4)
        if factor > 1:
            self.conv1 = nn.ConvTranspose2d(c_low, LOW_LEVEL_CHANNELS, factor, stride=factor, bias=False)
        else:
            self.conv1 = nn.Conv2d(c_low, LOW_LEVEL_CHANNELS, kernel_size=1, bias=False)
        self.bn1 = norm(LOW_LEVEL_CHANNELS)
        self.classifier = nn.Sequential(
            nn.Conv2d(width + LOW_LEVEL_CHANNELS, width, kernel_size=3, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False),
            norm(width),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout / 5),  # published: 0.1 after 0.5
            nn.Conv2d(width, num_labels, kernel_size=1),
        )

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        low = F.relu(self.bn1(self.conv1(low)))  # [B, 48, H / 4, W / 4]
        high = F.interpolate(high, low.shape[-2:], mode="bilinear", align_corners=self.align_corners)  # [B, width, …]
        return self.classifier(torch.cat([high, low], dim=1))  # [B, L, H / 4, W / 4]


class DeepLabV3Plus(nn.Module):
    """Backbone, ASPP with dilations for its stride (6, 12, 18 at the published stride 16), decoder.

    forward: images float [B, 3, H, W], normalised → logits float32 [B, L, H, W].
    fix_batch_norm: batch norms of the backbone use their stored statistics in training; their scale and shift are
        still trained.
    freeze_backbone: train the head alone.
    dropout: probability after ASPP and the first block of the decoder; a fifth of it after the second block.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_labels: int,
        head_width: int,
        use_gn: bool,
        fix_batch_norm: bool,
        dropout: float = 0.5,
        freeze_backbone: bool = False,
    ):
        super().__init__()
        self.backbone = backbone.requires_grad_(not freeze_backbone)
        self.fix_batch_norm = fix_batch_norm
        self.freeze_backbone = freeze_backbone
        self.align_corners = backbone.multiple_px == 1  # as published, for dilated networks
        norm = partial(nn.GroupNorm, NORM_GROUPS) if use_gn else nn.BatchNorm2d
        dilation = round(ASPP_DILATION_PX / backbone.strides[-1])
        self.aspp = ASPP(backbone.channels[-1], head_width, (1, dilation, 2 * dilation, 3 * dilation), norm, dropout)
        low = backbone.channels[0], backbone.strides[0]
        self.decoder = Decoder(*low, head_width, num_labels, norm, dropout, self.align_corners)

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)  # R1 [B, C_1, H / 4, W / 4] … R4 [B, C_4, H / s, W / s], s the output stride
        logits = self.decoder(self.aspp(features[-1]), features[0])  # [B, L, H / 4, W / 4]
        size_hw = images.shape[-2:]
        return F.interpolate(logits.float(), size_hw, mode="bilinear", align_corners=self.align_corners)  # [B, L, H, W]

    def train(self, mode: bool = True):
        super().train(mode)
        if self.freeze_backbone:
            self.backbone.eval()
        elif self.fix_batch_norm:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def build_deeplabv3plus(settings: dict, pretrained: str = "none", **training) -> DeepLabV3Plus:
    """Build the network described by the settings of a checkpoint.

    settings: those of `build_backbone`, classes (names), head_width, use_gn, mode ("fix" or "normal") and
    output_stride. `pretrained`: see `build_backbone`. `training`: `dropout` and `freeze_backbone` of `DeepLabV3Plus`.
    Raises `InputError` for settings that do not fit together.
    """
    if settings["use_gn"] and settings["head_width"] % NORM_GROUPS:
        raise InputError(f"--head_width {settings['head_width']} must be a multiple of {NORM_GROUPS} with GroupNorm")
    backbone = build_backbone(settings, pretrained, output_stride=settings["output_stride"])
    if settings["output_stride"] == 8 and backbone.strides[-1] > 8:
        found = f"--output_stride 8: --backbone {settings['backbone']} cannot be dilated, its stride is"
        raise InputError(f"{found} {backbone.strides[-1]}: omit the flag, or {STRIDE_ADVICE}")
    num_labels, fixes = len(settings["classes"]) + 1, settings["mode"] == "fix"
    return DeepLabV3Plus(backbone, num_labels, settings["head_width"], settings["use_gn"], fixes, **training)
