"""Saliency metrics equal to PySODMetrics 1.6 within 1e-9 (weighted F: 1e-6), from one joint histogram per image.

The map is 8-bit, divided by 255 and stretched to 0..1 per image unless constant; the truth is bool. The histogram has
counts by quadrant around the centroid of the truth × truth × grey level. All measures except weighted F and Boundary
IoU follow from it.

    MAE           mean |map − truth| (Perazzi et al., CVPR 2012)
    F             β² = 0.3 (Achanta et al., CVPR 2009)
    wF            weighted F, β² = 1 (Margolin et al., CVPR 2014), see weighted_f.py
    S             structure measure, α = 0.5 (Fan et al., ICCV 2017)
    E             enhanced alignment (Fan et al., IJCAI 2018)
    IoU, Dice, Specificity, Accuracy; BER: balanced error rate, lower is better
    boundary_IoU  of the stretched map ≥ 0.5 (Cheng et al., CVPR 2021)

F, E and the measures from IoU to BER have three scores: adp, with the map thresholded at twice its mean (at most 1);
mean and max (BER: min) of the mean curve over the thresholds 255 … 0 of the stretched map, truncated to 8 bits. Papers
also use two other definitions of max F: maxF_of_mean_PR, from mean precision and mean recall, and mean_of_maxF.

Cases that the reference leaves undefined are defined here; `strict_reference` returns the values of the reference:
    S         empty quadrants are excluded (reference: NaN if the centroid rounds to the last row or column)
    E         at most 1 (reference: N / (N − 1) for a perfect map of N pixels; 4.5e15 for an image of one pixel)
Boundary IoU is 1 if neither map nor truth has an outline, 0 if one of them has none.
"""

import cv2
import numpy as np

from metrics.segmentation import band_distance_px, boundary_band
from metrics.weighted_f import EPS, find_box, measure_weighted_f, stretch_levels

F_BETA2 = 0.3
S_ALPHA = 0.5
NUM_LEVELS = 256

# State of an image, [K]: 1, VALUES, and CURVES [9, 257], with the adaptive threshold as the last point.
VALUES = ("MAE", "S", "wF", "mean_of_maxF", "boundary_IoU")
CURVES = ("precision", "recall", "F", "E", "IoU", "Dice", "Specificity", "Accuracy", "BER")
STATE_SIZE = 1 + len(VALUES) + len(CURVES) * (NUM_LEVELS + 1)


def score_states(states: np.ndarray, strict_reference: bool = False) -> dict[str, np.ndarray]:
    """Scores by name, 0..1, [...], of sums of states [..., K]; wF is NaN unless it was measured on every image."""
    scores, curves = mean_states(states)
    adaptive = {name: curve[..., NUM_LEVELS] for name, curve in curves.items()}
    curves = {name: curve[..., :NUM_LEVELS] for name, curve in curves.items()}
    for name in CURVES[2:]:
        best = {"minBER": curves["BER"].min(-1)} if name == "BER" else {f"max{name}": curves[name].max(-1)}
        scores |= best | {f"mean{name}": curves[name].mean(-1), f"adp{name}": adaptive[name]}
    scores["maxF_of_mean_PR"] = f_measure(curves["precision"], curves["recall"]).max(-1)
    return scores if strict_reference else {name: np.minimum(score, 1) for name, score in scores.items()}


def mean_curves(states: np.ndarray, strict_reference: bool = False) -> dict[str, np.ndarray]:
    """Mean curves by name, [..., 256], over the thresholds 255 … 0 (level ≥ threshold), of sums of states [..., K]."""
    curves = {name: curve[..., :NUM_LEVELS] for name, curve in mean_states(states)[1].items()}
    return curves if strict_reference else {name: np.minimum(curve, 1) for name, curve in curves.items()}


