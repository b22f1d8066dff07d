"""Augmentation of an image together with its mask or label map: one warp for all geometry, then colour.

Images are RGB uint8 [H, W, 3], masks and labels uint8 [H, W]. All randomness comes from the generator passed in.
"""

import cv2
import numpy as np

from input_errors import InputError
from label_files import IGNORE_LABEL

MEAN_COLOUR = (124, 116, 104)  # ImageNet's mean RGB, beyond the border of an image
SMOOTHING = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13  # PIL's filter of that name
GREY_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)


def augment_saliency(
    image: np.ndarray, maps: list[np.ndarray], size_px: int, rng: np.random.Generator, colour_jitter: float = 1.0
) -> list[np.ndarray]:
    """Flip, 90–100 % crop, ±15° rotation at p 0.2, colours → image and maps of size_px × size_px, in this order.

    The maps (masks, edges) are sampled by nearest neighbour; everything is mirrored beyond the border.
    """
    height, width = image.shape[:2]
    crop_h, crop_w = height * rng.uniform(0.9, 1), width * rng.uniform(0.9, 1)
    top, left = rng.uniform(0, height - crop_h), rng.uniform(0, width - crop_w)
    to_square = np.diag([size_px / crop_w, size_px / crop_h, 1.0]) @ translation(-left, -top)
    if rng.random() < 0.5:
        to_square = translation(size_px, 0) @ np.diag([-1.0, 1.0, 1.0]) @ to_square
    if rng.random() < 0.2:
        to_square = rotation(rng.uniform(-15, 15), size_px / 2) @ to_square
    image = warp(image, to_square, size_px, cv2.INTER_LINEAR, cv2.BORDER_REFLECT_101)
    maps = [warp(grey, to_square, size_px, cv2.INTER_NEAREST, cv2.BORDER_REFLECT_101) for grey in maps]
    return [change_colours(image, rng, colour_jitter), *maps]


def random_crop(
    image: np.ndarray,
    label: np.ndarray | None,
    crop_px: int,
    long_side_px: tuple[int, int],
    rng: np.random.Generator,
    border_label: int = IGNORE_LABEL,
):
    """Longer side to a random length of `long_side_px`, flip, a random crop_px × crop_px window.

    Where the image is smaller than the crop, it lies at a random place in it: mean colour and `border_label` around it.
    """
    height, width = image.shape[:2]
    scale = rng.uniform(*long_side_px) / max(height, width)
    spare_w, spare_h = width * scale - crop_px, height * scale - crop_px
    left = rng.uniform(min(0, spare_w), max(0, spare_w))
    top = rng.uniform(min(0, spare_h), max(0, spare_h))
    to_crop = translation(-left, -top) @ np.diag([scale, scale, 1.0])
    if rng.random() < 0.5:
        to_crop = translation(crop_px, 0) @ np.diag([-1.0, 1.0, 1.0]) @ to_crop
    image = warp(image, to_crop, crop_px, cv2.INTER_LINEAR, cv2.BORDER_CONSTANT, MEAN_COLOUR)
    if label is not None:
        label = warp(label, to_crop, crop_px, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, border_label)
    return image, label


def check_long_side(long_side_px) -> tuple[int, int]:
    smallest, largest = long_side_px
    if smallest > largest:
        raise InputError(f"--long_side {smallest} {largest}: the first number must not exceed the second")
    return smallest, largest


def change_colours(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Brightness and contrast 0.5–1.5, colour 0–2, sharpness 0–3; 1 leaves each as it is.

    `strength` 0..1 narrows the four ranges around 1: at 0 nothing changes.
    """
    brightness, contrast = rng.uniform(1 - 0.5 * strength, 1 + 0.5 * strength, 2)
    colour, sharpness = rng.uniform(1 - strength, 1 + strength), rng.uniform(1 - strength, 1 + 2 * strength)
    mean_grey = min(255.0, float(image.mean(axis=(0, 1)) @ GREY_WEIGHTS) * brightness)
    levels = np.clip(np.arange(256) * brightness, 0, 255)
    table = np.clip(mean_grey + contrast * (levels - mean_grey), 0, 255).astype(np.uint8)
    image = cv2.LUT(image, table)
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    image = cv2.addWeighted(image, colour, grey, 1 - colour, 0)
    smooth = cv2.filter2D(image, -1, SMOOTHING)
    return cv2.addWeighted(image, sharpness, smooth, 1 - sharpness, 0)


def warp(image: np.ndarray, matrix: np.ndarray, size_px: int, interpolation: int, border: int, value=0) -> np.ndarray:
    """Applies a 3×3 affine matrix on pixel edges (the image covers 0..W × 0..H) → size_px × size_px."""
    on_centres = translation(-0.5, -0.5) @ matrix @ translation(0.5, 0.5)
    return cv2.warpAffine(
        image, on_centres[:2], (size_px, size_px), flags=interpolation, borderMode=border, borderValue=value
    )


def translation(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]], np.float64)


def rotation(angle_deg: float, centre: float) -> np.ndarray:
    """About (centre, centre)."""
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    return (
        translation(centre, centre)
        @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        @ translation(-centre, -centre)
    )
