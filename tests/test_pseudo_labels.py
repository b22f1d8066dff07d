"""CAM labels and the salient object selector, by hand and exhaustively."""

import itertools

import numpy as np
import pytest
import torch

from pseudo_labels.cams import labels_from_cams, normalised_cams, rectified
from pseudo_labels.selector import non_salient_classes, overlap, saliency_norm, select
from utils.multi_scale import sum_over_scales


def test_cams_are_rectified_and_divided_by_their_maximum():
    raw = torch.tensor([[[[-1.0, 2.0]], [[4.0, 1.0]], [[-3.0, -2.0]]]])
    chosen = rectified(raw, torch.tensor([0, 1, 2]))[0]
    cams = normalised_cams(chosen)
    assert torch.allclose(cams, torch.tensor([[[0.0, 1.0]], [[1.0, 0.25]], [[0.0, 0.0]]]), atol=1e-4)


def test_labels_from_cams():
    cams = np.array([[[0.9, 0.1, 0.3, 0.2]], [[0.2, 0.15, 0.6, 0.0]]])
    assert labels_from_cams(cams, np.array([3, 8], np.uint8), 0.2).tolist() == [[3, 0, 8, 0]]
    empty = labels_from_cams(np.zeros((0, 2, 2)), np.zeros(0, np.uint8), 0.2)
    assert empty.tolist() == [[0, 0], [0, 0]]


def test_overlap_does_not_count_ignored_pixels():
    label = np.array([[5, 5, 255, 0]], np.uint8)
    assert overlap(label, np.array([[True, False, True, True]])) == pytest.approx(1 / 3)
    assert overlap(np.full((2, 2), 255, np.uint8), np.ones((2, 2), bool)) == 0


def test_selector_exhaustively():
    """All labels and masks of 2×2 pixels against the rule of the paper, written down pixel by pixel."""
    for values in itertools.product((0, 4, 255), repeat=4):
        for mask_values in itertools.product((False, True), repeat=4):
            label, mask = np.array(values, np.uint8).reshape(2, 2), np.array(mask_values).reshape(2, 2)
            both = sum(m and v == 4 for v, m in zip(values, mask_values))
            either = sum(v != 255 and (m or v == 4) for v, m in zip(values, mask_values))
            for threshold in (0, 0.4, 0.6, 1):
                expected = any(mask_values) and either > 0 and both / either > threshold
                result, replaced = select(label, mask, 4, threshold)
                assert replaced == expected
                assert np.array_equal(result, np.where(mask, 4, 0) if expected else label)


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 2\].*\[2, 3\]"):
        select(np.zeros((2, 2), np.uint8), np.ones((2, 3), bool), 1, 0.4)


def test_non_salient_classes_by_their_mean_norm():
    assert saliency_norm(np.full((3, 5), 0.5)) == pytest.approx(0.5)
    assert saliency_norm(np.array([[1.0, 0, 0, 0]])) == pytest.approx(0.5)
    norms, classes = np.array([0.8, 0.6, 0.3, 0.1]), np.array([1, 1, 2, 3])
    found = non_salient_classes(norms, classes, num_classes=4, share=0.5)  # means 0.7, 0.3, 0.1, none
    assert found.tolist() == [False, False, True, True, False]


def test_scales_and_flips():
    images = torch.rand(2, 3, 8, 12)
    total = sum_over_scales(lambda batch: batch[:, :1], images, scales=(1.0,), flip=True)
    assert torch.allclose(total, 2 * images[:, :1])
    sizes = []
    sum_over_scales(lambda b: sizes.append(tuple(b.shape[-2:])) or b, images, scales=(0.5, 1.5), flip=False)
    assert sizes == [(4, 6), (12, 18)]
    sizes.clear()
    sum_over_scales(
        lambda b: sizes.append(tuple(b.shape[-2:])) or b, images, scales=(0.01, 1.5), flip=False, multiple=4
    )
    assert sizes == [(4, 4), (12, 16)]  # 18 lies halfway: rounded to the even multiple
    sizes.clear()
    sum_over_scales(lambda b: sizes.append(tuple(b.shape[-2:])) or b, images, scales=(1.0,), flip=False, multiple=32)
    assert sizes == [(8, 12)]  # the size the network was trained at, whatever the multiple
