"""Confusion matrix against torchmetrics and by hand; both conventions for 255."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from metrics.classification import average_precision, mean_average_precision
from metrics.segmentation import ConfusionMatrix
from metrics.tables import markdown_table, percent


def scores(prediction, truth, num_labels=3, **options):
    matrix = ConfusionMatrix(num_labels)
    matrix.add(np.array(prediction, np.uint8), np.array(truth, np.uint8))
    return matrix.scores(**options)


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
    prediction, truth = [[0, 255, 1, 255]], [[0, 1, 1, 255]]
    miss, dropped = scores(prediction, truth), scores(prediction, truth, predicted_255="dropped")
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
    iou = MulticlassJaccardIndex(num_classes=5, average="none", ignore_index=255)(*pair)
    assert found["IoU"] == pytest.approx(iou.numpy(), abs=1e-6)
    accuracy = MulticlassAccuracy(num_classes=5, average="micro", ignore_index=255)(*pair)
    assert found["Acc"] == pytest.approx(accuracy.item(), abs=1e-6)
    weighted = MulticlassJaccardIndex(num_classes=5, average="weighted", ignore_index=255)(*pair)
    assert found["fwIoU"] == pytest.approx(weighted.item(), abs=1e-6)


def test_counts_of_processes_add_up():
    rng = np.random.default_rng(1)
    maps = rng.integers(0, 3, (4, 2, 9, 9)).astype(np.uint8)
    whole, halves = ConfusionMatrix(3), [ConfusionMatrix(3), ConfusionMatrix(3)]
    for index, pair in enumerate(maps):
        whole.add(*pair)
        halves[index % 2].add(*pair)
    assert np.array_equal(whole.counts, halves[0].counts + halves[1].counts)
    assert whole.counts.dtype == np.int64


def test_refusals():
    with pytest.raises(ValueError, match="label 7"):
        scores([[7]], [[0]])
    with pytest.raises(ValueError, match="label 3"):
        scores([[0]], [[3]])
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        scores([[0]], [[0, 0]])
    assert scores([[7]], [[255]])["Acc"] == 0  # nothing is said of ignored pixels


def test_average_precision():
    assert average_precision(np.array([0.9, 0.8, 0.7]), np.array([True, False, True])) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision(np.zeros(4), np.array([True, False, False, False])) == pytest.approx(0.25)
    assert np.isnan(average_precision(np.zeros(2), np.array([False, False])))
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(0)
    marks, truth = rng.integers(0, 9, (50, 3)) / 9, rng.random((50, 3)) < 0.3
    assert mean_average_precision(marks, truth) == pytest.approx(average_precision_score(truth, marks, average="macro"))


def test_tables():
    assert markdown_table(["a", "b"], [["x", 1], ["long", 22]]).splitlines() == [
        "| a    |   b |",
        "|------|----:|",
        "| x    |   1 |",
        "| long |  22 |",
    ]
    assert [percent(value) for value in (0.12345, float("nan"), None)] == ["12.35", "–", "–"]
