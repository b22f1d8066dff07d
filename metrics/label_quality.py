"""Quality of label maps: scores of the confusion matrix for both conventions of 255, and Boundary IoU."""

from collections.abc import Iterable

import numpy as np

from metrics.bootstrap import Bootstrap, BootstrapScores
from metrics.segmentation import ConfusionMatrix, count_boundaries, mean_boundary_iou, score_counts, unpack_scalars

BOOTSTRAP_MEASURES = ("mIoU", "Acc", "Acc_class", "fwIoU", "boundary_IoU")  # measures with intervals and comparisons
TINY_WEIGHT = 1e-9  # of the whole data set in each replicate: below rounding wherever a replicate has pixels


class LabelQuality:
    """Sums over images of everything that `scores` needs.

    `state` int64 [K]: number of images, confusion matrix, intersections and unions of boundary bands. States of several
    sets of images may be added.
    """

    def __init__(self, num_labels: int):
        self.num_labels = num_labels
        self.state = np.zeros(1 + num_labels * (num_labels + 1) + 2 * num_labels, np.int64)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> "LabelQuality":
        """prediction, truth: uint8 [H, W], 0..L-1 or 255. Raises ValueError for other values or shapes."""
        matrix = ConfusionMatrix(self.num_labels)
        matrix.add(prediction, truth)
        boundaries = count_boundaries(prediction, truth, self.num_labels)
        self.state += np.concatenate([[1], matrix.counts.ravel(), *boundaries])
        return self

    def pack(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices and values of the nonzero sums, which are few for one image."""
        indices = np.flatnonzero(self.state)
        return indices, self.state[indices]

    def add_packed(self, packed: tuple[np.ndarray, np.ndarray]) -> None:
        """Add a result of `pack`."""
        indices, values = packed
        self.state[indices] += values

    def scores(self) -> dict:
        """Scores of `score_states`, scalars as float, and "images", their number."""
        return unpack_scalars(score_states(self.state, self.num_labels)) | {"images": int(self.state[0])}


def score_states(states: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
    """Scores of states [..., K]: those of `score_counts` with a prediction of 255 as a miss; "mIoU_dropped", with such
    pixels dropped; "boundary_IoU". A state of NaN has scores of NaN."""
    counts, intersections, unions = np.split(states[..., 1:], [-2 * num_labels, -num_labels], axis=-1)
    counts = counts.reshape(*counts.shape[:-1], num_labels, num_labels + 1)
    return score_counts(counts) | {
        "mIoU_dropped": score_counts(counts, "dropped")["mIoU"],
        "boundary_IoU": mean_boundary_iou(intersections, unions),
    }


def sum_packed(qualities: Iterable[tuple], num_labels: int) -> LabelQuality:
    """The quality of several images from results of `LabelQuality.pack`."""
    total = LabelQuality(num_labels)
    for quality in qualities:
        total.add_packed(quality)
    return total


def name_scores(quality: LabelQuality, names: tuple[str, ...]) -> dict:
    """Scores with arrays over labels as {name: number}; undefined scores are None."""

    def convert(value):
        if isinstance(value, np.ndarray):
            return {name: convert(number) for name, number in zip(names, value.tolist())}
        return None if value != value else value

    return {key: convert(value) for key, value in quality.scores().items()}


def score_images(
    qualities: dict[int, tuple], names: tuple[str, ...], is_single: np.ndarray | None, num_replicates: int = 0
) -> tuple[dict, BootstrapScores | None]:
    """Score a set of images.

    qualities: image index → result of `LabelQuality.pack`. is_single: bool [N], whether an image has exactly one class,
    None if unknown. Returns (scores, bootstrap). scores also contains "single_class" and "multi_class", scores of these
    subsets (None for an empty subset), if `is_single` is given. bootstrap is None if num_replicates is 0.
    """
    total = sum_packed(qualities.values(), len(names))
    scores = name_scores(total, names)
    if is_single is not None:
        for key, wanted in (("single_class", True), ("multi_class", False)):
            part = [quality for index, quality in qualities.items() if is_single[index] == wanted]
            scores[key] = name_scores(sum_packed(part, len(names)), names) if part else None
    if not num_replicates:
        return scores, None
    bootstrap = Bootstrap(num_replicates)
    for index, quality in qualities.items():
        bootstrap.add(index, sum_packed([quality], len(names)).state)
    # A class that a replicate lacks keeps its score on all images: excluding it would shift the mean over classes.
    replicates = score_states(bootstrap.sums() + TINY_WEIGHT * total.state, len(names))
    return scores, BootstrapScores(total.scores(), {name: replicates[name] for name in BOOTSTRAP_MEASURES})
