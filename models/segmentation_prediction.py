"""From images of any size to the logits of their labels, and to label maps of that size."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from utils.multi_scale import merge_scales, sliding_windows
from utils.precision import autocast


@torch.inference_mode()
def segmentation_logits(
    network: nn.Module,
    images: np.ndarray,
    device: torch.device,
    scales=(1.0,),
    flip: bool = False,
    amp: bool | str = True,
    window_px: int | None = None,
    stride_px: int | None = None,
) -> Tensor:
    """Images RGB uint8 [B, H, W, 3] → float32 [B, L, H, W]: the sum of logits over scales and mirror images.

    With `window_px`, images that are larger at their scale pass the network in `sliding_windows`.
    """
    network.eval()
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # [B, 3, H, W]

    def logits(batch):
        with autocast(device, enabled=amp):
            return network(batch)  # [N, L, h, w]

    if window_px:
        logits = partial(sliding_windows, logits, window_px=window_px, stride_px=stride_px)
    return merge_scales(logits, network.backbone.normalise(pixels), scales, flip)


def predict_segmentation(network: nn.Module, images: np.ndarray, device: torch.device, **how) -> np.ndarray:
    """Images RGB uint8 [B, H, W, 3] → labels uint8 [B, H, W]: the largest of `segmentation_logits`; `how`: its
    parameters."""
    logits = segmentation_logits(network, images, device, **how)  # [B, L, H, W]
    return logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
