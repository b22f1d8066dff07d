"""Image classifier whose last layer produces class activation maps."""

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from models.backbones import Backbone, build_backbone, is_plain


class CamClassifier(nn.Module):
    """Backbone, 1×1 convolution without bias, global average pooling. s is 16 or the stride of the backbone.

    The tokens of a plain transformer are normalised first, as before its own head: some have a much larger norm than
    others, and would hide the rest of a map.

    forward: images float [B, 3, H, W], normalised → dict
        "logits"      [B, C]
        "class_maps"  [B, C, H / s, W / s], before ReLU; the mean of map c is logit c
        "maps"        class maps and, with `background_map` (for EPS), a background map: [B, C or C + 1, H / s, W / s]
    """

    def __init__(self, backbone: Backbone, num_classes: int, background_map: bool = False):
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        num_maps = num_classes + background_map
        channels = backbone.channels[-1]
        self.norm = LayerNorm2d(channels, affine=False) if is_plain(backbone.strides) else nn.Identity()
        self.classify = nn.Conv2d(channels, num_maps, kernel_size=1, bias=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.norm(self.backbone(images)[-1])  # [B, C4, H / s, W / s]
        maps = self.classify(features)  # [B, C or C + 1, H / s, W / s]
        class_maps = maps[:, : self.num_classes]  # [B, C, H / s, W / s]
        logits = class_maps.mean(dim=(2, 3))  # [B, C]
        return {"logits": logits, "class_maps": class_maps, "maps": maps}  # [B, C], [B, C, …], [B, C or C + 1, …]


def build_cam_classifier(settings: dict, pretrained: str = "none") -> CamClassifier:
    """Build the network described by the settings of a checkpoint.

    settings: those of `build_backbone`, classes (names) and background_map (default False). `pretrained`: see
    `build_backbone`.
    """
    backbone = build_backbone(settings, pretrained, output_stride=16)
    return CamClassifier(backbone, len(settings["classes"]), settings.get("background_map", False))
