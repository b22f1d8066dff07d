"""The classifier whose last layer is a class activation map."""

from torch import Tensor, nn

from models.backbones import Backbone, build_backbone


class CamClassifier(nn.Module):
    """Backbone, 1×1 convolution without bias, average over the map.

    forward: images float [B, 3, H, W], normalised → dict
        "logits"      [B, C]
        "class_maps"  [B, C, H / s, W / s], raw: before ReLU; the mean of map c is logit c
        "maps"        the same with, for EPS, a map of the background after them: [B, C + 1, H / s, W / s]
    """

    def __init__(self, backbone: Backbone, num_classes: int, background_map: bool = False):
        super().__init__()
        self.backbone = backbone
        self.num_classes = num_classes
        num_maps = num_classes + background_map
        self.classify = nn.Conv2d(backbone.channels[-1], num_maps, kernel_size=1, bias=False)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.backbone(images)[-1]  # [B, C4, H / s, W / s]
        maps = self.classify(features)  # [B, C or C + 1, H / s, W / s]
        class_maps = maps[:, : self.num_classes]  # [B, C, H / s, W / s]
        logits = class_maps.mean(dim=(2, 3))  # [B, C]
        return {"logits": logits, "class_maps": class_maps, "maps": maps}  # [B, C], [B, C, …], [B, C or C + 1, …]


def build_cam_classifier(settings: dict, pretrained: str = "none") -> CamClassifier:
    """The network that `settings` (of a checkpoint) describe: those of `build_backbone`, classes (names), and
    background_map (False where it is not named).

    `pretrained`: see `build_backbone`.
    """
    backbone = build_backbone(settings, pretrained, output_stride=16)
    return CamClassifier(backbone, len(settings["classes"]), settings.get("background_map", False))
