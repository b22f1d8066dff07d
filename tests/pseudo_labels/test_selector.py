"""The salient object selector: worked examples, and all labels and masks of 2×2 pixels."""

import itertools

import numpy as np
import pytest
from scipy.stats import spearmanr

from formats.errors import InputError
from pseudo_labels import selector
from pseudo_labels.selector import (
    LARGEST_T0,
    Measurement,
    ThresholdRule,
    auto_threshold,
    class_saliency,
    measure,
    measure_overlap,
    rank_correlation,
    saliency_mask,
    select,
    select_regions,
    split_mask,
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


MEASURED = [Measurement(0, 1, 0.7, 0.8, 0.9), Measurement(1, 2, 0.1, 0.4, 0.9), Measurement(2, 3, -1.0, 0.2, 0.6)]


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


@pytest.mark.parametrize(("form", "values"), [("algorithm", [0.25] * 3 + [0.45]), ("formula", [0.25, 0.25, 0.75, 1])])
def test_t0_may_be_chosen_from_the_overlaps(monkeypatch, form, values):
    given = []
    monkeypatch.setattr(selector, "auto_threshold", lambda *columns: given.append(columns) or 0.25)
    found = ThresholdRule(CLASSES, form, t0="auto").compute(MEASURED)
    assert [column.tolist() for column in given[0]] == [[0.7, 0.1, -1.0], [0.9, 0.9, 0.6]]
    assert found["numbers"] == ({"tau": 1.25} if form == "formula" else {"t0": 0.25, "t1": 0.2})
    assert found["values"] == pytest.approx(values)


@pytest.mark.parametrize(
    ("thresholds", "depend"),
    [
        (ThresholdRule(CLASSES), True),
        (ThresholdRule(CLASSES, t1=0.0), False),
        (ThresholdRule(CLASSES, non_salient=["dog"]), False),
        (ThresholdRule(CLASSES, t0="auto", non_salient=["none"]), True),
        (ThresholdRule(CLASSES, "formula", tau=1.0), True),
    ],
)
def test_whether_thresholds_depend_on_images(thresholds, depend):
    """Compare with the thresholds of other images of the same classes."""
    others = [Measurement(0, 1, 0.9, 0.2, 0.5), Measurement(1, 2, 0.8, 0.9, 0.4), Measurement(2, 3, 0.3, 0.8, 0.9)]
    values = [thresholds.compute(images)["values"] for images in (MEASURED, others)]
    assert thresholds.depend_on_images is not np.array_equal(*values)
    assert thresholds.depend_on_images is depend


@pytest.mark.parametrize(("names", "unknown"), [(["chair", "cow"], "cow"), (["none", "chair"], "none")])
def test_unknown_classes_are_refused(names, unknown):
    with pytest.raises(InputError, match=f"--non_salient_classes: unknown {unknown}; known are dog, chair, sofa"):
        ThresholdRule(CLASSES, non_salient=names)


# ---- images of several classes: labels 3 and 8, as rows of six pixels

THRESHOLDS = np.full(9, 0.4)


def row(*values) -> np.ndarray:
    return np.array([values], np.uint8)


def test_a_mask_is_divided_by_the_strongest_map():
    cams = np.array([[[0.9, 0.2, 0.0, 0.5, 1.0]], [[0.1, 0.3, 0.0, 0.5, 0.0]]], np.float32)
    mask = np.array([[True, True, True, True, False]])
    regions = split_mask(mask, cams, np.array([3, 8], np.uint8))
    assert regions.dtype == np.uint8
    assert regions.tolist() == [[3, 8, 3, 3, 0]]


@pytest.mark.parametrize(
    ("label", "regions", "expected"),
    [
        # 3: 2 of 3, 8: 0 of 2. What 3 had outside the mask is ignored
        (row(3, 3, 3, 0, 8, 0), row(3, 3, 0, 0, 0, 8), row(3, 3, 255, 0, 8, 0)),
        # both; each paints its region over what the other had, and over the background
        (row(3, 3, 3, 8, 8, 0), row(3, 3, 8, 8, 8, 8), row(3, 3, 8, 8, 8, 8)),
        # neither: 1 of 3 and 0 of 3
        (row(3, 3, 0, 8, 8, 0), row(0, 3, 3, 0, 0, 8), row(3, 3, 0, 8, 8, 0)),
        # 8 has no region, and keeps what it has outside the region of 3
        (row(3, 3, 8, 8, 0, 0), row(3, 3, 3, 0, 0, 0), row(3, 3, 3, 8, 0, 0)),
        # ignored pixels do not count: 3 is 1 of 2 with them away, 1 of 4 otherwise; its region is painted over them
        (row(3, 3, 255, 255, 0, 0), row(3, 0, 3, 3, 0, 0), row(3, 255, 3, 3, 0, 0)),
        # 3 is replaced, 8 is not: what 3 had inside the region of 8 it keeps
        (row(3, 3, 3, 8, 8, 8), row(3, 3, 8, 0, 0, 0), row(3, 3, 3, 8, 8, 8)),
        # an overlap of the threshold is not above it: 2 of 5
        (row(3, 3, 3, 0, 0, 0), row(3, 3, 0, 3, 3, 0), row(3, 3, 3, 0, 0, 0)),
    ],
)
def test_selection_by_regions(label, regions, expected):
    untouched = label.copy()
    selected = select_regions(label, regions, np.array([3, 8], np.uint8), THRESHOLDS)
    assert selected.tolist() == expected.tolist()
    assert np.array_equal(label, untouched)


def test_each_class_has_its_own_threshold():
    label, regions = row(3, 3, 3, 8, 8, 8), row(3, 3, 0, 8, 8, 0)
    for barred, expected in ((3, row(3, 3, 3, 8, 8, 255)), (8, row(3, 3, 255, 8, 8, 8))):
        thresholds = np.where(np.arange(9) == barred, 1.0, 0.4)
        assert select_regions(label, regions, np.array([3, 8], np.uint8), thresholds).tolist() == expected.tolist()


def test_measures_of_an_image():
    label, saliency = row(4, 4, 0, 255), row(255, 51, 102, 255)
    assert saliency_mask(saliency, 0.2).tolist() == [[True, False, True, True]]
    found, norm, certainty = measure(label, saliency, 0.2)
    assert found == pytest.approx(1 / 3)
    assert norm == pytest.approx(np.sqrt((1 + 0.04 + 0.16 + 1) / 4))
    assert certainty == pytest.approx((1 + 0.6 + 0.2 + 1) / 4)
    assert measure(label, saliency, 1.0) == (-1, norm, certainty)  # an empty mask: below every threshold
    assert measure(row(0, 0, 0, 0), saliency, 0.2)[0] == 0


def test_automatic_threshold_follows_the_better_of_the_two():
    """200 images, in which the certainty of a map indicates the quality of its mask."""
    rng = np.random.default_rng(0)
    mask_quality = rng.uniform(0.2, 1, 200)
    certainty = 0.8 + 0.2 * mask_quality
    good_labels = np.full(200, 0.95) * mask_quality  # overlaps follow the masks
    weak_labels = rng.uniform(0.1, 0.9, 200)  # overlaps follow the labels
    assert auto_threshold(good_labels, certainty) == LARGEST_T0
    assert auto_threshold(weak_labels, certainty) < 0.1
    assert auto_threshold(0.4 * good_labels, certainty) == 0  # labels that agree with no mask are worth nothing
    surer = 1 - (1 - certainty) / 10
    assert auto_threshold(0.8 * good_labels, surer) < auto_threshold(0.8 * good_labels, certainty)


def test_automatic_threshold_by_hand():
    overlaps, certainties = np.array([-1, 0.5, 0.6, 0.7, 0.8]), np.array([0.1, 0.9, 0.92, 0.91, 0.95])
    # q = 0.725; ranks 1 2 3 4 and 1 3 2 4: ρ = 0.8; u = 1 − 0.92: 25 · 0.08 · min(0.225, 0.7)
    assert auto_threshold(overlaps, certainties) == pytest.approx(0.45)
    assert auto_threshold(overlaps - 0.1, np.ones(5)) == pytest.approx(2.5 * 0.125)  # binary maps: q alone
    assert auto_threshold(np.array([-1.0, 0.3]), np.ones(2)) == LARGEST_T0  # one image is not enough


def test_rank_correlation_agrees_with_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, 40), rng.integers(0, 9, 40)
    assert rank_correlation(x, y) == pytest.approx(spearmanr(x, y).statistic)
