"""Class activation maps: A_c = ReLU(F_c) / max ReLU(F_c)."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from formats.images import LARGEST_SIDE_PX, shrink_image
from utils.multi_scale import merge_scales
from utils.precision import autocast, require_finite

EPS = 1e-5
SPREAD_POWER, SPREAD_STEPS = 4, 2  # of `spread_cams`; chosen on a third of the 470 training photographs


@torch.inference_mode()
def compute_cams(
    network,
    images: np.ndarray,
    image_labels: np.ndarray,
    device: torch.device,
    scales=(1.0,),
    flip: bool = False,
    combine: str = "sum",
    amp: bool | str = False,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Compute the maps of a batch of images of one size by a classifier, `CamClassifier` in eval mode.

    images uint8 [B, H, W, 3]; image_labels bool [B, C], the classes of each image. Maps over `scales` and, with `flip`,
    mirror images are combined by "sum" or "max"; amp: see `half_type`.
    Returns for each image its maps, float32 [K, H, W] in 0..1, and their labels, uint8 [K], ascending.
    Raises `InputError` for maps that are not finite.
    """
    pixels = torch.from_numpy(images).to(device).permute(0, 3, 1, 2)  # [B, 3, H, W]
    present = np.flatnonzero(image_labels.any(axis=0))  # in any image of the batch
    own = image_labels[:, present]  # [B, P]
    rows, columns = (torch.from_numpy(places).to(device) for places in own.nonzero())  # of each image's maps
    maps = pixels.new_zeros(len(pixels), 0, *pixels.shape[-2:], dtype=torch.float32)
    if present.size:
        classes = torch.from_numpy(present).to(device)

        def class_maps(inputs: Tensor) -> Tensor:
            with autocast(device, amp):
                return F.relu(network(inputs)["class_maps"].float()[:, classes])  # [N, P, h, w]

        maps = merge_scales(class_maps, network.backbone.normalise(pixels), scales, flip, combine)  # [B, P, H, W]
    cams = normalise_cams(maps[rows, columns]).cpu().numpy()  # [M, H, W]
    labels = (present[columns.cpu().numpy()] + 1).astype(np.uint8)  # [M]
    ends = own.sum(axis=1).cumsum()[:-1]
    return list(zip(np.split(cams, ends), np.split(labels, ends)))


@torch.inference_mode()
def spread_cams(
    backbone, image: np.ndarray, cams: np.ndarray, device: torch.device, amp: bool | str = False
) -> np.ndarray:
    """Spread maps to places of similar features: twice, each place takes the mean of all places, weighted by the
    fourth power of the cosine of their features where it is positive.

    image uint8 [H, W, 3], maps float32 [K, H, W] → maps float32 [K, H, W] in 0..1. Features are the third of the four
    maps of a `Backbone`: the deepest is as coarse as the maps themselves. In place of the attention of MCTformer,
    TransCAM and others, so that it works with any network. Larger images are reduced to `LARGEST_SIDE_PX` first.
    """
    pixels = backbone.normalise(image_to_tensor(shrink_image(image, LARGEST_SIDE_PX), device))
    with autocast(device, amp):
        features = F.normalize(backbone(pixels)[2].float(), dim=1)[0]  # [D, h, w]
    size_hw, features = features.shape[1:], features.flatten(1)  # [D, N]
    weights = (features.T @ features).clamp(min=0) ** SPREAD_POWER  # [N, N]
    weights /= weights.sum(dim=1, keepdim=True)
    spread = torch.from_numpy(cams).to(device)[None]  # [1, K, H, W]
    spread = F.interpolate(spread, size_hw, mode="area")[0].flatten(1).T  # [N, K]
    for _ in range(SPREAD_STEPS):
        spread = weights @ spread  # [N, K]
    spread = spread.T.view(1, -1, *size_hw)  # [1, K, h, w]
    spread = F.interpolate(spread, cams.shape[1:], mode="bilinear", align_corners=False)[0]  # [K, H, W]
    return normalise_cams(spread).cpu().numpy()


@torch.inference_mode()
def overlay_cams(network, image: np.ndarray, device, scales, flip: bool, amp: bool | str) -> np.ndarray:
    """Overlay an image, uint8 [H, W, 3], with the strongest map of the classes of a probability above 0.5, or else of
    the most probable class. Other arguments: see `compute_cams`.
    """
    tensor = network.backbone.normalise(image_to_tensor(image, device))
    with autocast(device, amp):
        logits = require_finite(network(tensor)["logits"][0])  # [C]
    logits = logits.float().cpu().numpy()
    image_labels = (logits > 0 if (logits > 0).any() else np.arange(len(logits)) == logits.argmax())[None]  # [1, C]
    ((cams, _),) = compute_cams(network, image[None], image_labels, device, scales, flip, amp=amp)
    return cv2.addWeighted(image, 0.5, paint_cams(cams), 0.5, 0)


def paint_cams(cams: np.ndarray) -> np.ndarray:
    """Paint the strongest of the maps [K, H, W] in 0..1 from blue to red, RGB uint8 [H, W, 3]."""
    heat = (cams.max(axis=0) * 255).astype(np.uint8)  # [H, W]
    return np.ascontiguousarray(cv2.applyColorMap(heat, cv2.COLORMAP_JET)[:, :, ::-1])


def normalise_cams(class_maps: Tensor) -> Tensor:
    """Divide each map by its maximum + 1e-5, as in IRN: rectified maps [K, H, W] → [K, H, W] in 0..1."""
    return class_maps / (class_maps.amax(dim=(1, 2), keepdim=True) + EPS)


def image_to_tensor(image: np.ndarray, device) -> Tensor:
    """RGB uint8 [H, W, 3] → uint8 [1, 3, H, W] on the device."""
    return torch.from_numpy(image).to(device).permute(2, 0, 1)[None]
