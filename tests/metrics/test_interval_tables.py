"""Tables of intervals and of comparisons of methods."""

import numpy as np

from metrics.bootstrap import Bootstrap, BootstrapScores, compare, comparison_table, interval_table
from metrics.tables import percent


def sampled_mean(values: np.ndarray) -> BootstrapScores:
    bootstrap = Bootstrap(500)
    for index, value in enumerate(values):
        bootstrap.add(index, np.array([1.0, value]))
    sums = bootstrap.sums()
    return BootstrapScores({"mean": float(values.mean())}, {"mean": sums[:, 1] / sums[:, 0]})


def test_constant_difference_is_significant_despite_overlapping_intervals():
    values = np.random.default_rng(0).random(100)
    first, other = sampled_mean(values), sampled_mean(values - 0.01)
    ends = [sampled.intervals()["mean"] for sampled in (first, other)]
    assert ends[0][0] < ends[1][1]  # the intervals overlap
    comparison = compare(first, other)["mean"]
    assert comparison["difference"] == np.float64(values.mean() - 0.01) - values.mean()
    assert comparison["low"] <= comparison["high"] < 0
    assert comparison["p"] < 0.01


def test_tables():
    first = BootstrapScores({"mIoU": 0.5}, {"mIoU": np.linspace(0.4, 0.6, 1001)})
    other = BootstrapScores(
        {"mIoU": 0.6, "Acc": float("nan")}, {"mIoU": np.linspace(0.5, 0.7, 1001), "Acc": np.full(1001, np.nan)}
    )
    table = interval_table(["labels"], {("a",): first, ("b",): other}, percent)
    assert table.header == ["labels", "mIoU", "Acc"]
    assert table.rows == [["a", "50.00 [40.50, 59.50]", "–"], ["b", "60.00 [50.50, 69.50]", "– [–, –]"]]
    table = comparison_table(["difference"], {("b − a",): compare(first, other)}, percent)
    assert table.rows == [["b − a", "10.00 [10.00, 10.00] p ≤ 0.002"]]
    assert comparison_table(["difference"], {("a − b",): compare(other, first)}, percent).header == [
        "difference",
        "mIoU",
    ]
