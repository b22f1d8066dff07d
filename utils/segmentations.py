"""From an image of any size to a label map of that size."""

import numpy as np
import torch
from torch import nn

from utils.multi_scale import merge_scales
from utils.precision import autocast


@torch.inference_mode()
def predict_segmentation(
    network: nn.Module, image: np.ndarray, device: torch.device, scales=(1.0,), flip: bool = False, amp: bool = True
) -> np.ndarray:
    """Image RGB uint8 [H, W, 3] → labels uint8 [H, W]: the largest sum of logits over scales and mirror images."""
    network.eval()
    tensor = torch.from_numpy(image).to(device).permute(2, 0, 1)[None]  # [1, 3, H, W]

    def logits(batch):
        with autocast(device, enabled=amp):
            return network(batch).float()  # [B, L, h, w]

    total = merge_scales(logits, network.backbone.normalise(tensor), scales, flip)  # [1, L, H, W]
    return total[0].argmax(dim=0).to(torch.uint8).cpu().numpy()
