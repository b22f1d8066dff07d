"""Confidence intervals of scores and paired comparisons of methods by the Poisson bootstrap over images.

Every metric here is a function of a state that is summed over images. Replicate b of a data set contains image i as
often as a Poisson(1) draw for (b, i), so its state is a weighted sum and images need not be kept (Hanley & MacGibbon
2006; Chamandy et al. 2012). The draws depend only on the index of the image and on the seed: two methods scored on the
same images see the same resamples, which makes the comparison of both paired.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from metrics.tables import UNDEFINED, Table

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
        """Sums float64 [B, K], exact for counts; NaN in a replicate without images."""
        if self.states:
            self._sum_chunk()
        if np.ndim(self.totals) == 0:
            raise ValueError("no image was added")
        drawn, sums = self.totals[:, :1], self.totals[:, 1:]
        return np.where(drawn == 0, np.nan, sums)

    def _sum_chunk(self) -> None:
        weights = [draw_weights(index, self.num_replicates, self.seed) for index in self.indices]
        self.totals = self.totals + np.stack(weights, axis=1) @ np.stack(self.states)
        self.indices, self.states = [], []


def draw_weights(index: int, num_replicates: int, seed: int) -> np.ndarray:
    """How often each replicate contains the image, float64 [B]."""
    return np.random.default_rng((seed, index)).poisson(1.0, num_replicates).astype(np.float64)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval (Efron & Tibshirani 1993, chapter 13) of the replicates of a score, [B], without NaN."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_comparison(values_a: np.ndarray, values_b: np.ndarray, difference: float) -> dict[str, float]:
    """Compare method b with method a by scores [B] of both on the same replicates.

    difference: b − a on the original data. Returns "difference"; "low" and "high", its 95 % interval; "p", two-sided:
    twice the share of replicates on the rarer side of 0, ties counted on both sides, as (k + 1) / (B + 1) (Davison &
    Hinkley 1997, section 4.2); "least_p", the smallest p that this number of replicates can give.
    """
    differences = values_b - values_a
    defined = differences[~np.isnan(differences)]
    rarer = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    p = min(1.0, 2 * (rarer + 1) / (defined.size + 1)) if defined.size else float("nan")
    low, high = interval(differences)
    return {"difference": float(difference), "low": low, "high": high, "p": p, "least_p": 2 / (defined.size + 1)}


@dataclass(frozen=True)
class BootstrapScores:
    """Scores of one method on all images, and their replicates [B], by measure; in 0..1."""

    scores: dict[str, float]
    replicates: dict[str, np.ndarray]

    def intervals(self) -> dict[str, list[float]]:
        """95 % interval [low, high] of each measure."""
        return {name: list(interval(values)) for name, values in self.replicates.items()}


def compare(first: BootstrapScores, other: BootstrapScores) -> dict[str, dict[str, float]]:
    """`paired_comparison` of other − first for each measure that both have."""
    return {
        name: paired_comparison(values, other.replicates[name], other.scores[name] - first.scores[name])
        for name, values in first.replicates.items()
        if name in other.replicates
    }


def interval_table(header: list[str], rows: dict[tuple[str, ...], BootstrapScores], show: Callable) -> Table:
    """Table of scores with intervals, one row per method. header: columns of the keys; show: formats a score."""
    names = list(dict.fromkeys(name for method in rows.values() for name in method.replicates))
    cells = []
    for key, method in rows.items():
        ends = {name: f"[{show(low)}, {show(high)}]" for name, (low, high) in method.intervals().items()}
        shown = {name: f"{show(method.scores[name])} {end}" for name, end in ends.items()}
        cells.append([*key, *(shown.get(name, UNDEFINED) for name in names)])
    return Table("intervals", [*header, *names], cells)


def comparison_table(header: list[str], rows: dict[tuple[str, ...], dict[str, dict]], show: Callable) -> Table:
    """Table of the results of `compare`, one row per pair of methods. Arguments as of `interval_table`."""
    names = list(dict.fromkeys(name for measures in rows.values() for name in measures))
    cells = [[*key, *(format_comparison(measures.get(name), show) for name in names)] for key, measures in rows.items()]
    return Table("comparison", [*header, *names], cells)


def format_comparison(comparison: dict[str, float] | None, show: Callable) -> str:
    if comparison is None or np.isnan(comparison["difference"]):
        return UNDEFINED
    difference, low, high = (show(comparison[key]) for key in ("difference", "low", "high"))
    sign = "p ≤" if comparison["p"] <= comparison["least_p"] else "p"
    return f"{difference} [{low}, {high}] {sign} {comparison['p']:.3f}"
