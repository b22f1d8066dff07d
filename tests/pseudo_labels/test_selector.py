"""The salient object selector: worked examples, and all labels and masks of 2×2 pixels."""

import itertools

import numpy as np
import pytest

from formats.errors import InputError
from pseudo_labels.selector import (
    Measurement,
    ThresholdRule,
    class_saliency,
    measure,
    measure_overlap,
    saliency_mask,
    select,
)

CLASSES = ("dog", "chair", "sofa")


def test_overlap_does_not_count_ignored_pixels():
    label = np.array([[5, 5, 255, 0]], np.uint8)
    assert measure_overlap(label, np.array([[True, False, True, True]])) == pytest.approx(1 / 3)
    assert measure_overlap(np.full((2, 2), 255, np.uint8), np.ones((2, 2), bool)) == 0


def test_selector_exhaustively():
    """All labels and masks of 2×2 pixels against the rule of the paper, pixel by pixel."""
    for values in itertools.product((0, 4, 255), repeat=4):
        for mask_values in itertools.product((False, True), repeat=4):
            label, mask = np.array(values, np.uint8).reshape(2, 2), np.array(mask_values).reshape(2, 2)
            both = sum(m and v == 4 for v, m in zip(values, mask_values))
            either = sum(v != 255 and (m or v == 4) for v, m in zip(values, mask_values))
            for threshold in (0, 0.4, 0.6, 1):
                expected = any(mask_values) and either > 0 and both / either > threshold
                result = select(label, mask, 4, threshold)
                assert np.array_equal(result, np.where(mask, 4, 0) if expected else label)


# ---- thresholds


def test_class_saliency_is_relative_to_the_largest_mean():
    norms, classes = np.array([0.9, 0.7, 0.4, 0.2]), np.array([1, 1, 2, 3])  # means 0.8, 0.4, 0.2, none
    assert class_saliency(norms, classes, num_classes=4) == pytest.approx([1, 1, 0.5, 0.25, 1])
    assert class_saliency(np.zeros(2), np.array([1, 2]), num_classes=2).tolist() == [1, 1, 1]
    assert class_saliency(np.zeros(0), np.zeros(0, int), num_classes=2).tolist() == [1, 1, 1]


MEASURED = [Measurement(0, 1, 0.7, 0.8), Measurement(1, 2, 0.1, 0.4), Measurement(2, 3, -1.0, 0.2)]


@pytest.mark.parametrize(
    ("thresholds", "salient", "values"),
    [
        (ThresholdRule(CLASSES), [True, True, True, False], [0.4, 0.4, 0.4, 0.6]),
        (ThresholdRule(CLASSES, t0=0.1, t1=0.5, least_saliency=0.6), [True, True, False, False], [0.1, 0.1, 0.6, 0.6]),
        (ThresholdRule(CLASSES, non_salient=["dog", "sofa"]), [True, False, True, False], [0.4, 0.6, 0.4, 0.6]),
        (ThresholdRule(CLASSES, non_salient=["none"]), [True] * 4, [0.4] * 4),
        (ThresholdRule(CLASSES, "formula"), None, [0.4, 0.4, 0.9, 1.15]),
        (ThresholdRule(CLASSES, "formula", tau=1.0), None, [0, 0, 0.5, 0.75]),
    ],
)
def test_thresholds_of_classes(thresholds, salient, values):
    found = thresholds.compute(MEASURED)
    assert found["values"] == pytest.approx(values)
    if thresholds.form == "formula":
        assert found["numbers"] == {"tau": thresholds.tau or thresholds.t0 + 1}
    else:
        assert found["numbers"] == {"t0": thresholds.t0, "t1": thresholds.t1}
        assert found["salient"].tolist() == salient


@pytest.mark.parametrize(
    ("thresholds", "depend"),
    [
        (ThresholdRule(CLASSES), True),
        (ThresholdRule(CLASSES, t1=0.0), False),
        (ThresholdRule(CLASSES, non_salient=["dog"]), False),
        (ThresholdRule(CLASSES, "formula", tau=1.0), True),
    ],
)
def test_whether_thresholds_depend_on_images(thresholds, depend):
    """Compare with the thresholds of other images of the same classes."""
    others = [Measurement(0, 1, 0.9, 0.2), Measurement(1, 2, 0.8, 0.9), Measurement(2, 3, 0.3, 0.8)]
    values = [thresholds.compute(images)["values"] for images in (MEASURED, others)]
    assert thresholds.depend_on_images is not np.array_equal(*values)
    assert thresholds.depend_on_images is depend


@pytest.mark.parametrize(("names", "unknown"), [(["chair", "cow"], "cow"), (["none", "chair"], "none")])
def test_unknown_classes_are_refused(names, unknown):
    with pytest.raises(InputError, match=f"--non_salient_classes: unknown {unknown}; known are dog, chair, sofa"):
        ThresholdRule(CLASSES, non_salient=names)


def test_measures_of_an_image():
    label, saliency = np.array([[4, 4, 0, 255]], np.uint8), np.array([[255, 51, 102, 255]], np.uint8)
    assert saliency_mask(saliency, 0.2).tolist() == [[True, False, True, True]]
    found, norm = measure(label, saliency, 0.2)
    assert found == pytest.approx(1 / 3)
    assert norm == pytest.approx(np.sqrt((1 + 0.04 + 0.16 + 1) / 4))
    assert measure(label, saliency, 1.0) == (-1, norm)  # an empty mask: below every threshold
    assert measure(np.zeros_like(label), saliency, 0.2)[0] == 0
