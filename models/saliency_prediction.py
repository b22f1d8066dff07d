"""8-bit saliency maps of images of any size."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from utils.multi_scale import merge_scales
from utils.precision import autocast

COARSEST_STRIDE = 32


@torch.inference_mode()
def predict_saliency(
    network: nn.Module,
    images: list[np.ndarray],
    image_size: int,
    device: torch.device,
    scales=(1.0,),
    flip: bool = False,
    amp: bool | str = True,
) -> list[np.ndarray]:
    """Predict saliency maps: RGB uint8 [H, W, 3], each of its own size → uint8 [H, W].

    Each image is resized to image_size × image_size and the map is resized back, both antialiased. Logits are averaged
    over `scales` of that size and, with `flip`, mirror images. `amp`: see `half_type`.
    """
    network.eval()
    tensors = [torch.from_numpy(image).to(device).permute(2, 0, 1)[None].float() for image in images]
    batch = torch.cat([resize_antialiased(tensor, (image_size, image_size)) for tensor in tensors])  # [B, 3, S, S]

    def finest_logits(inputs):
        with autocast(device, enabled=amp):
            return network(inputs)["saliency"][0].float()  # [N, 1, s, s]

    total = merge_scales(finest_logits, network.backbone.normalise(batch), scales, flip, multiple=COARSEST_STRIDE)
    logits = total / (len(scales) * (1 + flip))  # [B, 1, S, S]
    maps = []
    for image, row in zip(images, logits):
        probs = resize_antialiased(row[None], image.shape[:2]).sigmoid()[0, 0]  # [H, W]
        maps.append((probs * 255).round().to(torch.uint8).cpu().numpy())
    return maps


def scale_side(image_size: int, scale: float) -> int:
    """Side of the network input at a scale, px: a multiple of the coarsest stride, except at scale 1."""
    return image_size if scale == 1 else max(1, round(image_size * scale / COARSEST_STRIDE)) * COARSEST_STRIDE


def resize_antialiased(x: torch.Tensor, size_hw) -> torch.Tensor:
    """Bilinear with antialiasing when shrinking: [B, C, H, W] → [B, C, *size_hw]."""
    return F.interpolate(x, size=tuple(size_hw), mode="bilinear", align_corners=False, antialias=True)
