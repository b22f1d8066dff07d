"""Saliency metrics equal to PySODMetrics 1.6 within 1e-9 (weighted F: 1e-6), from one joint histogram per image.

The map is 8-bit, / 255, stretched to 0..1 per image unless constant; the truth is bool. The histogram counts pixels by
quadrant around the centroid of the truth × truth × grey level, and everything but the weighted F-measure and the
Boundary IoU follows from it.

    MAE           mean |map − truth| (Perazzi et al., CVPR 2012)
    F             β² = 0.3 (Achanta et al., CVPR 2009)
    wF            weighted F, β² = 1 (Margolin et al., CVPR 2014), see weighted_f.py
    S             structure measure, α = 0.5 (Fan et al., ICCV 2017)
    E             enhanced alignment (Fan et al., IJCAI 2018)
    IoU, Dice, Specificity, Accuracy; BER: balanced error rate, lower is better
    boundary_IoU  of the stretched map ≥ 0.5 (Cheng et al., CVPR 2021)

Of F, E and the family of IoU there are three scores: adp, with the map cut at twice its mean (at 1 at most); mean and
max (of BER: min) of the mean curve over the thresholds 255 … 0 on the stretched map, truncated to 8 bits. Papers mix
two other meanings of "max F" with maxF: maxF_of_mean_PR, from the mean precision and recall, and mean_of_maxF.

What the reference leaves undefined is defined here; `strict_reference` gives it as the reference does:
    S         quadrants without pixels count nothing (NaN: a centroid that rounds to the last row or column)
    E         a mean over 1 is given as 1, for the sum over an image is divided by its pixels less one (a perfect map of
              N pixels: N / (N − 1)); an image of one pixel has 0 or 1 (4.5e15)
As in the reference, an empty truth has F, wF, IoU, Dice 0, whatever the map, and BER at least 0.5; S 1 − mean of the
map and E its empty share. A full truth has Specificity 0, S the mean of the map and E its chosen share.
Boundary IoU is 1 if neither map nor truth has an outline, 0 if one of them has.
"""

import cv2
import numpy as np

from metrics.segmentation import band_distance_px, boundary_band
from metrics.weighted_f import EPS, find_box, stretch_levels
from metrics.weighted_f import weighted_f as measure_weighted_f

F_BETA2 = 0.3
S_ALPHA = 0.5
NUM_LEVELS = 256
EXACT_COUNT = 2**24  # up to which the float32 counts of OpenCV's histogram are exact

# The state of an image: its count 1, these values, and the curves, float64 [9, 257], the adaptive threshold at the end.
VALUES = ("MAE", "S", "wF", "boundary_IoU", "mean_of_maxF")
CURVES = ("precision", "recall", "F", "IoU", "Dice", "Specificity", "Accuracy", "BER", "E")
STATE_SIZE = 1 + len(VALUES) + len(CURVES) * (NUM_LEVELS + 1)


class SaliencyMetrics:
    """Scores of a set of images, as sums that can be added up over processes.

    `add` one image at a time; `scores` at the end. `state` is a flat float64 array: its sum over processes, given to
    `from_state`, stands for all images.
    """

    def __init__(self, weighted_f: bool = True, strict_reference: bool = False):
        self.weighted_f = weighted_f
        self.strict_reference = strict_reference
        self.state = np.zeros(STATE_SIZE)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """prediction: uint8 [H, W]; truth: bool [H, W]."""
        self.add_state(measure_map(prediction, truth, self.weighted_f, self.strict_reference))

    def add_state(self, state: np.ndarray) -> None:
        """Adds what `measure_map` gave for one image, or a sum of such states."""
        self.state = self.state + state

    @classmethod
    def from_state(cls, state: np.ndarray, strict_reference: bool = False) -> "SaliencyMetrics":
        """Of a state, or a sum of states of several processes."""
        metrics = cls(strict_reference=strict_reference)
        metrics.add_state(state)
        return metrics

    def scores(self) -> dict[str, float]:
        """Every score by its name; without wF where it was not measured of each image."""
        return {name: float(score) for name, score in scores_of_state(self.state, self.strict_reference).items()}

    def curves(self) -> dict[str, np.ndarray]:
        """The mean curves by their names, [256], over the thresholds 255 … 0."""
        return curves_of_state(self.state, self.strict_reference)


