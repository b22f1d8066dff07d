"""Quality of label maps: scores of the confusion matrix for both conventions of 255, and Boundary IoU.

The state of a set of images, int64 [K], holds their number, their confusion matrix, and the intersections and unions of
their boundary bands. States add up. The state of one image is mostly zeros, so only the indices and values of its
nonzero entries are kept.
"""

from collections.abc import Iterable

import numpy as np

from metrics.bootstrap import Bootstrap, MethodScores
from metrics.segmentation import ConfusionMatrix, count_boundaries, mean_boundary_iou, score_counts
from metrics.tables import replace_nan

BOOTSTRAP_MEASURES = ("mIoU", "Acc", "Acc_class", "fwIoU", "boundary_IoU")  # measures with intervals and comparisons
TINY_WEIGHT = 1e-9  # share of the whole data set added to each replicate; too small to change a score


def measure_label(prediction: np.ndarray, truth: np.ndarray, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and values of the nonzero sums in the state of one image.

    prediction, truth: uint8 [H, W], 0..L-1 or 255. Raises ValueError for other values or shapes.
    """
    matrix = ConfusionMatrix(num_labels)
    matrix.add(prediction, truth)
    state = np.concatenate([[1], matrix.counts.ravel(), *count_boundaries(prediction, truth, num_labels)])
    indices = np.flatnonzero(state)
    return indices, state[indices]


def sum_states(images: Iterable[tuple], num_labels: int) -> np.ndarray:
    """State of a set of images from results of `measure_label`."""
    state = np.zeros(1 + num_labels * (num_labels + 1) + 2 * num_labels, np.int64)
    for indices, values in images:
        state[indices] += values
    return state


def score_states(states: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
    """Scores of states [..., K]: those of `score_counts` with a prediction of 255 as a miss; "mIoU_dropped", with such
    pixels dropped; "boundary_IoU". A state of NaN has scores of NaN."""
    counts, intersections, unions = np.split(states[..., 1:], [-2 * num_labels, -num_labels], axis=-1)
    counts = counts.reshape(*counts.shape[:-1], num_labels, num_labels + 1)
    return score_counts(counts) | {
        "mIoU_dropped": score_counts(counts, "dropped")["mIoU"],
        "boundary_IoU": mean_boundary_iou(intersections, unions),
    }


def name_scores(state: np.ndarray, names: tuple[str, ...]) -> dict:
    """Scores of a state and "images", their number, for a JSON file: scores by label as {name: score}."""
    scores = score_states(state, len(names))
    named = {key: dict(zip(names, value.tolist())) if value.ndim else float(value) for key, value in scores.items()}
    return replace_nan(named) | {"images": int(state[0])}


def score_images(
    measured: dict[int, tuple], images: dict[int, dict], names: tuple[str, ...], is_single, num_replicates: int
) -> tuple[dict, MethodScores]:
    """Score a set of images. Returns the scores for the JSON file, and a `MethodScores`.

    measured: image index → result of `measure_label`. images: image index → scores of this image alone. is_single: bool
    [N], whether an image has exactly one class, None if unknown. If it is known, the scores for the JSON file contain
    those of "single_class" and "multi_class" images, None if there are none.
    """
    num_labels, replicates = len(names), {}
    total = sum_states(measured.values(), num_labels)
    scores = name_scores(total, names)
    if is_single is not None:
        for key, wanted in (("single_class", True), ("multi_class", False)):
            part = [image for index, image in measured.items() if is_single[index] == wanted]
            scores[key] = name_scores(sum_states(part, num_labels), names) if part else None
    if num_replicates:
        bootstrap = Bootstrap(num_replicates)
        for index, image in measured.items():
            bootstrap.add(index, sum_states([image], num_labels))
        # A class that a replicate lacks keeps its score on all images: excluding it would shift the mean over classes.
        sampled = score_states(bootstrap.sums() + TINY_WEIGHT * total, num_labels)
        replicates = {name: sampled[name] for name in BOOTSTRAP_MEASURES}
    method = MethodScores(score_states(total, num_labels), replicates, images)
    return scores | ({"intervals": replace_nan(method.intervals())} if num_replicates else {}), method
