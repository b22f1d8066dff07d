"""Mean average precision of image labels."""

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
