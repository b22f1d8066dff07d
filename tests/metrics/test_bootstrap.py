"""Poisson bootstrap: standard errors and coverage, weights of an image, paired differences, tables."""

import numpy as np
import pytest
from scipy import stats

from metrics import bootstrap
from metrics.bootstrap import Bootstrap, MethodScores, comparison_table, draw_weights, interval, interval_table
from metrics.label_quality import measure_label, score_states, sum_states
from metrics.tables import four_digits, percent


def resampled(states: np.ndarray, indices=None, **options) -> np.ndarray:
    """Sums [B, K] over resamples of the images' states [N, K]."""
    replicates = Bootstrap(**options)
    for index, state in zip(range(len(states)) if indices is None else indices, states):
        replicates.add(index, state)
    return replicates.sums()


def resampled_means(values: np.ndarray, **options) -> np.ndarray:
    """Means [B, ...] over resamples of the values [N, ...] of images."""
    sums = resampled(np.column_stack([np.ones(len(values)), values]), **options)
    return sums[:, 1:] / sums[:, :1]


def test_interval_of_a_mean_is_the_t_interval():
    values = np.random.default_rng(0).normal(5, 2, 200)
    means = resampled_means(values, num_replicates=4000)[:, 0]
    error = values.std(ddof=1) / 200**0.5
    assert means.std() == pytest.approx(error, rel=0.06)
    expected = stats.t.interval(0.95, 199, values.mean(), error)
    assert interval(means) == pytest.approx(expected, abs=0.2 * error)


def test_coverage_and_false_alarms():
    """400 data sets, one per column: 95 % of the intervals contain the true mean, and 5 % of the intervals of a
    difference that does not exist leave out 0."""
    rng = np.random.default_rng(1)
    values, others = rng.exponential(1, (2, 150, 400))
    means, other_means = (resampled_means(one, num_replicates=500) for one in (values, others))
    for replicates, truth, share in ((means, 1, 0.94), (other_means - means, 0, 0.95)):
        low, high = np.array([interval(column) for column in replicates.T]).T
        assert np.mean((low <= truth) & (high >= truth)) == pytest.approx(share, abs=0.03)


def test_weights_depend_only_on_index_and_seed():
    states = np.random.default_rng(2).integers(0, 10**9, (100, 3))
    order = np.random.default_rng(3).permutation(100)
    assert np.array_equal(resampled(states), resampled(states[order], order))
    both = resampled(states[:30]) + resampled(states[30:], range(30, 100))  # of two processes
    assert np.array_equal(resampled(states), both)
    assert not np.array_equal(resampled(states), resampled(states, seed=1))
    weights = np.stack([draw_weights(index, 1000, 0) for index in range(200)])
    assert [np.mean(weights == count) for count in range(3)] == pytest.approx([0.3679, 0.3679, 0.1839], abs=0.005)
    assert abs(np.corrcoef(weights)[np.triu_indices(200, 1)]).max() < 0.2


@pytest.mark.parametrize("num_images", [1, 64, 65])
def test_sums_at_chunk_boundaries(num_images):
    states = np.random.default_rng(num_images).integers(0, 2**40, (num_images, 5))
    weights = np.stack([draw_weights(index, 20, 7) for index in range(num_images)], axis=1)
    expected = (weights.astype(np.int64) @ states).astype(np.float64)
    expected[weights.sum(axis=1) == 0] = np.nan
    assert np.array_equal(resampled(states, num_replicates=20, seed=7), expected, equal_nan=True)


def test_memory_does_not_grow():
    replicates = Bootstrap(50)
    for index in range(1000):
        replicates.add(index, np.ones(4))
        assert len(replicates.states) == len(replicates.indices) < bootstrap.CHUNK
    assert replicates.totals.shape == (50, 5)


def test_replicates_without_images_are_excluded():
    sums = resampled(np.array([[1.0, 3.0], [1.0, 5.0]]), num_replicates=300)
    empty = (draw_weights(0, 300, 0) + draw_weights(1, 300, 0)) == 0
    assert 20 < empty.sum() < 70  # expected share: e⁻²
    assert np.array_equal(np.isnan(sums).all(axis=1), empty)
    assert interval(sums[:, 1] / sums[:, 0]) == [3, 5]
    assert np.isnan(interval(np.full(4, np.nan))).all()


def test_scores_of_labels():
    """Replicates equal the scores of each image added as often as it was drawn."""
    rng, images = np.random.default_rng(6), []
    for _ in range(5):
        truth = rng.choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
        prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 4, truth.shape)).astype(np.uint8)
        images.append(measure_label(prediction, truth, 4))
    found = score_states(resampled([sum_states([image], 4) for image in images], num_replicates=6, seed=1), 4)
    weights = np.stack([draw_weights(index, 6, 1) for index in range(5)], axis=1).astype(int)  # [B, 5]
    for replicate, counts in enumerate(weights):
        drawn = [image for image, count in zip(images, counts) for _ in range(count)]
        for key, value in score_states(sum_states(drawn, 4), 4).items():
            assert np.array_equal(found[key][replicate], value, equal_nan=True), key


def sampled_mean(values: np.ndarray) -> MethodScores:
    replicates = {"mean": resampled_means(values, num_replicates=500)[:, 0]}
    return MethodScores({"mean": float(values.mean())}, replicates, dict.fromkeys(range(len(values))))


def test_constant_difference_is_significant_despite_overlapping_intervals():
    values = np.random.default_rng(0).random(100)
    first, other = sampled_mean(values), sampled_mean(values - 0.01)
    assert first.intervals()["mean"][0] < other.intervals()["mean"][1]  # the intervals overlap
    table, notes = comparison_table(["method"], {("x/a",): first, ("x/b",): other}, four_digits)
    assert (table.header, table.rows) == (["difference", "mean"], [["b − a", "-0.0100 [-0.0100, -0.0100]"]])
    assert notes == []


def test_tables():
    first = MethodScores({"mIoU": 0.5}, {"mIoU": np.linspace(0.4, 0.6, 1001)}, {1: {}})
    other = MethodScores({"mIoU": float("nan")}, {"mIoU": np.full(1001, np.nan)}, {1: {}})
    table = interval_table(["labels"], {("a",): first, ("b",): other}, percent)
    assert table.header == ["labels", "mIoU"]
    assert table.rows == [["a", "50.00 [40.50, 59.50]"], ["b", "– [–, –]"]]


def test_only_methods_scored_on_the_same_images_are_compared():
    scores = {"S": 0.5}, {"S": np.full(9, 0.5)}
    one, same, fewer = (MethodScores(*scores, dict.fromkeys(images)) for images in ("ab", "ba", "b"))
    methods = {("x", "A"): one, ("x", "B"): one, ("y", "A"): same, ("y", "B"): fewer, ("y", "C"): one}
    table, notes = comparison_table(["method", "data set"], methods, percent)
    assert table.header == ["data set", "difference", "S"]
    assert table.rows == [["A", "y − x", "0.00 [0.00, 0.00]"]]
    assert notes == ["B y − x: not compared: they were scored on different images"]
