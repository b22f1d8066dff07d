"""Confusion matrix compared with torchmetrics and with results worked out by hand; both conventions of 255."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassJaccardIndex,
    MulticlassPrecision,
    MulticlassRecall,
)

from metrics.classification import average_precision, mean_average_precision
from metrics.segmentation import ConfusionMatrix, score_counts


def scores(prediction, truth, num_labels=3):
    matrix = ConfusionMatrix(num_labels)
    matrix.add(np.array(prediction, np.uint8), np.array(truth, np.uint8))
    return matrix.scores()


def test_by_hand():
    found = scores([[0, 0, 1, 1]], [[0, 1, 1, 255]])
    assert found["IoU"][:2].tolist() == [0.5, 0.5]
    assert np.isnan(found["IoU"][2])
    assert found["mIoU"] == 0.5
    assert found["Acc"] == pytest.approx(2 / 3)
    assert found["Acc_class"] == pytest.approx((1 + 0.5) / 2)
    assert found["fwIoU"] == pytest.approx(0.5)
    assert found["coverage"] == 1


def test_255_in_a_prediction():
    matrix = ConfusionMatrix(3)
    matrix.add(np.array([[0, 255, 1, 255]], np.uint8), np.array([[0, 1, 1, 255]], np.uint8))
    miss, dropped = matrix.scores(), score_counts(matrix.counts, "dropped")
    assert miss["IoU"][:2].tolist() == [1, 0.5]
    assert dropped["IoU"][:2].tolist() == [1, 1]
    assert miss["coverage"] == dropped["coverage"] == pytest.approx(2 / 3)


def test_equal_to_torchmetrics():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, (6, 40, 30)).astype(np.uint8)
    prediction = np.where(rng.random(truth.shape) < 0.6, truth, rng.integers(0, 5, truth.shape)).astype(np.uint8)
    truth[rng.random(truth.shape) < 0.1] = 255
    matrix = ConfusionMatrix(5)
    for one in zip(prediction, truth):
        matrix.add(*one)
    found = matrix.scores()
    pair = torch.from_numpy(prediction.astype(np.int64)), torch.from_numpy(truth.astype(np.int64))
    for key, metric, average in (
        ("IoU", MulticlassJaccardIndex, "none"),
        ("mIoU", MulticlassJaccardIndex, "macro"),
        ("fwIoU", MulticlassJaccardIndex, "weighted"),
        ("precision", MulticlassPrecision, "none"),
        ("recall", MulticlassRecall, "none"),
        ("Acc", MulticlassAccuracy, "micro"),
        ("Acc_class", MulticlassAccuracy, "macro"),
    ):
        expected = metric(num_classes=5, average=average, ignore_index=255)(*pair)
        assert found[key] == pytest.approx(expected.numpy(), abs=1e-6), key


def plain_counts(prediction, truth, num_labels: int) -> np.ndarray:
    """Counts by a loop over pixels."""
    counts = np.zeros((num_labels, num_labels + 1), np.int64)
    for predicted, true in zip(prediction.ravel().tolist(), truth.ravel().tolist()):
        if true != 255:
            counts[true, min(predicted, num_labels)] += 1
    return counts


@pytest.mark.parametrize("block", [1, 5, 40])
@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (41, 33)])
def test_counts_equal_loops_over_pixels(size, block):
    rng = np.random.default_rng(block)
    prediction, truth = (
        rng.choice([0, 1, 2, 3, 255], size).astype(np.uint8).repeat(block, axis=1)[:, : size[1]] for _ in range(2)
    )
    for view in (lambda label: label, np.transpose, lambda label: label[::-1, ::-1], lambda label: label[::2, ::3]):
        matrix = ConfusionMatrix(4)
        matrix.add(view(prediction), view(truth))
        assert np.array_equal(matrix.counts, plain_counts(view(prediction), view(truth), 4))


def test_counts_of_a_huge_map_are_exact():
    truth = np.zeros((4100, 4100), np.uint8)  # more pixels than a 32-bit float can count
    truth[-1, -1] = 1
    matrix = ConfusionMatrix(2)
    for _ in range(2):
        matrix.add(truth, truth)
    assert matrix.counts.tolist() == [[2 * 4100**2 - 2, 0, 0], [0, 2, 0]]


def test_nothing_was_counted():
    found = scores([[1, 255]], [[255, 255]])
    assert all(np.isnan(score).all() for score in found.values())


def test_refusals():
    with pytest.raises(ValueError, match="label 3"):
        scores([[0]], [[3]])
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        scores([[0]], [[0, 0]])
    with pytest.raises(ValueError, match="holds label 254, but there are only 0 to 2 and 255"):
        scores([[0, 2, 254, 255]], [[0, 5, 0, 0]])
    assert np.isnan(scores([[7]], [[255]])["Acc"])  # predictions on ignored pixels are not checked


def test_average_precision():
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), np.array([True, False, False, False])) == pytest.approx(0.25)
    assert np.isnan(average_precision(np.zeros(2), np.array([False, False])))
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    marks, truth = rng.integers(0, 9, (50, 3)) / 9, rng.random((50, 3)) < 0.3
    assert mean_average_precision(marks, truth) == pytest.approx(average_precision_score(truth, marks, average="macro"))
