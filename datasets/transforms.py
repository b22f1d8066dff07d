"""Augmentation of an image together with its mask or label map: a window is drawn before anything is decoded, and no
more of the files is decoded and resized than the window needs.

Images are RGB uint8 [H, W, 3], masks and labels uint8 [H, W]. All randomness comes from the generator passed in.
"""

from dataclasses import dataclass
from operator import mul

import cv2
import numpy as np
import torch

from formats.errors import InputError

MEAN_COLOUR = (124, 116, 104)  # ImageNet's mean RGB, beyond the border of an image
REDUCTIONS = (8, 4, 2)  # by which JPEG files can be decoded smaller, without decoding all first
SMOOTHING_BLUR = 9 / 13  # share of the mean of 3×3 px in PIL's filter SMOOTH; the rest is the px itself
GREY_WEIGHTS = (0.299, 0.587, 0.114)
GREY, COLOUR = np.tile(GREY_WEIGHTS, (3, 1)), np.eye(3)  # [3, 3]: shares of all channels in each
LEVELS = np.arange(256, dtype=np.float32)


@dataclass(frozen=True)
class Span:
    """Along one side of an image: the `length` px from `start` on become `out_length` of `out_side` px, from
    `out_start` on."""

    side: int
    start: int
    length: int
    out_start: int
    out_length: int
    out_side: int

    def of(self, decoded_side: int) -> slice:
        """The px of the image, which may have been decoded at a smaller scale."""
        first, last = (round(place * decoded_side / self.side) for place in (self.start, self.start + self.length))
        first = min(first, decoded_side - 1)
        return slice(first, max(last, first + 1))