def mean_states(states: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Means over images by name: of VALUES [...], and of CURVES with the adaptive threshold [..., 257]."""
    values, curves = np.split(states[..., 1:] / states[..., :1], [len(VALUES)], axis=-1)
    curves = curves.reshape(*states.shape[:-1], len(CURVES), NUM_LEVELS + 1)
    return dict(zip(VALUES, np.moveaxis(values, -1, 0))), dict(zip(CURVES, np.moveaxis(curves, -2, 0)))


def measure_map(
    prediction: np.ndarray, truth: np.ndarray, weighted_f: bool = True, strict_reference: bool = False
) -> np.ndarray:
    """State, float64 [K], of one image; states of images add up. prediction: uint8 [H, W]; truth: bool [H, W].

    Without `weighted_f` its value is NaN. Raises ValueError for other types or shapes.
    """
    if prediction.dtype != np.uint8 or prediction.shape != truth.shape:
        raise ValueError(f"map is {prediction.dtype} {list(prediction.shape)}, truth {list(truth.shape)}")
    parts = split_quadrants(truth)
    quadrants = np.stack([count_levels(prediction[part], truth[part]) for part in parts])  # [4, 2, 256]
    counts = quadrants.sum(axis=0)  # [2, 256]: background, foreground
    present = np.flatnonzero(counts.any(axis=0))
    values = stretch_levels(present[0], present[-1])  # [256]
    curves = measure_thresholds(counts, lowest_levels(prediction, counts, values), strict_reference)  # [9, 257]
    background, foreground = counts
    measured = (
        (background @ values + foreground @ (1 - values)) / counts.sum(),  # mean absolute error
        s_measure(quadrants, values, prediction, parts, strict_reference),
        measure_weighted_f(prediction, truth) if weighted_f else np.nan,
        curves[CURVES.index("F"), :NUM_LEVELS].max(),
        mask_boundary_iou(prediction >= int(np.searchsorted(values, 0.5)), truth),
    )
    return np.concatenate([[1.0], measured, curves.ravel()])


def split_quadrants(truth: np.ndarray) -> list[tuple[slice, slice]]:
    """Row and column slices of the quadrants around the rounded centroid of the truth, row by row; some may be empty.

    The centroid is part of the upper left quadrant. Without foreground the last quadrant is the whole image.
    """
    mask = truth.view(np.uint8)
    rows = cv2.reduce(mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    columns = cv2.reduce(mask, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel()
    area = int(rows.sum())
    row, column = (round(int(sums @ np.arange(len(sums))) / area) + 1 if area else 0 for sums in (rows, columns))
    return [(y, x) for y in (slice(row), slice(row, None)) for x in (slice(column), slice(column, None))]


def count_levels(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Histograms of the grey levels of background and foreground, float64 [2, 256]."""
    if prediction.size == 0:
        return np.zeros((2, NUM_LEVELS))
    images = [truth.view(np.uint8), prediction]
    return cv2.calcHist(images, [0, 1], None, [2, NUM_LEVELS], [0, 2, 0, NUM_LEVELS]).astype(np.float64)


def lowest_levels(prediction: np.ndarray, counts: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Lowest grey level at or above each threshold, int [257], 256 if there is none.

    The thresholds are 255 … 0 and the adaptive one, min(2 · mean, 1).
    """
    truncated = np.clip(values * 255, 0, 255).astype(np.uint8)
    threshold = 2 * (counts.sum(axis=0) @ values) / counts.sum()
    if threshold < 1 and np.abs(values - threshold).min() < 1e-12:
        threshold = 2 * values[prediction].mean()  # in a tie the rounding of this sum decides, as in the reference
    first = np.searchsorted(truncated, np.arange(NUM_LEVELS - 1, -1, -1, dtype=np.uint8))
    return np.append(first, np.searchsorted(values, min(threshold, 1)))


def measure_thresholds(counts: np.ndarray, first: np.ndarray, strict_reference: bool) -> np.ndarray:
    """CURVES at T thresholds, [9, T]; 0 / 0 is 0. counts: [2, 256]; first: lowest selected grey level, int [T]."""
    at_least = np.zeros((2, NUM_LEVELS + 1))
    at_least[:, :NUM_LEVELS] = counts[:, ::-1].cumsum(axis=1)[:, ::-1]
    alarms, hits = at_least[:, first]  # [T]: selected background and selected foreground
    rest, area = counts.sum(axis=1)
    selected = alarms + hits
    measures = {
        "precision": ratio(hits, selected),
        "recall": ratio(hits, area),
        "F": ratio((1 + F_BETA2) * hits, F_BETA2 * area + selected),
        "IoU": ratio(hits, area + alarms),
        "Dice": ratio(2 * hits, area + selected),
        "Specificity": ratio(rest - alarms, rest),
        "Accuracy": ratio(hits + rest - alarms, area + rest),
        "E": e_measure(alarms, hits, rest, area, strict_reference),
    }
    measures["BER"] = 1 - (measures["recall"] + measures["Specificity"]) / 2
    return np.stack([measures[name] for name in CURVES])


def ratio(count, total):
    """Ratio of pixel counts, 0 where the total is 0."""
    return count / np.maximum(total, 1)


def f_measure(precision, recall):
    """Weighted harmonic mean with β² = 0.3; 0 where both are 0."""
    numerator = (1 + F_BETA2) * precision * recall
    return numerator / np.where(numerator == 0, 1, F_BETA2 * precision + recall)


def e_measure(alarms, hits, rest, area, strict_reference: bool) -> np.ndarray:
    """Enhanced alignment [T] of T binary maps. hits, alarms: true and false positive pixels [T]; area, rest: object and
    background pixels.
    """
    number, selected = area + rest, alarms + hits
    if area == 0:
        aligned = number - selected
    elif rest == 0:
        aligned = selected
    else:
        mean = selected / number
        # [2, 1, T]: map value 0 or 1, minus the mean
        bias_map = np.stack([-mean, 1 - mean])[:, None]
        bias_truth = np.array([-area / number, 1 - area / number])[None, :, None]  # [1, 2, 1]
        alignment = 2 * bias_map * bias_truth / (bias_map**2 + bias_truth**2 + EPS)
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
    """2μ / (μ² + 1 + σ) of the values with `counts` [256]."""
    number = counts.sum()
    mean = counts @ values / number
    deviation = np.sqrt(counts @ (values - mean) ** 2 / max(number - 1, 1))
    return 2 * mean / (mean**2 + 1 + deviation + EPS)


def region_scores(quadrants, values, prediction, parts) -> np.ndarray:
    """Structural similarity of map and truth in each quadrant, [4]. Arguments: see `s_measure`."""
    both, foreground = quadrants.sum(axis=1), quadrants[:, 1]  # [4, 256]
    number = np.maximum(both.sum(axis=1), 1)
    freedom = np.maximum(number - 1, 1)
    x, y = both @ values / number, foreground.sum(axis=1) / number
    deviations = values - x[:, None]
    variance_x = (both * deviations**2).sum(axis=1) / freedom
    variance_y = number * y * (1 - y) / freedom
    covariance = (foreground * deviations).sum(axis=1) / freedom  # Σ (v − x)(g − y) is Σ (v − x) over the foreground
    scores = 4 * x * y * covariance / ((x**2 + y**2) * (variance_x + variance_y) + EPS)
    for place in np.flatnonzero(variance_y == 0):
        scores[place] = is_constant(values[both[place] > 0], values, prediction, parts[place])
    return scores


def is_constant(present: np.ndarray, values: np.ndarray, prediction: np.ndarray, part) -> bool:
    """Return whether PySODMetrics computes a variance of exactly 0 for a part of the map. present: the values that
    occur in the part. Because of rounding, the computed variance of a constant part can be above 0.
    """
    if len(present) != 1 or present[0] in (0, 1):
        return len(present) == 1
    return values[prediction][part].mean() == present[0]


def mask_boundary_iou(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Boundary IoU of two masks, bool [H, W]; 1 if both are empty."""
    either = prediction | truth
    if not either.any():
        return 1.0
    box = find_box(either, 0)  # bands lie inside
    distance_px = band_distance_px(truth.shape)
    bands = [boundary_band(mask[box], distance_px) for mask in (prediction, truth)]
    return np.count_nonzero(bands[0] & bands[1]) / np.count_nonzero(bands[0] | bands[1])