def scores_of_state(state: np.ndarray, strict_reference: bool = False) -> dict[str, np.ndarray]:
    """Scores of a sum of states [K], or of each of several sums [B, K] → values or arrays [B] by name.

    0..1; wF only where it was measured of every image. A sum of NaN has scores of NaN.
    """
    values, curves = means_of_state(state)
    adaptive = {name: curve[..., NUM_LEVELS] for name, curve in curves.items()}
    curves = {name: curve[..., :NUM_LEVELS] for name, curve in curves.items()}
    f_of_means = f_measure(curves["precision"], curves["recall"])
    scores = {"MAE": values["MAE"], "S": values["S"]}
    if not np.isnan(values["wF"]).all():
        scores["wF"] = values["wF"]
    for name in ("F", "E", "IoU", "Dice", "Specificity", "Accuracy"):
        scores |= {
            f"max{name}": curves[name].max(-1),
            f"mean{name}": curves[name].mean(-1),
            f"adp{name}": adaptive[name],
        }
    scores |= {"minBER": curves["BER"].min(-1), "meanBER": curves["BER"].mean(-1), "adpBER": adaptive["BER"]}
    scores |= {"maxF_of_mean_PR": f_of_means.max(-1), "mean_of_maxF": values["mean_of_maxF"]}
    scores["boundary_IoU"] = values["boundary_IoU"]
    return scores if strict_reference else {name: np.minimum(score, 1) for name, score in scores.items()}


def curves_of_state(state: np.ndarray, strict_reference: bool = False) -> dict[str, np.ndarray]:
    """Mean curves by name, [256] (of several sums [B, 256]), over the thresholds 255 … 0, level ≥ threshold."""
    curves = {name: curve[..., :NUM_LEVELS] for name, curve in means_of_state(state)[1].items()}
    return curves if strict_reference else {name: np.minimum(curve, 1) for name, curve in curves.items()}


