"""Quality of label maps in full: what the confusion matrix tells, by both conventions for 255, and boundary IoU."""

import numpy as np

from metrics.boundary_iou import BoundaryIoU
from metrics.segmentation import ConfusionMatrix


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

    def packed(self) -> tuple[int, np.ndarray, np.ndarray]:
        """The sums in a form that is small for few images: their number, and what is not 0 with its place."""
        sums = np.concatenate([self.matrix.counts.ravel(), self.boundary.intersections, self.boundary.unions])
        places = np.flatnonzero(sums)
        return self.num_images, places, sums[places]

    def add_packed(self, packed: tuple[int, np.ndarray, np.ndarray]) -> None:
        num_images, places, values = packed
        sums = np.zeros(self.matrix.counts.size + 2 * self.num_labels, np.int64)
        sums[places] = values
        matrix, intersections, unions = np.split(sums, [self.matrix.counts.size, -self.num_labels])
        self.matrix.counts += matrix.reshape(self.matrix.counts.shape)
        self.boundary.intersections += intersections
        self.boundary.unions += unions
        self.num_images += num_images

    def scores(self) -> dict:
        """Those of `ConfusionMatrix.scores`, a prediction of 255 being a miss; "mIoU_dropped", where it is dropped;
        "boundary_IoU"; "images"."""
        return self.matrix.scores() | {
            "mIoU_dropped": self.matrix.scores("dropped")["mIoU"],
            "boundary_IoU": self.boundary.score(),
            "images": self.num_images,
        }
