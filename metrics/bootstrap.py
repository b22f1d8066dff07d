"""How sure a score is, and the difference of two: the Poisson bootstrap over images.

Every metric here is a function of a state that adds up over images. Replicate b of a data set holds image i as often as
Poisson(1) draws for the pair, so its state is a weighted sum and no image needs to be kept (Hanley & MacGibbon 2006;
Chamandy et al. 2012). The draws of an image depend on its index and the seed alone: two methods scored on the same
images see the same resamples, which makes their difference a paired comparison.
"""

import numpy as np

CHUNK = 64  # images in one matrix product


class Bootstrap:
    """Sums of states over B resamples of a set of images, in B · K numbers whatever the number of images."""

    def __init__(self, num_replicates: int = 1000, seed: int = 0):
        self.num_replicates, self.seed = num_replicates, seed
        self.indices: list[int] = []
        self.states: list[np.ndarray] = []
        self.totals: np.ndarray | None = None  # float64 [B, 1 + K]: images drawn, sum of their states

    def add(self, index: int, state: np.ndarray) -> None:
        """One image: its place among all images of the data set, scored or not, and its state [K]."""
        self.indices.append(index)
        self.states.append(np.concatenate([[1.0], state]))
        if len(self.states) == CHUNK:
            self._add_up()

    def sums(self) -> np.ndarray:
        """float64 [B, K], exact for counts; NaN in a replicate that drew no image."""
        if self.states:
            self._add_up()
        if self.totals is None:
            raise ValueError("no image was added")
        drawn, sums = self.totals[:, :1], self.totals[:, 1:]
        return np.where(drawn == 0, np.nan, sums)

    def _add_up(self) -> None:
        weights = [image_weights(index, self.num_replicates, self.seed) for index in self.indices]
        sums = np.stack(weights, axis=1) @ np.stack(self.states)  # [B, 1 + K]
        self.totals = sums if self.totals is None else self.totals + sums
        self.indices, self.states = [], []


def image_weights(index: int, num_replicates: int, seed: int) -> np.ndarray:
    """How often each replicate holds the image, float64 [B]."""
    return np.random.default_rng((seed, index)).poisson(1.0, num_replicates).astype(np.float64)


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval (Efron & Tibshirani 1993, chapter 13) of a score [B] over replicates, NaN left out."""
    defined = values[~np.isnan(values)]
    if not defined.size:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_comparison(values_a: np.ndarray, values_b: np.ndarray, difference: float) -> dict[str, float]:
    """Whether method b scores other than a, by scores [B] of both over the same replicates.

    difference: b − a on the data as they are. → "difference"; "low" and "high", its 95 % interval; "p", two-sided:
    twice the share of replicates on the rarer side of 0, ties on both, counted as (k + 1) / (B + 1) (Davison &
    Hinkley 1997, section 4.2); "least_p", the smallest that so many replicates can give.
    """
    differences = values_b - values_a
    defined = differences[~np.isnan(differences)]
    rarer = min(np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0))
    p = min(1.0, 2 * (rarer + 1) / (defined.size + 1)) if defined.size else float("nan")
    low, high = interval(differences)
    return {"difference": float(difference), "low": low, "high": high, "p": p, "least_p": 2 / (defined.size + 1)}
