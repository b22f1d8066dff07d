"""Confidence intervals of scores and paired comparisons of methods by the Poisson bootstrap over images.

Every metric here is a function of a state that is summed over images. Replicate b of a data set contains image i as
often as a Poisson(1) draw for (b, i), so its state is a weighted sum and images need not be kept (Hanley & MacGibbon
2006; Chamandy et al. 2012). The draws depend only on the index of the image and on the seed: two methods scored on the
same images see the same resamples, which makes the comparison of both paired.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metrics.tables import Table, short_names

CHUNK = 64  # images per matrix product


class Bootstrap:
    """Sums of image states over B resamples. Memory is B · K numbers for any number of images."""

    def __init__(self, num_replicates: int = 1000, seed: int = 0):
        self.num_replicates, self.seed = num_replicates, seed
        self.indices: list[int] = []
        self.states: list[np.ndarray] = []
        self.totals = 0.0  # float64 [B, 1 + K] after the first chunk: number of images drawn, sum of their states

    def add(self, index: int, state: np.ndarray) -> None:
        """Add one image: its index among all images of the data set, scored or not, and its state [K]."""
        self.indices.append(index)
        self.states.append(np.concatenate([[1.0], state]))
        if len(self.states) == CHUNK:
            self._sum_chunk()

    def sums(self) -> np.ndarray:
        """Return the sums, float64 [B, K], NaN without images; at least one image must have been added."""
        if self.states:
            self._sum_chunk()
        drawn, sums = self.totals[:, :1], self.totals[:, 1:]
        return np.where(drawn == 0, np.nan, sums)

    def _sum_chunk(self) -> None:
        weights = [draw_weights(index, self.num_replicates, self.seed) for index in self.indices]
        self.totals = self.totals + np.stack(weights, axis=1) @ np.stack(self.states)
        self.indices, self.states = [], []


def draw_weights(index: int, num_replicates: int, seed: int) -> np.ndarray:
    """How often each replicate contains the image, float64 [B]."""
    return np.random.default_rng((seed, index)).poisson(1.0, num_replicates).astype(np.float64)


def interval(values: np.ndarray) -> list[float]:
    """95 % percentile interval [low, high] (Efron & Tibshirani 1993, chapter 13) of replicates [B], without NaN."""
    defined = values[~np.isnan(values)]
    return np.quantile(defined, [0.025, 0.975]).tolist() if defined.size else [float("nan")] * 2


@dataclass(frozen=True)
class MethodScores:
    """Scores of one method in 0..1 by measure.

    scores: on all images. replicates: float [B] of the measures with intervals; empty without a bootstrap. images: the
    scores of each image that could be scored, by its name or index.
    """

    scores: dict[str, float]
    replicates: dict[str, np.ndarray]
    images: dict

    def intervals(self) -> dict[str, list[float]]:
        """95 % interval [low, high] of each measure."""
        return {name: interval(values) for name, values in self.replicates.items()}


def interval_table(columns: list[str], methods: dict[tuple[str, ...], MethodScores], show: Callable) -> Table:
    """Table of scores with intervals, one row per key (method, ...). columns: of the keys; show: formats a score."""
    rows, names = [], list(next(iter(methods.values())).replicates)
    for key, method in methods.items():
        ends = method.intervals().items()
        rows.append([*key, *(f"{show(method.scores[name])} [{show(low)}, {show(high)}]" for name, (low, high) in ends)])
    return Table("intervals", [*columns, *names], rows)


def comparison_table(
    columns: list[str], methods: dict[tuple[str, ...], MethodScores], show: Callable
) -> tuple[Table, list[str]]:
    """Table of the differences of all methods from the first one, with intervals, and notes on methods that were scored
    on different images. Arguments: see `interval_table`. Keys that differ in more than the method are not compared.
    """
    rows, notes = [], []
    (first, *_), reference = next(iter(methods.items()))
    names = list(dict.fromkeys(name for name, *_ in methods))
    short = dict(zip(names, short_names(names)))
    for (name, *where), method in methods.items():
        start, title = methods.get((first, *where)), [*where, f"{short[name]} − {short[first]}"]
        if name == first or not start:
            continue
        if start.images.keys() != method.images.keys():
            notes.append(f"{' '.join(title)}: not compared: they were scored on different images")
            continue
        rows.append(title)
        for measure, values in method.replicates.items():
            low, high = interval(values - start.replicates[measure])
            difference = method.scores[measure] - start.scores[measure]
            rows[-1].append(f"{show(difference)} [{show(low)}, {show(high)}]")
    return Table("comparison", [*columns[1:], "difference", *reference.replicates], rows), notes
