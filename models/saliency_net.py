"""Salient object network: encoder, coarse-to-fine decoder of PATMs, edge head."""

import torch
from torch import Tensor, nn

from models.backbones import Backbone, build_backbone
from models.edge_head import EdgeHead
from utils.multi_scale import resize

# inner and output channels of PATM4 … PATM1, relative to the decoder width
INNER_SHARES, OUTPUT_SHARES = (1, 1, 1 / 2, 1 / 4), (1, 1 / 2, 1 / 4, 1 / 8)
DILATIONS = ((3, 2), (3, 2), (5, 3), (5, 3))


class PATM(nn.Module):
    """Phase-aware module: three receptive fields in amplitude–phase form, summed, fused and upsampled by 2.

    forward: [B, c_in, H, W] → [B, c_out, 2 H, 2 W].
    """

    def __init__(self, c_in: int, c_mid: int, c_out: int, dilation_a: int, dilation_b: int, dropout: float = 0.5):
        super().__init__()
        self.conv_a = conv_bn_relu(c_in, c_mid)
        self.dilated_a = conv_bn_relu(c_mid, c_mid, dilation_a)
        self.conv_b = conv_bn_relu(c_mid, c_mid)
        self.dilated_b = conv_bn_relu(c_mid, c_mid, dilation_b)
        self.conv_c = conv_bn_relu(c_mid, c_mid)
        self.join = conv_bn_relu(2 * c_mid, c_out)
        self.dropout = nn.Dropout(dropout)
        self.upsample = nn.Sequential(
            nn.ConvTranspose2d(c_out, c_out, kernel_size=2, stride=2), nn.BatchNorm2d(c_out), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv_a(x)  # [B, c_mid, H, W]
        b = self.conv_b(a)  # [B, c_mid, H, W]
        c = self.conv_c(b)  # [B, c_mid, H, W]
        fields = self.dilated_a(a), self.dilated_b(b), c  # 3 × [B, c_mid, H, W]
        total = sum(amplitude_phase(field) for field in fields)  # [B, 2 c_mid, H, W]
        return self.upsample(self.dropout(self.join(total)))  # [B, c_out, 2 H, 2 W]


class SaliencyNet(nn.Module):
    """Encoder–decoder with four supervised saliency outputs and an edge output (the paper's RGB-SOD network).

    forward: images float [B, 3, H, W], normalised → dict of logits at the size of the images
        "saliency"  4 × [B, 1, H, W], finest first; the first is the prediction
        "edge"      [B, 1, H, W]
    """

    def __init__(
        self,
        backbone: Backbone,
        inner_widths: tuple[int, ...],
        output_widths: tuple[int, ...],
        dropout: float = 0.5,
        edge_drop_path: float = 0.3,
    ):
        super().__init__()
        self.backbone = backbone
        coarse_first = backbone.channels[::-1]
        widths_in = [coarse_first[0]] + [out + c for out, c in zip(output_widths, coarse_first[1:])]
        self.decoder = nn.ModuleList(
            PATM(c_in, c_mid, c_out, *dilations, dropout=dropout)
            for c_in, c_mid, c_out, dilations in zip(widths_in, inner_widths, output_widths, DILATIONS)
        )
        self.side_heads = nn.ModuleList(nn.ConvTranspose2d(c, 1, kernel_size=2, stride=2) for c in output_widths)
        self.edge_head = EdgeHead(backbone.channels, drop_path=edge_drop_path)

    def forward(self, images: Tensor) -> dict[str, Tensor | list[Tensor]]:
        size_hw = images.shape[-2:]  # (H, W)
        features = self.backbone(images)  # R1 … R4: [B, C_i, H / s_i, W / s_i]
        side_logits, deeper = [], None  # coarsest first
        for patm, side_head, feature in zip(self.decoder, self.side_heads, features[::-1]):
            if deeper is not None:
                deeper = resize(deeper, feature.shape[-2:])  # [B, c_out, H_i, W_i]
                feature = torch.cat([deeper, feature], dim=1)  # [B, c_out + C_i, H_i, W_i]
            deeper = patm(feature)  # [B, c_out, 2 H_i, 2 W_i]
            side_logits.append(resize(side_head(deeper), size_hw))  # [B, 1, H, W]
        edge_logits = self.edge_head(features, size_hw)  # [B, 1, H, W]
        return {"saliency": side_logits[::-1], "edge": edge_logits}  # 4 × [B, 1, H, W], [B, 1, H, W]


def build_saliency_net(settings: dict, pretrained: str = "none", **drop) -> SaliencyNet:
    """Build the network described by the settings of a checkpoint.

    settings: those of `build_backbone`, image_size (px) and decoder_width: channels of the coarsest decoder stage, a
    multiple of 8; finer stages have 1/2, 1/4 and 1/8 of it. The paper's decoder has width 1024 (152 M parameters on
    Swin-B). `pretrained`: see `build_backbone`. `drop`: `dropout` of the PATMs and `edge_drop_path`, both in 0..1.
    """
    backbone = build_backbone(settings, pretrained, image_size=settings["image_size"])
    width = settings["decoder_width"]
    inner, output = (tuple(int(width * share) for share in shares) for shares in (INNER_SHARES, OUTPUT_SHARES))
    return SaliencyNet(backbone, inner, output, **drop)


def conv_bn_relu(c_in: int, c_out: int, dilation: int = 1) -> nn.Sequential:
    """3×3 convolution without bias, batch norm, ReLU; same size."""
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, kernel_size=3, padding=dilation, dilation=dilation, bias=False),
        nn.BatchNorm2d(c_out),
        nn.ReLU(),
    )


def amplitude_phase(f: Tensor) -> Tensor:
    """Concatenate f·cos f and f·sin f: [B, C, H, W] → [B, 2 C, H, W]."""
    return torch.cat([f * f.cos(), f * f.sin()], dim=1)
