"""Weighted F-measure of a large image, and the choice of the nearest pixel; small images: test_saliency_metrics.py."""

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from metrics.weighted_f import copy_nearest_errors, measure_weighted_f, pad


def reference(prediction, truth) -> float:
    metric = pytest.importorskip("py_sod_metrics").WeightedFmeasure()
    metric.step(prediction, truth.astype(np.uint8) * 255)
    return metric.get_results()["wfm"]


def test_large_image_equals_the_reference():
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:700, :900]
    truth = (np.hypot(y - 300, x - 500) < 200) ^ (np.hypot(y - 350, x - 450) < 80)
    prediction = np.clip(255 * truth + rng.normal(0, 60, truth.shape), 0, 255).astype(np.uint8)
    assert measure_weighted_f(prediction, truth) == pytest.approx(reference(prediction, truth), abs=1e-6)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.4])
def test_nearest_pixel_is_that_of_scipy(share):
    rng = np.random.default_rng(3)
    for _ in range(50):
        truth = rng.random(rng.integers(2, 40, 2)) < share
        truth[0, 0] = True
        distances, nearest = distance_transform_edt(~truth, return_indices=True)
        errors = rng.random(truth.shape)
        seen = distances**2 < 18.5
        copied = pad(errors * truth)
        copy_nearest_errors(copied, pad(truth.view(np.uint8)), pad(distances.astype(np.float32)))
        expected = np.where(seen, errors[tuple(nearest)], 0)
        np.testing.assert_array_equal(copied[4:-4, 4:-4], expected)


def test_by_hand():
    """An object of one pixel with error .5: all pixels around it copy its error, so the 7×7 mean is .5, too."""
    truth = np.zeros((21, 21), bool)
    truth[10, 10] = True
    prediction = np.zeros((21, 21), np.uint8)
    prediction[10, 10], prediction[10, 15] = 51, 102  # stretched to .5 and 1; 5 px away the weight is 2 − .5
    hits, alarms = 0.5, 1.5
    recall, precision = hits, hits / (hits + alarms)
    assert measure_weighted_f(prediction, truth) == pytest.approx(
        2 * recall * precision / (recall + precision), abs=1e-6
    )
