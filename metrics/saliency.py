"""Saliency metrics: MAE, F-measure and S-measure, by the conventions of PySODMetrics.

Truth: grey value over 128. Prediction: 8-bit map / 255, stretched to 0..1 per image unless constant. Everything
follows from one joint histogram per image: quadrant around the centroid of the truth × truth × grey level.
"""

import numpy as np

F_BETA2 = 0.3
S_ALPHA = 0.5
LEVELS = np.arange(256)
EPS = np.finfo(np.float64).eps


class SaliencyMetrics:
    """Scores of a set of images, as sums that can be added up over processes.

    `add` one image at a time; `scores` at the end. `state` is a flat float64 array: its sum over processes, given to
    `from_state`, stands for all images.
    """

    def __init__(self):
        self.num_images = 0
        self.sums = {"MAE": 0.0, "adpF": 0.0, "S": 0.0}
        self.f_curve = np.zeros(256)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """prediction: uint8 [H, W]; truth: bool [H, W]."""
        if prediction.dtype != np.uint8 or truth.dtype != bool or prediction.shape != truth.shape:
            raise ValueError(
                f"expected a uint8 map and a bool truth of one size, got {prediction.dtype} {list(prediction.shape)} "
                f"and {truth.dtype} {list(truth.shape)}"
            )
        quadrants = joint_histogram(prediction, truth)  # [4, 2, 256]
        counts = quadrants.sum(axis=0)  # [2, 256]: background, foreground
        values = stretched_values(counts.sum(axis=0))  # [256]
        self.num_images += 1
        self.sums["MAE"] += mean_absolute_error(counts, values)
        self.sums["adpF"] += adaptive_f(counts, values)
        self.sums["S"] += s_measure(quadrants, values)
        self.f_curve += f_curve(counts, values)

    @property
    def state(self) -> np.ndarray:
        return np.concatenate([[self.num_images], list(self.sums.values()), self.f_curve])

    @classmethod
    def from_state(cls, state: np.ndarray) -> "SaliencyMetrics":
        metrics = cls()
        metrics.num_images = int(state[0])
        metrics.sums = dict(zip(metrics.sums, state[1:4].tolist()))
        metrics.f_curve = state[4:]
        return metrics

    def scores(self) -> dict[str, float]:
        """MAE, S, and F by its adaptive threshold, and the mean and maximum of the mean F curve, all in 0..1."""
        if self.num_images == 0:
            raise ValueError("no image was scored")
        mean = {name: value / self.num_images for name, value in self.sums.items()}
        curve = self.f_curve / self.num_images
        scores = {"MAE": mean["MAE"], "maxF": curve.max(), "meanF": curve.mean(), "adpF": mean["adpF"], "S": mean["S"]}
        return {name: float(value) for name, value in scores.items()}


def joint_histogram(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Counts int64 [4 quadrants, background and foreground, 256 levels]; quadrants in reading order."""
    row, column = centroid(truth)
    codes = prediction.astype(np.int64) + 256 * truth
    parts = codes[:row, :column], codes[:row, column:], codes[row:, :column], codes[row:, column:]
    return np.stack([np.bincount(part.ravel(), minlength=512).reshape(2, 256) for part in parts])


def centroid(truth: np.ndarray) -> tuple[int, int]:
    """First row and column below and right of the foreground's rounded centroid (of the image, if empty)."""
    height, width = truth.shape
    area = np.count_nonzero(truth)
    if area == 0:
        return int(np.round(height / 2)), int(np.round(width / 2))
    row = np.count_nonzero(truth, axis=1) @ np.arange(height) / area
    column = np.count_nonzero(truth, axis=0) @ np.arange(width) / area
    return int(np.round(row)) + 1, int(np.round(column)) + 1


def stretched_values(counts: np.ndarray) -> np.ndarray:
    """The value in 0..1 that each grey level stands for, given how often each occurs [256]."""
    values = LEVELS / 255
    present = np.flatnonzero(counts)
    low, high = values[present[0]], values[present[-1]]
    return values if low == high else (values - low) / (high - low)


def mean_absolute_error(counts: np.ndarray, values: np.ndarray) -> float:
    background, foreground = counts
    return float((background @ values + foreground @ (1 - values)) / counts.sum())


def f_measure(precision, recall):
    """Weighted harmonic mean with β² = 0.3; 0 where both are 0."""
    numerator = (1 + F_BETA2) * precision * recall
    return numerator / np.where(numerator == 0, 1, F_BETA2 * precision + recall)


def adaptive_f(counts: np.ndarray, values: np.ndarray) -> float:
    """F at the threshold min(2 · mean, 1), map ≥ threshold."""
    both = counts.sum(axis=0)
    chosen = values >= min(2 * (both @ values) / both.sum(), 1)
    hits = counts[1][chosen].sum()
    if hits == 0:
        return 0.0
    return float(f_measure(hits / both[chosen].sum(), hits / counts[1].sum()))


def f_curve(counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """F at 256 thresholds on the truncated 8-bit values, [256], from the highest threshold down."""
    levels = np.clip(values * 255, 0, 255).astype(np.int64)
    background, foreground = (np.bincount(levels, weights=row, minlength=256)[::-1].cumsum() for row in counts)
    chosen = background + foreground
    return f_measure(foreground / np.maximum(chosen, 1), foreground / max(counts[1].sum(), 1))


def s_measure(quadrants: np.ndarray, values: np.ndarray) -> float:
    """Structure measure (Fan et al., ICCV 2017), α = 0.5, at least 0.

    Quadrants without pixels count nothing, and the variance of a single pixel is 0 (the reference gives NaN).
    """
    counts = quadrants.sum(axis=0)
    total, share = counts.sum(), counts[1].sum() / counts.sum()
    mean = (counts.sum(axis=0) @ values) / total
    if share == 0:
        return float(1 - mean)
    if share == 1:
        return float(mean)
    objects = share * object_score(counts[1], values) + (1 - share) * object_score(counts[0], 1 - values)
    regions = sum(part.sum() / total * region_score(part, values) for part in quadrants if part.any())
    return float(max(0.0, S_ALPHA * objects + (1 - S_ALPHA) * regions))


def object_score(counts: np.ndarray, values: np.ndarray) -> float:
    """2μ / (μ² + 1 + σ) of the values counted in `counts` [256]."""
    number = counts.sum()
    mean = counts @ values / number
    deviation = np.sqrt(counts @ (values - mean) ** 2 / max(number - 1, 1))
    return 2 * mean / (mean**2 + 1 + deviation + EPS)


def region_score(counts: np.ndarray, values: np.ndarray) -> float:
    """Structural similarity of map and truth within one quadrant, `counts` [2, 256]."""
    number = counts.sum()
    freedom = max(number - 1, 1)
    x, y = counts.sum(axis=0) @ values / number, counts[1].sum() / number
    variance_x = counts.sum(axis=0) @ (values - x) ** 2 / freedom
    variance_y = number * y * (1 - y) / freedom
    covariance = (counts[1] @ (values - x)) / freedom  # Σ (v − x)(g − y) = Σ over the foreground of (v − x)
    alpha = 4 * x * y * covariance
    beta = (x**2 + y**2) * (variance_x + variance_y)
    if alpha != 0:
        return alpha / (beta + EPS)
    return 1.0 if beta == 0 else 0.0
