"""Segmentation of images of any size: logits and label maps."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from utils.multi_scale import merge_scales, slide_windows
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
    """Sum (not mean) of logits over scales and mirror images: RGB uint8 [B, H, W, 3] → float32 [B, L, H, W].

    The dense CRF uses the softmax of this sum, as in Puzzle-CAM.
    scales: factors on the image size; flip: also predict mirror images; amp: see `half_type`; window_px, stride_px:
    images larger than a window at their scale are predicted with `slide_windows`.
    """
    network.eval()
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # [B, 3, H, W]

    def logits(batch):
        with autocast(device, enabled=amp):
            return network(batch)  # [N, L, h, w]

    if window_px:
        logits = partial(slide_windows, logits, window_px=window_px, stride_px=stride_px)
    return merge_scales(logits, network.backbone.normalise(pixels), scales, flip)


def predict_segmentation(network: nn.Module, images: np.ndarray, device: torch.device, **how) -> np.ndarray:
    """Label maps: RGB uint8 [B, H, W, 3] → uint8 [B, H, W], the argmax of `segmentation_logits(..., **how)`."""
    return segmentation_logits(network, images, device, **how).argmax(dim=1).to(torch.uint8).cpu().numpy()
