"""Augmentation of windows has the same distribution as augmentation of whole images with PIL."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance
from scipy.stats import ks_2samp

from datasets.transforms import change_colours, crop_image, crop_map, draw_crop, draw_saliency_crop
from formats.images import decode_image
from formats.labels import IGNORE_LABEL

HEIGHT, WIDTH, CROP_PX, LONG_SIDE_PX = 75, 100, 64, (52, 204)


def build_ramps(height: int, width: int) -> np.ndarray:
    """Build an image whose red and green values are twice the column and row of each pixel."""
    columns, rows = np.meshgrid(2 * np.arange(width), 2 * np.arange(height))
    return np.dstack([columns, rows, np.full_like(rows, 7)]).astype(np.uint8)


def measure_crop(crop: np.ndarray) -> tuple[float, float, float, float, float]:
    """Measure the share of the crop inside the image, the scale, the centre x and y (px of the image), and the flip."""
    inside = crop[..., 2] == 7
    rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
    window = crop[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float) / 2
    across = window[len(window) // 2, :, 0]
    slope = np.polyfit(np.arange(len(across)), across, 1)[0]
    return inside.mean(), 1 / abs(slope), across.mean(), window[:, 0, 1].mean(), float(slope < 0)


def crop_window(seed: int) -> np.ndarray:
    crop = draw_crop((HEIGHT, WIDTH), CROP_PX, LONG_SIDE_PX, np.random.default_rng(seed))
    return crop_image(build_ramps(HEIGHT, WIDTH), crop)


def crop_by_pil(seed: int) -> np.ndarray:
    """Resize, flip, pad and crop the whole image."""
    rng = np.random.default_rng(10_000 + seed)
    scale = rng.uniform(*LONG_SIDE_PX) / WIDTH
    size = round(WIDTH * scale), round(HEIGHT * scale)
    image = np.asarray(Image.fromarray(build_ramps(HEIGHT, WIDTH)).resize(size, Image.Resampling.BILINEAR))
    image = image[:, ::-1] if rng.random() < 0.5 else image
    for axis in (0, 1):
        spare = image.shape[axis] - CROP_PX
        first = rng.integers(min(0, spare), max(0, spare) + 1)
        if spare < 0:
            before = [(0, 0)] * 3
            before[axis] = (-first, first - spare)
            image = np.pad(image, before)
        else:
            image = np.take(image, range(first, first + CROP_PX), axis=axis)
    return image


def test_crops_are_distributed_as_those_of_resized_images():
    rows = {make: np.array([measure_crop(make(seed)) for seed in range(800)]) for make in (crop_window, crop_by_pil)}
    for values in rows.values():  # round centres to px, and spread ties
        values[:, 2:4] = values[:, 2:4].round() + np.linspace(0, 1, len(values))[:, None]
    names = ("share of the crop", "scale", "column", "row", "mirrored")
    chances = {name: ks_2samp(*pair).pvalue for name, *pair in zip(names, rows[crop_window].T, rows[crop_by_pil].T)}
    assert min(chances.values()) > 0.01, chances


def crop_saliency(seed: int) -> np.ndarray:
    crop = draw_saliency_crop((HEIGHT, WIDTH), CROP_PX, np.random.default_rng(seed))
    return crop_image(build_ramps(HEIGHT, WIDTH), crop)


def crop_saliency_by_pil(seed: int) -> np.ndarray:
    """Flip, crop and rotate the image before resizing it."""
    rng = np.random.default_rng(10_000 + seed)
    image = Image.fromarray(build_ramps(HEIGHT, WIDTH)[:, :: rng.choice([-1, 1])])
    height, width = (round(side * rng.uniform(0.9, 1)) for side in (HEIGHT, WIDTH))
    top, left = int(rng.integers(HEIGHT - height + 1)), int(rng.integers(WIDTH - width + 1))
    image = image.crop((left, top, left + width, top + height))
    if rng.random() < 0.2:
        image = image.rotate(rng.uniform(-15, 15), Image.Resampling.BICUBIC)
    return np.asarray(image.resize((CROP_PX, CROP_PX), Image.Resampling.BILINEAR))


def fit_placement(picture: np.ndarray) -> np.ndarray:
    """Fit the affine map from a picture of ramps to its image, by the inner half of the picture.

    Returns (x, y, x per right, y per right, x per down, y per down): the centre in the image, and the step in the image
    for one px to the right and one px down, in px.
    """
    inner = slice(CROP_PX // 4, 3 * CROP_PX // 4)
    values = picture[inner, inner, :2].reshape(-1, 2) / 2  # x and y in the image
    places = np.arange(CROP_PX)[inner] - (CROP_PX - 1) / 2
    right, down = np.meshgrid(places, places)
    plane = np.column_stack([np.ones(right.size), right.ravel(), down.ravel()])
    return np.linalg.lstsq(plane, values, rcond=None)[0].ravel()


def test_saliency_pictures_are_distributed_as_those_of_whole_images():
    kinds = (crop_saliency, crop_saliency_by_pil)
    rows = {make: np.array([fit_placement(make(seed)) for seed in range(2000)]) for make in kinds}
    turned = {make: np.abs(values[:, 3]) > 0.01 for make, values in rows.items()}
    mirrored = {make: values[:, 2] < 0 for make, values in rows.items()}
    for share in (turned, mirrored):
        assert share[crop_saliency].mean() == pytest.approx(share[crop_saliency_by_pil].mean(), abs=0.04)
    shear = {make: np.median(np.abs(v[turned[make], 4] / v[turned[make], 3])) for make, v in rows.items()}
    # 0.56 times as much if squares are rotated
    assert shear[crop_saliency] == pytest.approx(shear[crop_saliency_by_pil], rel=0.02)
    noise = np.random.default_rng(0).uniform(-1, 1, (2000, 6)) * (0.5, 0.5, 0.01, 0.01, 0.01, 0.01)
    for values in rows.values():  # windows begin and end between px: spread values that differ only by rounding
        values[:, [2, 3]] *= np.sign(values[:, [2]])
        values += noise
    chances = {
        (name, kind): ks_2samp(*(rows[make][which[make], place] for make in rows)).pvalue
        for place, name in enumerate(("x", "y", "x per right", "y per right", "x per down", "y per down"))
        for kind, which in (("turned", turned), ("upright", {make: ~some for make, some in turned.items()}))
    }
    assert min(chances.values()) > 0.001, chances


def test_textures_keep_their_strength():
    """For the spectrum of natural images (1 / f), the mean difference of neighbours is close to that of PIL."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(WIDTH), np.fft.fftfreq(HEIGHT)))
    waves = np.fft.fft2(rng.normal(size=(HEIGHT, WIDTH))) / np.maximum(frequency, 1 / WIDTH)
    grey = np.real(np.fft.ifft2(waves))
    image = np.dstack([np.clip(128 + 50 * grey / grey.std(), 0, 255).astype(np.uint8)] * 3)
    for scale, kind, tolerance in ((0.6, "BICUBIC", 0.2), (0.8, "BICUBIC", 0.2), (2, "BILINEAR", 0.07)):
        long_side = (scale * WIDTH,) * 2
        crops = [draw_crop((HEIGHT, WIDTH), 40, long_side, rng) for _ in range(200)]
        crops = [crop_image(image, crop).astype(float) for crop in crops]
        size = round(WIDTH * scale), round(HEIGHT * scale)
        whole = np.asarray(Image.fromarray(image).resize(size, Image.Resampling[kind])).astype(float)
        steps = [np.abs(np.diff(picture, axis=1)).mean() for picture in (np.concatenate(crops), whole)]
        assert steps[0] == pytest.approx(steps[1], rel=tolerance), scale


