"""Quality of label maps in full: what the confusion matrix tells, by both conventions for 255, and boundary IoU."""

import numpy as np

from metrics.boundary_iou import BoundaryIoU, boundary_iou
from metrics.segmentation import ConfusionMatrix, scores_of_counts


class LabelQuality:
    """Sums over images of all that `scores` needs; the sums of two sets of images may be added up."""

    def __init__(self, num_labels: int):
        self.num_labels, self.num_images = num_labels, 0
        self.matrix, self.boundary = ConfusionMatrix(num_labels), BoundaryIoU(num_labels)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> "LabelQuality":
        """prediction, truth: uint8 [H, W], 0..L-1 or 255. Raises ValueError for other values or shapes."""
        self.matrix.add(prediction, truth)
        self.boundary.add(prediction, truth)
        self.num_images += 1
        return self

    @property
    def state(self) -> np.ndarray:
        """The sums as int64 [K]: number of images, confusion matrix, intersections and unions of boundary bands."""
        matrix, boundary = self.matrix, self.boundary
        return np.concatenate([[self.num_images], matrix.counts.ravel(), boundary.intersections, boundary.unions])

    def packed(self) -> tuple[int, np.ndarray, np.ndarray]:
        """The sums in a form that is small for few images: their number, and what is not 0 with its place."""
        sums = self.state[1:]
        places = np.flatnonzero(sums)
        return self.num_images, places, sums[places]

    def add_packed(self, packed: tuple[int, np.ndarray, np.ndarray]) -> None:
        """Adds what `packed` gave."""
        num_images, places, values = packed
        sums = np.zeros(self.matrix.counts.size + 2 * self.num_labels, np.int64)
        sums[places] = values
        counts, intersections, unions = split_sums(sums, self.num_labels)
        self.matrix.counts += counts
        self.boundary.intersections += intersections
        self.boundary.unions += unions
        self.num_images += num_images

    def scores(self) -> dict:
        """Those of `scores_of_states`, single ones as float; and "images"."""
        scores = scores_of_states(self.state, self.num_labels)
        return {key: value if value.ndim else float(value) for key, value in scores.items()} | {
            "images": self.num_images
        }


def scores_of_states(states: np.ndarray, num_labels: int) -> dict[str, np.ndarray]:
    """States [..., K] → the scores of `scores_of_counts`, a prediction of 255 being a miss; "mIoU_dropped", where it
    is dropped; "boundary_IoU". A state of NaN has scores of NaN."""
    counts, intersections, unions = split_sums(states[..., 1:], num_labels)
    return scores_of_counts(counts) | {
        "mIoU_dropped": scores_of_counts(counts, "dropped")["mIoU"],
        "boundary_IoU": boundary_iou(intersections, unions),
    }


def split_sums(sums: np.ndarray, num_labels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All sums but the number of images → counts [..., L, L + 1], intersections and unions [..., L]."""
    counts, intersections, unions = np.split(sums, [-2 * num_labels, -num_labels], axis=-1)
    return counts.reshape(*counts.shape[:-1], num_labels, num_labels + 1), intersections, unions
