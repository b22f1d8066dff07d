"""How sure scores are: tables of bootstrap intervals, and of methods beside the first one."""

from dataclasses import dataclass

import numpy as np

from metrics.bootstrap import interval, paired_comparison
from metrics.tables import UNDEFINED, Table


@dataclass(frozen=True)
class Sampled:
    """Measure → score of all images, and its replicates [B], of one method; 0..1."""

    scores: dict[str, float]
    replicates: dict[str, np.ndarray]

    def intervals(self) -> dict[str, list[float]]:
        """Measure → 95 % interval, as [low, high]."""
        return {name: [float(end) for end in interval(values)] for name, values in self.replicates.items()}


def compare(first: Sampled, other: Sampled) -> dict[str, dict[str, float]]:
    """Measure → what `paired_comparison` tells of other − first."""
    return {
        name: paired_comparison(values, other.replicates[name], other.scores[name] - first.scores[name])
        for name, values in first.replicates.items()
        if name in other.replicates
    }


def interval_table(header: list[str], rows: dict[tuple[str, ...], Sampled], show) -> Table:
    """A row for each method, whose names stand below `header`; `show` writes a score."""
    names = list(dict.fromkeys(name for sampled in rows.values() for name in sampled.replicates))
    cells = []
    for key, sampled in rows.items():
        ends = sampled.intervals()
        cells.append(
            [
                *key,
                *(
                    _with_interval(sampled.scores[name], ends[name], show) if name in ends else UNDEFINED
                    for name in names
                ),
            ]
        )
    return Table("intervals", [*header, *names], cells)


def comparison_table(header: list[str], rows: dict[tuple[str, ...], dict[str, dict[str, float]]], show) -> Table:
    """A row for each pair of methods, of what `compare` tells."""
    names = list(dict.fromkeys(name for measures in rows.values() for name in measures))
    cells = [[*key, *(_difference(measures.get(name), show) for name in names)] for key, measures in rows.items()]
    return Table("comparison", [*header, *names], cells)


def _with_interval(score: float, ends: list[float], show) -> str:
    return f"{show(score)} [{show(ends[0])}, {show(ends[1])}]"


def _difference(told: dict[str, float] | None, show) -> str:
    if told is None or told["difference"] != told["difference"]:
        return UNDEFINED
    p = f"p ≤ {told['p']:.3f}" if told["p"] <= told["least_p"] else f"p {told['p']:.3f}"
    return f"{show(told['difference'])} [{show(told['low'])}, {show(told['high'])}] {p}"
