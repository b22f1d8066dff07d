"""Augmentation of an image together with its mask or label map.

A window of the image is drawn before anything is decoded, so that no more pixels are decoded and resized than it needs.
Images are RGB uint8 [H, W, 3], maps (masks and label maps) uint8 [H, W]. All randomness comes from the generator that
is passed in.
"""

from dataclasses import dataclass
from operator import mul

import cv2
import numpy as np
import torch

from formats.errors import InputError

MEAN_COLOUR = (124, 116, 104)  # ImageNet's mean RGB, used beyond the border of an image
REDUCTIONS = (8, 4, 2)  # factors by which JPEG files can be decoded smaller without being decoded whole
SMOOTHING_BLUR = 9 / 13  # share of the 3×3 mean in PIL's filter SMOOTH; the rest is the pixel itself
GREY_WEIGHTS = (0.299, 0.587, 0.114)
TO_GREY, IDENTITY = np.tile(GREY_WEIGHTS, (3, 1)), np.eye(3)  # [3, 3]: weights of the input channels in each channel
LEVELS = np.arange(256, dtype=np.float32)

Pair = tuple[int, int]  # (vertical, horizontal), px


@dataclass(frozen=True)
class Crop:
    """A window of an image and its place in the training picture of `side_px` × `side_px`.

    The window fills the training picture, unless the image is smaller: then it covers `resized_hw` from `offset_yx` on.
    """

    image_hw: Pair
    start_yx: Pair
    window_hw: Pair
    resized_hw: Pair
    offset_yx: Pair
    side_px: int
    mirrored: bool
    angle_deg: float = 0.0  # of a rotation about the centre of the window, reflected beyond its border

    @property
    def reduction(self) -> int:
        """Largest factor by which the image may be decoded smaller without losing pixels of the training picture."""
        shrinkage = min(px / resized_px for px, resized_px in zip(self.window_hw, self.resized_hw))
        return next((factor for factor in REDUCTIONS if shrinkage >= factor), 1)


def draw_crop(image_hw: Pair, side_px: int, long_side_px: Pair, rng: np.random.Generator) -> Crop:
    """Draw a scale at which the longer side is in `long_side_px`, a window of side_px × side_px, and a flip (p 0.5).

    An image smaller than the window lies at a random place in it. The scale is rounded so that a window consists of
    whole pixels of the image.
    """
    scale = rng.uniform(*long_side_px) / max(image_hw)
    window_px = max(1, round(side_px / scale))
    axes = [_draw_interval(length, window_px, side_px, rng) for length in image_hw]
    return Crop(image_hw, *zip(*axes), side_px, mirrored=rng.random() < 0.5)


