"""Poisson bootstrap: standard errors and coverage, weights of an image, paired differences, memory."""

import numpy as np
import pytest
from scipy import stats

from metrics import bootstrap
from metrics.bootstrap import Bootstrap, draw_weights, interval, paired_comparison
from metrics.label_quality import LabelQuality, score_states


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
    narrow, wide = interval(means, 0.5), interval(means, 0.99)
    assert narrow[1] - narrow[0] == pytest.approx(2 * 0.674 * error, rel=0.1)
    assert wide[0] < interval(means)[0] < narrow[0] < values.mean()


def test_coverage_and_false_alarms():
    """400 data sets, one per column: 95 % of the intervals contain the true mean, and 5 % of the tests find a
    difference that does not exist."""
    rng = np.random.default_rng(1)
    values, others = rng.exponential(1, (2, 150, 400))
    means, other_means = (resampled_means(one, num_replicates=500) for one in (values, others))
    bounds = np.array([interval(column) for column in means.T])
    assert np.mean((bounds[:, 0] <= 1) & (bounds[:, 1] >= 1)) == pytest.approx(0.94, abs=0.03)
    differences = (others - values).mean(axis=0)
    found = [paired_comparison(*columns) for columns in zip(means.T, other_means.T, differences)]
    assert np.mean([one["p"] <= 0.05 for one in found]) == pytest.approx(0.05, abs=0.03)


def test_weights_depend_only_on_index_and_seed():
    states = np.random.default_rng(2).integers(0, 10**9, (100, 3))
    order = np.random.default_rng(3).permutation(100)
    assert np.array_equal(resampled(states), resampled(states[order], order))
    both = resampled(states[:30]) + resampled(states[30:], range(30, 100))  # of two processes
    assert np.array_equal(resampled(states), both)
    assert not np.array_equal(resampled(states), resampled(states, seed=1))
    assert not np.array_equal(draw_weights(4, 50, 0), draw_weights(5, 50, 0))
    weights = np.stack([draw_weights(index, 1000, 0) for index in range(200)])
    assert [np.mean(weights == count) for count in range(3)] == pytest.approx([0.3679, 0.3679, 0.1839], abs=0.005)
    assert abs(np.corrcoef(weights)[np.triu_indices(200, 1)]).max() < 0.2


@pytest.mark.parametrize("num_images", [1, 63, 64, 65, 128])
def test_sums_at_chunk_boundaries(num_images):
    states = np.random.default_rng(num_images).integers(0, 2**40, (num_images, 5))
    weights = np.stack([draw_weights(index, 20, 7) for index in range(num_images)], axis=1)
    expected = (weights.astype(np.int64) @ states).astype(np.float64)
    expected[weights.sum(axis=1) == 0] = np.nan
    assert np.array_equal(resampled(states, num_replicates=20, seed=7), expected, equal_nan=True)


def test_reading_sums_early_changes_nothing():
    states, replicates = np.arange(200.0).reshape(100, 2), Bootstrap(30)
    for index, state in enumerate(states):
        replicates.add(index, state)
        if index % 40 == 39:
            replicates.sums()[:] = 0
    assert np.array_equal(replicates.sums(), resampled(states, num_replicates=30))


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
    assert interval(sums[:, 1] / sums[:, 0]) == (3, 5)
    assert np.isnan(interval(np.full(4, np.nan))).all()
    nothing = paired_comparison(np.full(4, np.nan), np.zeros(4), 0.0)
    assert np.isnan([nothing["low"], nothing["high"], nothing["p"]]).all()
    with pytest.raises(ValueError, match="no image was added"):
        Bootstrap().sums()


def test_paired_comparison_has_smaller_intervals_than_unpaired():
    rng = np.random.default_rng(4)
    difficulty = rng.normal(0, 1, 300)  # of each image, the same for both methods
    a, b = difficulty + rng.normal(0, 0.1, 300), difficulty + 0.03 + rng.normal(0, 0.1, 300)
    difference = (b - a).mean()
    mean_a, mean_b = resampled_means(a)[:, 0], resampled_means(b)[:, 0]
    paired = paired_comparison(mean_a, mean_b, difference)
    unpaired = paired_comparison(mean_a, resampled_means(b, seed=1)[:, 0], difference)
    assert paired["difference"] == difference
    assert 0 < paired["low"] < difference < paired["high"]
    assert paired["high"] - paired["low"] < 0.3 * (unpaired["high"] - unpaired["low"])
    assert paired["p"] < 0.01 < 0.3 < unpaired["p"]
    expected = stats.ttest_rel(b, a)
    assert paired["p"] == pytest.approx(expected.pvalue, abs=0.005)


def test_p_by_hand():
    ones = np.ones(999)
    least = {"least_p": 2 / 1000}
    assert paired_comparison(ones, 2 * ones, 1.0) == {"difference": 1, "low": 1, "high": 1, "p": 2 / 1000} | least
    assert paired_comparison(ones, ones, 0.0) == {"difference": 0, "low": 0, "high": 0, "p": 1} | least
    few = np.where(np.arange(999) < 24, -1.0, 1.0)  # 24 of 999 on the other side
    assert paired_comparison(np.zeros(999), few, 0.9)["p"] == paired_comparison(few, np.zeros(999), -0.9)["p"] == 0.05


def test_methods_with_different_images_share_the_draws():
    rng = np.random.default_rng(5)
    states = np.column_stack([np.ones(80), rng.normal(0, 1, 80)])
    lacking = np.delete(np.arange(80), 17)
    means = [sums[:, 1] / sums[:, 0] for sums in (resampled(states), resampled(states[lacking], lacking))]
    assert np.corrcoef(*means)[0, 1] > 0.97


def test_scores_of_labels():
    """Replicates equal the scores of each image added as often as it was drawn."""
    rng, qualities = np.random.default_rng(6), []
    for _ in range(5):
        truth = rng.choice([0, 1, 2, 255], (20, 30)).astype(np.uint8)
        prediction = np.where(rng.random(truth.shape) < 0.7, truth, rng.integers(0, 4, truth.shape)).astype(np.uint8)
        qualities.append((prediction, truth))
    replicates = Bootstrap(6, seed=1)
    for index, pair in enumerate(qualities):
        replicates.add(index, LabelQuality(4).add(*pair).state)
    found = score_states(replicates.sums(), 4)
    weights = np.stack([draw_weights(index, 6, 1) for index in range(5)], axis=1).astype(int)  # [B, 5]
    for replicate, counts in enumerate(weights):
        total = LabelQuality(4)
        for pair, count in zip(qualities, counts):
            for _ in range(count):
                total.add(*pair)
        for key, value in found.items():
            assert np.array_equal(value[replicate], total.scores()[key], equal_nan=True), key
