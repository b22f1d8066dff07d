"""Class activation maps: A_c = ReLU(F_c) / max ReLU(F_c)."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-5


def normalise_cams(class_maps: Tensor) -> Tensor:
    """Divide each map by its maximum + 1e-5, as in IRN: rectify_maps [K, H, W] → [K, H, W] in 0..1."""
    return class_maps / (class_maps.amax(dim=(1, 2), keepdim=True) + EPS)


def rectify_maps(class_maps: Tensor, classes: Tensor) -> Tensor:
    """ReLU of the maps of some classes: raw [B, C, h, w], indices [K] → [B, K, h, w]."""
    return F.relu(class_maps[:, classes])


def image_to_tensor(image: np.ndarray, device) -> Tensor:
    """RGB uint8 [H, W, 3] → uint8 [1, 3, H, W] on the device."""
    return torch.from_numpy(image).to(device).permute(2, 0, 1)[None]
