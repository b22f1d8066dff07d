"""Scores of label maps and segmentations from one confusion matrix of 64-bit counts."""

import numpy as np

from formats.labels import IGNORE_LABEL


class ConfusionMatrix:
    """Pixel counts int64 [L, L + 1]: truth by row, prediction by column; the last column holds predictions of 255.

    Pixels whose truth is 255 are never counted. Matrices of several processes may be added: `counts` is all there is.
    """

    def __init__(self, num_labels: int):
        self.num_labels = num_labels
        self.counts = np.zeros((num_labels, num_labels + 1), np.int64)

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """prediction, truth: uint8 of one shape, 0..L-1 or 255. Raises ValueError for other values or shapes."""
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction is {list(prediction.shape)}, truth {list(truth.shape)}")
        predicted, true, lengths = pair_runs(prediction, truth)
        pairs = count_pairs(ignored_where(true == IGNORE_LABEL, predicted), true, lengths, self.num_labels)
        self.counts[:, :-1] += pairs[1:, 1:]
        self.counts[:, -1] += pairs[1:, 0]

    def scores(self, predicted_255: str = "miss") -> dict:
        """Those of `scores_of_counts`, single ones as float."""
        scores = scores_of_counts(self.counts, predicted_255)
        return {key: value if value.ndim else float(value) for key, value in scores.items()}


def pair_runs(prediction: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two maps of one shape as runs of pixels, in reading order, in which neither changes: prediction, truth and
    length of each, [R]. Label maps have a fortieth as many runs as pixels, so what follows costs little."""
    prediction, truth = prediction.ravel(), truth.ravel()
    changes = prediction[1:] != prediction[:-1]
    changes |= truth[1:] != truth[:-1]
    ends = np.concatenate([[-1], np.flatnonzero(changes), [truth.size - 1]])
    return prediction.take(ends[1:]), truth.take(ends[1:]), np.diff(ends)


def ignored_where(ignored: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """uint8 labels, with 255 where `ignored`, bool of one shape, holds."""
    return labels | IGNORE_LABEL * ignored.view(np.uint8)


def count_pairs(prediction: np.ndarray, truth: np.ndarray, lengths: np.ndarray, num_labels: int) -> np.ndarray:
    """Pixels of the runs, int64 [L + 1, L + 1]: truth by row, prediction by column, 255 first in both."""
    row, column = ((labels + 1).astype(np.uint8) for labels in (truth, prediction))  # 255 goes round to 0
    largest = int(max(row.max(initial=0), column.max(initial=0))) - 1
    if largest >= num_labels:
        raise ValueError(f"holds label {largest}, but there are only 0 to {num_labels - 1} and 255")
    size = num_labels + 1
    codes = row * np.uint16(size) + column
    return np.bincount(codes, lengths, size * size).astype(np.int64).reshape(size, size)


def scores_of_counts(counts: np.ndarray, predicted_255: str = "miss") -> dict[str, np.ndarray]:
    """Confusion matrices [..., L, L + 1] → Acc, Acc_class, mIoU, fwIoU in 0..1 and coverage, [...]; IoU, precision
    and recall per class, [..., L].

    A prediction of 255 is a "miss" (counts against its truth), or is "dropped" as if its truth were 255.
    Classes that occur neither in truth nor in prediction are NaN and count in no mean. Coverage is the share
    of pixels with a prediction other than 255. Without any pixel, and for matrices of NaN, scores are NaN.
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
        "Acc_class": mean_of_defined(recall),
        "mIoU": mean_of_defined(iou),
        "fwIoU": weighted_iou,
        "IoU": iou,
        "precision": precision,
        "recall": recall,
        "coverage": coverage,
    }


def mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean over what is not NaN along the last axis; NaN where nothing is left."""
    defined = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=-1) / defined.sum(axis=-1)