@pytest.mark.parametrize("long_side_px", [20, 52, 100, 300])
def test_labels_lie_on_their_image(long_side_px):
    blocks = np.kron(np.arange(1, 13).reshape(3, 4), np.ones((25, 25))).astype(np.uint8)  # [75, 100]
    image = np.dstack([20 * blocks] * 3)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        crop = draw_crop(blocks.shape, CROP_PX, (long_side_px, long_side_px), rng)
        label, colour = crop_map(blocks, crop, IGNORE_LABEL), crop_image(image, crop)[..., 0]
        inside = label != IGNORE_LABEL
        agreement = np.abs(colour[inside] / 20 - label[inside]) < 0.5
        assert agreement.mean() > 0.9
        assert (crop_image(image, crop)[~inside] == (124, 116, 104)).all()
        crop = draw_saliency_crop(blocks.shape, CROP_PX, rng)
        colours = crop_image(image, crop)[..., 0] / 20
        assert (np.abs(colours - crop_map(blocks, crop)) < 0.5).mean() > 0.9


def test_large_photographs_are_decoded_smaller():
    """Decoding is reduced only while the window keeps the resolution of the training picture."""
    rng = np.random.default_rng(0)
    image = cv2.resize(rng.integers(0, 256, (6, 8, 3)).astype(np.uint8), (801, 603), interpolation=cv2.INTER_CUBIC)
    content = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 98])[1].tobytes()
    for long_side_px, reduction in ((801, 1), (410, 1), (390, 2), (190, 4), (90, 8)):
        crop = draw_crop(image.shape[:2], 48, (long_side_px, long_side_px), rng)
        assert crop.reduction == reduction
        smaller = decode_image(content, "", crop.reduction)
        assert smaller.shape[0] == -(-603 // reduction)
        small, whole = (crop_image(picture, crop).astype(int) for picture in (smaller, decode_image(content, "")))
        assert np.abs(small - whole).mean() < 6
        assert np.corrcoef(small.ravel(), whole.ravel())[0, 1] > 0.98
    assert draw_saliency_crop((4000, 3000), 224, rng).reduction == 8


@pytest.mark.parametrize("strength", [0, 0.3, 1])
def test_colours_are_those_of_pil(strength):
    image = cv2.resize(np.random.default_rng(1).integers(0, 256, (8, 8, 3)).astype(np.uint8), (64, 64))
    for seed in range(20):
        rng = np.random.default_rng(seed)
        factors = [
            *rng.uniform(1 - 0.5 * strength, 1 + 0.5 * strength, 2),
            rng.uniform(1 - strength, 1 + strength),
            rng.uniform(1 - strength, 1 + 2 * strength),
        ]
        expected = Image.fromarray(image)
        kinds = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color, ImageEnhance.Sharpness)
        for kind, factor in zip(kinds, factors):
            expected = kind(expected).enhance(factor)
        changed = change_colours(image, np.random.default_rng(seed), strength)
        inner = (slice(1, -1), slice(1, -1))  # PIL does not change the border
        difference = np.abs(changed[inner].astype(int) - np.asarray(expected)[inner])
        assert difference.max() <= 10
        assert difference.mean() < 4