def means_of_state(state: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Means over the images: of the values, and of the curves with their adaptive threshold [..., 257], by name."""
    state = np.asarray(state)
    if state.shape[-1] != STATE_SIZE:
        raise ValueError(f"expected a state of {STATE_SIZE} sums, got {list(state.shape)}")
    if not state[..., 0].all():
        raise ValueError("no image was scored")
    means = np.moveaxis(state[..., 1:] / state[..., :1], -1, 0)
    values, curves = means[: len(VALUES)], means[len(VALUES) :].reshape(len(CURVES), NUM_LEVELS + 1, *means.shape[1:])
    return dict(zip(VALUES, values)), dict(zip(CURVES, np.moveaxis(curves, 1, -1)))


def measure_map(
    prediction: np.ndarray, truth: np.ndarray, weighted_f: bool = True, strict_reference: bool = False
) -> np.ndarray:
    """The state, float64 [K], of one image. prediction: uint8 [H, W]; truth: bool [H, W].

    Without `weighted_f` its place holds NaN, which sums keep.
    """
    check_pair(prediction, truth)
    parts = quadrants_of(truth)
    quadrants = np.stack([class_histograms(prediction[part], truth[part]) for part in parts])  # [4, 2, 256]
    counts = quadrants.sum(axis=0)  # [2, 256]: background, foreground
    present = np.flatnonzero(counts.any(axis=0))
    values = stretch_levels(present[0], present[-1])  # [256]
    curves = measure_thresholds(counts, first_levels(prediction, counts, values), strict_reference)  # [9, 257]
    measured = (
        mean_absolute_error(counts, values),
        s_measure(quadrants, values, prediction, parts, strict_reference),
        measure_weighted_f(prediction, truth) if weighted_f else np.nan,
        mask_boundary_iou(prediction >= int(np.searchsorted(values, 0.5)), truth),
        curves[CURVES.index("F"), :NUM_LEVELS].max(),
    )
    return np.concatenate([[1.0], measured, curves.ravel()])


def check_pair(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Raises `ValueError` that shows both unless it is uint8 and bool [H, W] of one size."""
    kinds = prediction.dtype == np.uint8 and truth.dtype == bool
    if not kinds or prediction.shape != truth.shape or prediction.ndim != 2 or prediction.size == 0:
        raise ValueError(
            f"expected a uint8 map and a bool truth of one size [H, W], got {prediction.dtype} "
            f"{list(prediction.shape)} and {truth.dtype} {list(truth.shape)}"
        )


def quadrants_of(truth: np.ndarray) -> list[tuple[slice, slice]]:
    """Rows and columns of the quadrants around the centroid of the truth, in reading order; some may be empty."""
    row, column = centroid(truth)
    return [(y, x) for y in (slice(row), slice(row, None)) for x in (slice(column), slice(column, None))]


def class_histograms(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """How often each grey level occurs in background and foreground, float64 [2, 256]."""
    if prediction.size == 0:
        return np.zeros((2, NUM_LEVELS))
    if prediction.size > EXACT_COUNT:
        codes = prediction.ravel() + NUM_LEVELS * truth.ravel().astype(np.int64)
        return np.bincount(codes, minlength=2 * NUM_LEVELS).reshape(2, NUM_LEVELS).astype(np.float64)
    images = [truth.view(np.uint8), prediction]
    return cv2.calcHist(images, [0, 1], None, [2, NUM_LEVELS], [0, 2, 0, NUM_LEVELS]).astype(np.float64)


def centroid(truth: np.ndarray) -> tuple[int, int]:
    """First row and column below and right of the foreground's rounded centroid; (0, 0) if there is none."""
    mask = truth.view(np.uint8)
    rows = cv2.reduce(mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    columns = cv2.reduce(mask, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    area = int(rows.sum())
    if area == 0:
        return 0, 0
    return tuple(round(int(sums @ np.arange(len(sums))) / area) + 1 for sums in (rows, columns))


def mean_absolute_error(counts: np.ndarray, values: np.ndarray) -> float:
    """Mean of |value − truth|, 0..1; counts [2, 256] of background and foreground, values [256] in 0..1."""
    background, foreground = counts
    return (background @ values + foreground @ (1 - values)) / counts.sum()


def first_levels(prediction: np.ndarray, counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The lowest grey level that each threshold chooses, int [257], 256 if none: thresholds 255 … 0, and the adaptive
    one, min(2 · mean, 1)."""
    truncated = np.clip(values * 255, 0, 255).astype(np.uint8)
    threshold = 2 * (counts.sum(axis=0) @ values) / counts.sum()
    if threshold < 1 and np.abs(values - threshold).min() < 1e-12:
        threshold = 2 * values[prediction].mean()  # a tie, which the reference leaves to the rounding of this sum
    first = np.searchsorted(truncated, np.arange(NUM_LEVELS - 1, -1, -1, dtype=np.uint8))
    return np.append(first, np.searchsorted(values, min(threshold, 1)))


def measure_thresholds(counts: np.ndarray, first: np.ndarray, strict_reference: bool) -> np.ndarray:
    """The measures named in CURVES, [9, T], at each of T thresholds, given by the lowest level that it chooses.

    Where a measure is 0 / 0 it is 0.
    """
    at_least = np.zeros((2, NUM_LEVELS + 1))
    at_least[:, :NUM_LEVELS] = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    alarms, hits = at_least[:, first]  # [T]: chosen background and chosen foreground
    rest, area = counts.sum(axis=1)
    chosen = alarms + hits
    measures = {
        "precision": ratio(hits, chosen),
        "recall": ratio(hits, area),
        "F": ratio((1 + F_BETA2) * hits, F_BETA2 * area + chosen),
        "IoU": ratio(hits, area + alarms),
        "Dice": ratio(2 * hits, area + chosen),
        "Specificity": ratio(rest - alarms, rest),
        "Accuracy": ratio(hits + rest - alarms, area + rest),
        "E": e_measure(alarms, hits, rest, area, strict_reference),
    }
    measures["BER"] = 1 - (measures["recall"] + measures["Specificity"]) / 2
    return np.stack([measures[name] for name in CURVES])


def ratio(count, total):
    """count / total of pixel counts, 0 where the total is 0."""
    return count / np.maximum(total, 1)


def f_measure(precision, recall):
    """Weighted harmonic mean with β² = 0.3; 0 where both are 0."""
    numerator = (1 + F_BETA2) * precision * recall
    return numerator / np.where(numerator == 0, 1, F_BETA2 * precision + recall)


def e_measure(alarms, hits, rest, area, strict_reference: bool) -> np.ndarray:
    """Enhanced alignment [T] of T binary maps with `hits` chosen of the object's `area`, `alarms` of the `rest`."""
    number, chosen = area + rest, alarms + hits
    if area == 0:
        aligned = number - chosen
    elif rest == 0:
        aligned = chosen
    else:
        mean = chosen / number
        of_map = np.stack([-mean, 1 - mean])[:, None]  # [2, 1, T]: what is not chosen and what is, less the mean
        of_truth = np.array([-area / number, 1 - area / number])[None, :, None]  # [1, 2, 1]
        alignment = 2 * of_map * of_truth / (of_map**2 + of_truth**2 + EPS)
        sizes = np.stack([rest - alarms, area - hits, alarms, hits]).reshape(2, 2, -1)
        aligned = ((alignment + 1) ** 2 / 4 * sizes).sum(axis=(0, 1))
    return aligned / (number - 1 + EPS if strict_reference else max(number - 1, 1))


def s_measure(quadrants, values, prediction, parts, strict_reference: bool) -> float:
    """Structure measure, at least 0. quadrants: counts [4, 2, 256] of the `parts` of the map."""
    counts = quadrants.sum(axis=0)
    rest, area = counts.sum(axis=1)
    if area == 0 or rest == 0:
        mean = counts.sum(axis=0) @ values / (area + rest)
        return mean if area else 1 - mean
    sizes = quadrants.sum(axis=(1, 2))
    if strict_reference and not sizes.all():
        return np.nan
    objects = (rest * object_score(counts[0], 1 - values) + area * object_score(counts[1], values)) / (area + rest)
    regions = sizes @ region_scores(quadrants, values, prediction, parts) / (area + rest)
    return max(0.0, S_ALPHA * objects + (1 - S_ALPHA) * regions)


def object_score(counts: np.ndarray, values: np.ndarray) -> float:
    """2μ / (μ² + 1 + σ) of the values counted in `counts` [256]."""
    number = counts.sum()
    mean = counts @ values / number
    deviation = np.sqrt(counts @ (values - mean) ** 2 / max(number - 1, 1))
    return 2 * mean / (mean**2 + 1 + deviation + EPS)


def region_scores(quadrants, values, prediction, parts) -> np.ndarray:
    """Structural similarity of map and truth in each quadrant, [4]; arguments as of `s_measure`."""
    both, foreground = quadrants.sum(axis=1), quadrants[:, 1]  # [4, 256]
    number = np.maximum(both.sum(axis=1), 1)
    freedom = np.maximum(number - 1, 1)
    x, y = both @ values / number, foreground.sum(axis=1) / number
    deviations = values - x[:, None]
    variance_x = (both * deviations**2).sum(axis=1) / freedom
    variance_y = number * y * (1 - y) / freedom
    covariance = (foreground * deviations).sum(axis=1) / freedom  # Σ (v − x)(g − y) = Σ of the foreground's (v − x)
    scores = 4 * x * y * covariance / ((x**2 + y**2) * (variance_x + variance_y) + EPS)
    for place in np.flatnonzero(variance_y == 0):
        scores[place] = is_constant(values[both[place] > 0], values, prediction, parts[place])
    return scores


def is_constant(present: np.ndarray, values: np.ndarray, prediction: np.ndarray, part) -> bool:
    """Whether a part of the map has one value, by its variance as the reference sums it: a mean that is rounded makes
    a constant part, other than of 0 or 1, vary. present: the values that occur in it."""
    if len(present) != 1 or present[0] in (0, 1):
        return len(present) == 1
    return values[prediction][part].mean() == present[0]


def mask_boundary_iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Boundary IoU of two masks, bool [H, W], within 2 % of the image's diagonal; 1 if both are empty."""
    either = prediction | truth
    if not either.any():
        return 1.0
    box = find_box(either, 0)  # what lies around it is in no band
    distance_px = band_distance_px(truth.shape)
    bands = [boundary_band(mask[box], distance_px) for mask in (prediction, truth)]
    return np.count_nonzero(bands[0] & bands[1]) / np.count_nonzero(bands[0] | bands[1])
