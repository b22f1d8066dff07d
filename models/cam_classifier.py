"""The classifier whose last layer is a class activation map."""

from torch import Tensor, nn

from models.backbones import Backbone, build_backbone


class CamClassifier(nn.Module):
    """Backbone, 1×1 convolution without bias, average over the map.

    forward: images float [B, 3, H, W], normalised → dict
        "logits"      [B, C]
        "class_maps"  [B, C, H / s, W / s], raw: before ReLU; the mean of map c is logit c
    """

    def __init__(self, backbone: Backbone, num_classes: int):
        super().__init__()
        self.backbone = backbone
        self.classify = nn.Conv2d(backbone.channels[-1], num_classes, kernel_size=1, bias=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)[-1]  # [B, C4, H / s, W / s]
        class_maps = self.classify(features)  # [B, C, H / s, W / s]
        return {"logits": class_maps.mean(dim=(2, 3)), "class_maps": class_maps}


def build_cam_classifier(settings: dict, pretrained: str = "none") -> CamClassifier:
    """The network that `settings` (of a checkpoint) describe: those of `build_backbone`, classes (names).

    `pretrained`: see `build_backbone`.
    """
    backbone = build_backbone(settings, pretrained, output_stride=16)
    return CamClassifier(backbone, len(settings["classes"]))
