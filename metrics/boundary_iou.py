"""Boundary IoU (Cheng et al., CVPR 2021): the IoU of what lies within a small distance of the outlines."""

import cv2
import numpy as np

from formats.labels import IGNORE_LABEL
from metrics.segmentation import count_pairs, ignored_where, mean_of_defined, pair_runs

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
        prediction = ignored_where(truth == IGNORE_LABEL, prediction)
        distance_px = band_distance_px(truth.shape)
        bands = [ignored_where(interior(labels, distance_px), labels) for labels in (prediction, truth)]
        pairs = count_pairs(*pair_runs(*bands), len(self.unions))
        intersections = pairs.diagonal()[1:]
        self.intersections += intersections
        self.unions += pairs[1:].sum(axis=1) + pairs[:, 1:].sum(axis=0) - intersections

    def score(self) -> float:
        """Mean over the labels that occur, 0..1."""
        return float(boundary_iou(self.intersections, self.unions))


def band_distance_px(shape_hw) -> int:
    """Half the width of the band: 2 % of the diagonal, at least 1 px."""
    return max(1, round(DISTANCE_SHARE * float(np.hypot(*shape_hw))))


def boundary_iou(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """Counts [..., L] → mean over the labels that occur, [...]."""
    with np.errstate(invalid="ignore"):
        return mean_of_defined(intersections / unions)


def boundary_band(mask: np.ndarray, distance_px: int) -> np.ndarray:
    """The pixels of a mask (bool [H, W]) within `distance_px` of its outline, by steps in eight directions."""
    inner = cv2.erode(mask.view(np.uint8), square(distance_px), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask & (inner == 0)


def interior(labels: np.ndarray, distance_px: int) -> np.ndarray:
    """bool [H, W]: where the window of `distance_px` to all sides lies in the image and holds one label, so that the
    smallest is the largest; 255 stands for what is outside."""
    window = square(distance_px)
    largest = cv2.dilate(labels, window, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE_LABEL)
    return cv2.erode(labels, window) == largest


def square(distance_px: int) -> np.ndarray:
    return np.ones((2 * distance_px + 1, 2 * distance_px + 1), np.uint8)
