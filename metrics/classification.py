"""Mean average precision and F1 of image labels."""

import numpy as np


def average_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean of the precision at each positive, in order of falling score; NaN without a positive.

    scores float [N], truth bool [N]. Images of one score share one threshold, as in scikit-learn.
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
    """scores float [N, C], truth bool [N, C] → mean over the classes that occur."""
    values = [average_precision(scores[:, c], truth[:, c]) for c in range(truth.shape[1]) if truth[:, c].any()]
    return float(np.mean(values)) if values else float("nan")


def mean_f1(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Macro F1: 2 TP / (2 TP + FP + FN), mean over the classes that occur in truth; predicted, truth bool [N, C]."""
    occurs = truth.any(axis=0)
    hits = (predicted & truth).sum(axis=0)[occurs]
    either = (predicted.sum(axis=0) + truth.sum(axis=0))[occurs]
    return float((2 * hits / either).mean()) if occurs.any() else float("nan")