def _draw_interval(length: int, window_px: int, side_px: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw start, length, resized length and offset of a window along one axis."""
    spare = length - window_px
    if spare >= 0:
        return int(rng.integers(spare + 1)), window_px, side_px, 0
    resized = max(1, round(length * side_px / window_px))
    return 0, length, resized, int(rng.integers(side_px - resized + 1))


def draw_saliency_crop(image_hw: Pair, side_px: int, rng: np.random.Generator) -> Crop:
    """Draw a window of 90–100 % of each side, a flip (p 0.5) and a rotation within ±15° (p 0.2)."""
    *shares, flip, turn, angle = rng.random(7).tolist()  # one call, because each takes its time
    window_hw = tuple(max(1, round(length * (0.9 + 0.1 * share))) for length, share in zip(image_hw, shares))
    spare = (length - window_px + 1 for length, window_px in zip(image_hw, window_hw))
    start_yx = tuple(int(share * places) for share, places in zip(shares[2:], spare))
    angle_deg = 30 * angle - 15 if turn < 0.2 else 0.0
    return Crop(image_hw, start_yx, window_hw, (side_px, side_px), (0, 0), side_px, flip < 0.5, angle_deg)


def crop_image(image: np.ndarray, crop: Crop) -> np.ndarray:
    """Make the training picture [S, S, 3] by bilinear resizing, with the mean colour beyond the image.

    `image` is uint8 [H, W, 3], whole or decoded smaller.
    """
    return _apply_crop(image, crop, cv2.INTER_LINEAR, MEAN_COLOUR)


def crop_map(grey: np.ndarray, crop: Crop, border: int = 0) -> np.ndarray:
    """Crop a map uint8 [H, W] to [S, S] by nearest neighbour, with `border` beyond the image."""
    return _apply_crop(grey, crop, cv2.INTER_NEAREST_EXACT, border)


def _apply_crop(picture: np.ndarray, crop: Crop, interpolation: int, border) -> np.ndarray:
    window = cut_window(picture, crop)
    if crop.angle_deg:
        return _rotate(window, crop)
    window = cv2.resize(window, crop.resized_hw[::-1], interpolation=interpolation)
    if crop.mirrored:
        window = cv2.flip(window, 1)
    above, left = crop.offset_yx
    below, right = (crop.side_px - px - offset for px, offset in zip(crop.resized_hw, crop.offset_yx))
    if not (above or below or left or right):
        return window
    return cv2.copyMakeBorder(window, above, below, left, right, cv2.BORDER_CONSTANT, value=border)


def cut_window(picture: np.ndarray, crop: Crop) -> np.ndarray:
    """Cut the window out of a picture [H, W, …], which may have been decoded at a smaller scale than `image_hw`."""
    slices = []
    for decoded, length, start, window_px in zip(picture.shape, crop.image_hw, crop.start_yx, crop.window_hw):
        first, last = (round(place * decoded / length) for place in (start, start + window_px))
        first = min(first, decoded - 1)
        slices.append(slice(first, max(last, first + 1)))
    return picture[tuple(slices)]


def _rotate(window: np.ndarray, crop: Crop) -> np.ndarray:
    """Rotate, mirror and resize a window to [S, S, …] in one warp: images bilinear, maps by nearest neighbour."""
    height, width = window.shape[:2]
    y, x, centre = (height - 1) / 2, (width - 1) / 2, (crop.side_px - 1) / 2
    rotation = np.vstack([cv2.getRotationMatrix2D((x, y), crop.angle_deg, 1), (0, 0, 1)])  # [3, 3], in the window
    down, across = crop.side_px / height, crop.side_px / width
    across = -across if crop.mirrored else across
    to_square = np.array([[across, 0, centre - across * x], [0, down, centre - down * y]])  # [2, 3]
    interpolation = cv2.INTER_LINEAR if window.ndim == 3 else cv2.INTER_NEAREST
    size = crop.side_px, crop.side_px
    return cv2.warpAffine(window, to_square @ rotation, size, flags=interpolation, borderMode=cv2.BORDER_REFLECT_101)


def check_long_side(long_side_px) -> Pair:
    """Raise `InputError` unless the range of --long_side is (smallest, largest), px."""
    smallest, largest = long_side_px
    if smallest > largest:
        raise InputError(f"--long_side {smallest} {largest}: the first number must not exceed the second")
    return smallest, largest


def change_colours(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Draw and apply brightness and contrast of 0.5–1.5, colour of 0–2 and sharpness of 0–3, where 1 has no effect.

    `strength` 0..1 narrows the four ranges around 1: at 0 the image stays the same.
    """
    ranges = ((0.5, 0.5), (0.5, 0.5), (1, 1), (1, 2))  # width below and above 1
    brightness, contrast, colour, sharpness = (
        1 + strength * (share * (below + above) - below)
        for share, (below, above) in zip(rng.random(4).tolist(), ranges)
    )
    mean_grey = min(255.0, brightness * sum(map(mul, cv2.mean(image), GREY_WEIGHTS)))
    levels = np.minimum(contrast * brightness * LEVELS, contrast * 255) + (1 - contrast) * mean_grey
    table = np.clip(levels, 0, 255).astype(np.uint8)
    image = cv2.transform(cv2.LUT(image, table), TO_GREY + colour * (IDENTITY - TO_GREY))
    blurred = (1 - sharpness) * SMOOTHING_BLUR
    return cv2.addWeighted(image, 1 - blurred, cv2.blur(image, (3, 3)), blurred, 0)


def channels_first(image: np.ndarray) -> torch.Tensor:
    """Convert uint8 [H, W, 3] to a tensor [3, H, W]."""
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)
