"""From an image of any size to the logits of its labels, and to a label map of that size."""

from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from utils.multi_scale import merge_scales, sliding_windows
from utils.precision import autocast


@torch.inference_mode()
def segmentation_logits(
    network: nn.Module,
    image: np.ndarray,
    device: torch.device,
    scales=(1.0,),
    flip: bool = False,
    amp: bool = True,
    window_px: int | None = None,
    stride_px: int | None = None,
) -> Tensor:
    """Image RGB uint8 [H, W, 3] → float32 [L, H, W]: the sum of logits over scales and mirror images.

    With `window_px`, an image that is larger at its scale passes the network in `sliding_windows`.
    """
    network.eval()
    tensor = torch.from_numpy(image).to(device).permute(2, 0, 1)[None]  # [1, 3, H, W]

    def logits(batch):
        with autocast(device, enabled=amp):
            return network(batch)  # [B, L, h, w]

    if window_px:
        logits = partial(sliding_windows, logits, window_px=window_px, stride_px=stride_px)
    return merge_scales(logits, network.backbone.normalise(tensor), scales, flip)[0]


def predict_segmentation(network: nn.Module, image: np.ndarray, device: torch.device, **how) -> np.ndarray:
    """Image RGB uint8 [H, W, 3] → labels uint8 [H, W]: the largest of `segmentation_logits`; `how`: its parameters."""
    logits = segmentation_logits(network, image, device, **how)  # [L, H, W]
    return logits.argmax(dim=0).to(torch.uint8).cpu().numpy()
