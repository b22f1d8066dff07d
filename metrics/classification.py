"""Mean average precision and F1 of image labels."""

import numpy as np


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean of the precision at each positive in order of descending score, 0..1; NaN without positives.

    scores: float [N]; truth: bool [N]. Images with equal scores share one threshold, as in scikit-learn.
    """
    if not truth.any():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    scores, truth = scores[order], truth[order]
    last_of_run = np.append(scores[1:] != scores[:-1], True)
    hits = np.cumsum(truth)[last_of_run]
    precision = hits / (np.flatnonzero(last_of_run) + 1)
    return float(precision @ np.diff(hits, prepend=0) / truth.sum())


def mean_average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean of `average_precision` over the classes that occur in the truth; NaN if there are none.

    scores: float [N, C]; truth: bool [N, C].
    """
    values = [average_precision(scores[:, c], truth[:, c]) for c in range(truth.shape[1]) if truth[:, c].any()]
    return float(np.mean(values)) if values else float("nan")


def mean_f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Macro F1: mean of 2 TP / (2 TP + FP + FN) over the classes that occur in the truth; NaN if there are none.

    predicted, truth: bool [N, C].
    """
    occurs = truth.any(axis=0)
    hits = (predicted & truth).sum(axis=0)[occurs]
    either = (predicted.sum(axis=0) + truth.sum(axis=0))[occurs]
    return float((2 * hits / either).mean()) if occurs.any() else float("nan")
