"""Scores of label maps and segmentations from one confusion matrix of 64-bit counts."""

import numpy as np

from label_files import IGNORE_LABEL


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
        labels = self.num_labels
        joint = np.bincount(truth.ravel().astype(np.int64) * 256 + prediction.ravel(), minlength=65536)
        joint = joint.reshape(256, 256)
        if joint[labels:IGNORE_LABEL].any() or joint[:IGNORE_LABEL, labels:IGNORE_LABEL].any():
            rows = np.flatnonzero(joint[:IGNORE_LABEL].any(axis=1))
            columns = np.flatnonzero(joint[:IGNORE_LABEL, :IGNORE_LABEL].any(axis=0))
            largest = max(rows.max(initial=0), columns.max(initial=0))
            raise ValueError(f"holds label {largest}, but there are only 0 to {labels - 1} and 255")
        self.counts[:, :labels] += joint[:labels, :labels]
        self.counts[:, labels] += joint[:labels, IGNORE_LABEL]

    def scores(self, predicted_255: str = "miss") -> dict:
        """Acc, Acc_class, mIoU, fwIoU in 0..1; IoU, precision and recall per class [L]; and coverage.

        A prediction of 255 is a "miss" (counts against its truth), or is "dropped" as if its truth were 255.
        Classes that occur neither in truth nor in prediction are NaN and count in no mean. Coverage is the share
        of pixels with a prediction other than 255.
        """
        hits = self.counts[:, : self.num_labels]
        truth = self.counts.sum(axis=1) if predicted_255 == "miss" else hits.sum(axis=1)
        right = np.diag(hits).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            recall = right / truth
            precision = right / hits.sum(axis=0)
            iou = right / (truth + hits.sum(axis=0) - right)
            frequency = truth / truth.sum()
        return {
            "Acc": float(right.sum() / max(truth.sum(), 1)),
            "Acc_class": mean_of_defined(recall),
            "mIoU": mean_of_defined(iou),
            "fwIoU": float((frequency * iou)[truth > 0].sum()),
            "IoU": iou,
            "precision": precision,
            "recall": recall,
            "coverage": float(hits.sum() / max(self.counts.sum(), 1)),
        }


def mean_of_defined(values: np.ndarray) -> float:
    """Mean over what is not NaN; NaN if nothing is left."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else float("nan")