@dataclass(frozen=True)
class Crop:
    """A window of an image, as a rectangle of the training picture: all of it, unless the image ends before."""

    rows: Span
    columns: Span
    mirrored: bool

    @property
    def reduction(self) -> int:
        """By how much smaller the image may be decoded: the window keeps at least the px of the training picture."""
        shrinkage = min(span.length / span.out_length for span in (self.rows, self.columns))
        return next((factor for factor in REDUCTIONS if shrinkage >= factor), 1)

    def of_image(self, image: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3], whole or decoded smaller → [S, S, 3], bilinear; mean colour beyond the image."""
        return self._placed(image, cv2.INTER_LINEAR, MEAN_COLOUR)

    def of_map(self, grey: np.ndarray, border: int = 0) -> np.ndarray:
        """A mask or label map uint8 [H, W] → [S, S], by nearest neighbour; `border` beyond the image."""
        return self._placed(grey, cv2.INTER_NEAREST_EXACT, border)

    def window(self, picture: np.ndarray) -> np.ndarray:
        """The part of a picture [H, W, …] that the training picture shows."""
        height, width = picture.shape[:2]
        return picture[self.rows.of(height), self.columns.of(width)]

    def _placed(self, picture: np.ndarray, interpolation: int, border) -> np.ndarray:
        size = self.columns.out_length, self.rows.out_length
        window = cv2.resize(self.window(picture), size, interpolation=interpolation)
        if self.mirrored:
            window = cv2.flip(window, 1)
        above, left = self.rows.out_start, self.columns.out_start
        below, right = (span.out_side - span.out_start - span.out_length for span in (self.rows, self.columns))
        if not (above or below or left or right):
            return window
        return cv2.copyMakeBorder(window, above, below, left, right, cv2.BORDER_CONSTANT, value=border)


def draw_crop(image_hw, crop_px: int, long_side_px: tuple[int, int], rng: np.random.Generator) -> Crop:
    """Longer side to a random length of `long_side_px`, a random window of crop_px × crop_px, flip.

    Where the image is smaller than the window, it lies at a random place in it. The scale is rounded to whole px of the
    image, so that windows begin and end between them.
    """
    scale = rng.uniform(*long_side_px) / max(image_hw)
    window_px = max(1, round(crop_px / scale))
    spans = [_draw_span(side, window_px, crop_px, rng) for side in image_hw]
    return Crop(*spans, mirrored=rng.random() < 0.5)


def _draw_span(side: int, window_px: int, out_side: int, rng: np.random.Generator) -> Span:
    spare = side - window_px
    if spare >= 0:
        return Span(side, int(rng.integers(spare + 1)), window_px, 0, out_side, out_side)
    out_length = max(1, round(side * out_side / window_px))
    return Span(side, 0, side, int(rng.integers(out_side - out_length + 1)), out_length, out_side)


@dataclass(frozen=True)
class SaliencyAugmentation:
    """A crop of 90–100 % of each side, flip, rotation by ±15° at p 0.2, colours; mirrored beyond the crop."""

    crop: Crop
    angle_deg: float

    def of_image(self, image: np.ndarray, rng: np.random.Generator, colour_jitter: float = 1.0) -> np.ndarray:
        """uint8 [H, W, 3], whole or decoded smaller → [S, S, 3]."""
        image = self._turned(image, cv2.INTER_LINEAR) if self.angle_deg else self.crop.of_image(image)
        return change_colours(image, rng, colour_jitter)

    def of_map(self, grey: np.ndarray) -> np.ndarray:
        """A mask or edge map uint8 [H, W] → [S, S], by nearest neighbour."""
        return self._turned(grey, cv2.INTER_NEAREST) if self.angle_deg else self.crop.of_map(grey)

    def _turned(self, picture: np.ndarray, interpolation: int) -> np.ndarray:
        window, size = self.crop.window(picture), self.crop.rows.out_side
        centre, (y, x) = (size - 1) / 2, ((side - 1) / 2 for side in window.shape[:2])
        turn = np.vstack([cv2.getRotationMatrix2D((x, y), self.angle_deg, 1), (0, 0, 1)])  # [3, 3], in the window
        down, across = (size / side for side in window.shape[:2])
        across = -across if self.crop.mirrored else across
        to_square = np.array([[across, 0, centre - across * x], [0, down, centre - down * y]])  # [2, 3]
        matrix = to_square @ turn
        return cv2.warpAffine(window, matrix, (size, size), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101)


def draw_saliency_augmentation(image_hw, size_px: int, rng: np.random.Generator) -> SaliencyAugmentation:
    """What is done to an image and its maps; what is done to the colours is drawn later."""
    *drawn, mirrors, turns, angle = rng.random(7).tolist()  # at once, for each call takes its time
    lengths = [max(1, round(side * (0.9 + 0.1 * share))) for side, share in zip(image_hw, drawn)]
    starts = [int(share * (side - length + 1)) for side, length, share in zip(image_hw, lengths, drawn[2:])]
    spans = [Span(side, start, length, 0, size_px, size_px) for side, start, length in zip(image_hw, starts, lengths)]
    return SaliencyAugmentation(Crop(*spans, mirrored=mirrors < 0.5), 30 * angle - 15 if turns < 0.2 else 0.0)


def check_long_side(long_side_px) -> tuple[int, int]:
    smallest, largest = long_side_px
    if smallest > largest:
        raise InputError(f"--long_side {smallest} {largest}: the first number must not exceed the second")
    return smallest, largest


def change_colours(image: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Brightness and contrast 0.5–1.5, colour 0–2, sharpness 0–3; 1 leaves each as it is.

    `strength` 0..1 narrows the four ranges around 1: at 0 nothing changes.
    """
    ranges = ((0.5, 0.5), (0.5, 0.5), (1, 1), (1, 2))  # below and above 1
    brightness, contrast, colour, sharpness = (
        1 + strength * (share * (below + above) - below)
        for share, (below, above) in zip(rng.random(4).tolist(), ranges)
    )
    mean_grey = min(255.0, brightness * sum(map(mul, cv2.mean(image), GREY_WEIGHTS)))
    levels = np.minimum(contrast * brightness * LEVELS, contrast * 255) + (1 - contrast) * mean_grey
    table = np.clip(levels, 0, 255).astype(np.uint8)
    image = cv2.transform(cv2.LUT(image, table), GREY + colour * (COLOUR - GREY))
    blurred = (1 - sharpness) * SMOOTHING_BLUR
    return cv2.addWeighted(image, 1 - blurred, cv2.blur(image, (3, 3)), blurred, 0)


def channels_first(image: np.ndarray) -> torch.Tensor:
    """uint8 [H, W, 3] → [3, H, W]."""
    planes = np.empty((3, *image.shape[:2]), np.uint8)
    cv2.split(image, list(planes))
    return torch.from_numpy(planes)
