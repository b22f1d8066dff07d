"""Boundary IoU (Cheng et al., CVPR 2021): the IoU of what lies within a small distance of the outlines."""

import cv2
import numpy as np

from label_files import IGNORE_LABEL
from metrics.segmentation import mean_of_defined

DISTANCE_SHARE = 0.02  # of the image's diagonal, as in the paper


class BoundaryIoU:
    """Pixel counts int64 [L] of the intersection and the union of boundary bands, added up over images.

    The band of a label is what of its area lies within the distance of its outline; the image's border is an outline
    too. What is predicted where the truth is 255 counts nothing and moves no outline; a prediction of 255 elsewhere has
    no band, so it counts as a miss.
    """

    def __init__(self, num_labels: int):
        self.intersections, self.unions = np.zeros((2, num_labels), np.int64)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """prediction, truth: uint8 [H, W], 0..L-1 or 255."""
        counted = truth != IGNORE_LABEL
        prediction = np.where(counted, prediction, IGNORE_LABEL)
        distance_px = max(1, round(DISTANCE_SHARE * float(np.hypot(*truth.shape))))
        for label in np.union1d(prediction[counted], truth[counted]):
            if label != IGNORE_LABEL:
                bands = [boundary_band(labels == label, distance_px) for labels in (prediction, truth)]
                self.intersections[label] += np.count_nonzero(bands[0] & bands[1])
                self.unions[label] += np.count_nonzero(bands[0] | bands[1])

    def score(self) -> float:
        """Mean over the labels that occur, 0..1."""
        with np.errstate(invalid="ignore"):
            return mean_of_defined(self.intersections / self.unions)


def boundary_band(mask: np.ndarray, distance_px: int) -> np.ndarray:
    """The pixels of a mask (bool [H, W]) within `distance_px` of its outline, by steps in eight directions."""
    square = np.ones((2 * distance_px + 1, 2 * distance_px + 1), np.uint8)
    inner = cv2.erode(mask.astype(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)
