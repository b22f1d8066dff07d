"""Scores of label maps: confusion matrix with 64-bit counts, and Boundary IoU (Cheng et al., CVPR 2021)."""

import cv2
import numpy as np

from formats.labels import IGNORE_LABEL

NUM_CODES = 256  # values of a uint8 label
BAND_SHARE = 0.02  # band width as a share of the image diagonal, as in the paper of Boundary IoU


class ConfusionMatrix:
    """Pixel counts int64 [L, L + 1]: truth by row, prediction by column; the last column counts predictions of 255.

    Pixels whose truth is 255 are never counted. `counts` of several processes may be added.
    """

    def __init__(self, num_labels: int):
        self.num_labels = num_labels
        self.counts = np.zeros((num_labels, num_labels + 1), np.int64)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """prediction, truth: uint8 of one shape, 0..L-1 or 255. Raises ValueError for other values or shapes."""
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction is {list(prediction.shape)}, truth {list(truth.shape)}")
        pairs = count_pairs(prediction, truth)[:IGNORE_LABEL]
        present = [*np.flatnonzero(pairs.any(axis=1)), *np.flatnonzero(pairs[:, :IGNORE_LABEL].any(axis=0))]
        if max(present, default=0) >= self.num_labels:
            raise ValueError(f"holds label {max(present)}, but there are only 0 to {self.num_labels - 1} and 255")
        self.counts += pairs[: self.num_labels, [*range(self.num_labels), IGNORE_LABEL]]

    def scores(self) -> dict:
        """Return the result of `score_counts` with 0-d arrays converted to floats."""
        return {name: value if value.ndim else float(value) for name, value in score_counts(self.counts).items()}


def count_pairs(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Pixel counts of all pairs of values of two uint8 maps, int64 [256, 256]: truth by row, prediction by column."""
    codes = truth * np.uint16(NUM_CODES) + prediction
    return np.bincount(codes.ravel(), minlength=NUM_CODES**2).reshape(NUM_CODES, NUM_CODES)


def score_counts(counts: np.ndarray, predicted_255: str = "miss") -> dict[str, np.ndarray]:
    """Scores of confusion matrices [..., L, L + 1].

    Returns Acc, Acc_class, mIoU, fwIoU and coverage in 0..1, [...]; IoU, precision and recall per class, [..., L].
    predicted_255: a prediction of 255 is a "miss" (an error on its true label) or "dropped" as if its truth were 255.
    Classes that occur neither in truth nor in prediction are NaN and are excluded from the means. Coverage is the share
    of pixels whose prediction is not 255. Without any pixel, and for matrices of NaN, all scores are NaN.
    """
    hits = counts[..., :-1]
    truth = (counts if predicted_255 == "miss" else hits).sum(axis=-1)
    predicted = hits.sum(axis=-2)
    right = np.diagonal(hits, axis1=-2, axis2=-1).astype(np.float64)
    total = truth.sum(axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = right / truth
        precision = right / predicted
        iou = right / (truth + predicted - right)
        accuracy = right.sum(axis=-1) / total
        weighted_iou = np.where(truth == 0, 0, truth * iou).sum(axis=-1) / total
        coverage = predicted.sum(axis=-1) / counts.sum(axis=(-2, -1))
    return {
        "Acc": accuracy,
        "Acc_class": mean_without_nan(recall),
        "mIoU": mean_without_nan(iou),
        "fwIoU": weighted_iou,
        "IoU": iou,
        "precision": precision,
        "recall": recall,
        "coverage": coverage,
    }


def mean_without_nan(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without NaN values; NaN where all values are NaN."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=-1) / defined.sum(axis=-1)


def count_boundaries(prediction: np.ndarray, truth: np.ndarray, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel counts of the intersection and of the union of boundary bands by label, int64 [L] each.

    prediction, truth: uint8 [H, W], 0..L-1 or 255. The band of a label contains its pixels within a distance of its
    outline; the image border counts as outline. Where the truth is 255, the prediction is ignored and forms no outline;
    a prediction of 255 elsewhere has no band and counts as a miss.
    """
    prediction = np.where(truth == IGNORE_LABEL, truth, prediction)
    distance_px = band_distance_px(truth.shape)
    bands = [labels | find_interior(labels, distance_px) for labels in (prediction, truth)]  # 255 outside the bands
    pairs = count_pairs(*bands)
    intersections = pairs.diagonal()[:num_labels]
    return intersections, pairs[:num_labels].sum(axis=1) + pairs[:, :num_labels].sum(axis=0) - intersections


def mean_boundary_iou(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """Mean Boundary IoU over the labels that occur, [...], from counts [..., L]."""
    with np.errstate(invalid="ignore"):
        return mean_without_nan(intersections / unions)


def band_distance_px(shape_hw) -> int:
    """Largest distance of a band's pixels from the outline: 2 % of the image diagonal, at least 1 px."""
    return max(1, round(BAND_SHARE * float(np.hypot(*shape_hw))))


def boundary_band(mask: np.ndarray, distance_px: int) -> np.ndarray:
    """Pixels of a mask, bool [H, W], within the chessboard distance `distance_px` of its outline."""
    mask = mask.view(np.uint8)
    inner = cv2.erode(mask, square(distance_px), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return mask > inner


def find_interior(labels: np.ndarray, distance_px: int) -> np.ndarray:
    """Mark pixels whose window of `distance_px` to all sides lies in the image and holds one label.

    Minimum and maximum of the window are equal there; outside the image the label is 255. Returns uint8 [H, W], 255
    where marked, 0 elsewhere.
    """
    window = square(distance_px)
    largest = cv2.dilate(labels, window, borderType=cv2.BORDER_CONSTANT, borderValue=IGNORE_LABEL)
    return cv2.compare(cv2.erode(labels, window), largest, cv2.CMP_EQ)


def square(distance_px: int) -> np.ndarray:
    return np.ones((2 * distance_px + 1, 2 * distance_px + 1), np.uint8)
