"""Boundary IoU compared with loops over pixels and with results worked out by hand; sums of label quality."""

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_cdt
from torchmetrics.classification import MulticlassJaccardIndex, MulticlassPrecision, MulticlassRecall

from metrics.label_quality import LabelQuality, score_states
from metrics.label_tables import label_tables
from metrics.segmentation import boundary_band, count_boundaries, mean_boundary_iou


def random_labels(rng, height: int, width: int, num_labels: int, ignored: float = 0.1, block: int = 4) -> np.ndarray:
    """Blocks of random labels with some pixels of 255."""
    blocks = rng.integers(0, num_labels, (height // block + 1, width // block + 1)).astype(np.uint8)
    label = blocks.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
    return np.where(rng.random(label.shape) < ignored, 255, label).astype(np.uint8)


def near_outline(labels: np.ndarray, label: int, y: int, x: int, distance_px: int) -> bool:
    """Whether a pixel has the label and another label or the image border within `distance_px`."""
    if labels[y, x] != label:
        return False
    for other_y in range(y - distance_px, y + distance_px + 1):
        for other_x in range(x - distance_px, x + distance_px + 1):
            inside = 0 <= other_y < labels.shape[0] and 0 <= other_x < labels.shape[1]
            if not inside or labels[other_y, other_x] != label:
                return True
    return False


def plain_boundary_iou(pairs, num_labels: int) -> float:
    counts = np.zeros((num_labels, 2))
    for prediction, truth in pairs:
        prediction = np.where(truth == 255, 255, prediction)
        distance_px = max(1, round(0.02 * (truth.shape[0] ** 2 + truth.shape[1] ** 2) ** 0.5))
        for y, x in np.argwhere(truth != 255):
            for label in range(num_labels):
                either = [near_outline(labels, label, y, x, distance_px) for labels in (prediction, truth)]
                counts[label] += all(either), any(either)
    return np.mean([both / either for both, either in counts if either])


@pytest.mark.parametrize("size", [(12, 9), (1, 20), (70, 30)])
def test_boundary_iou_equals_loops_over_pixels(size):
    rng = np.random.default_rng(size[0])
    pairs = [(random_labels(rng, *size, 4), random_labels(rng, *size, 3)) for _ in range(3)]
    counts = sum(np.array(count_boundaries(*pair, 4)) for pair in pairs)
    assert mean_boundary_iou(*counts) == pytest.approx(plain_boundary_iou(pairs, 4))


def counts_by_label(prediction, truth, num_labels: int) -> tuple[list[int], list[int]]:
    """Intersections and unions of boundary bands by erosion of each label."""
    prediction = np.where(truth == 255, 255, prediction)
    distance_px = max(1, round(0.02 * float(np.hypot(*truth.shape))))
    square = np.ones((2 * distance_px + 1, 2 * distance_px + 1), bool)
    areas = [[labels == label for labels in (prediction, truth)] for label in range(num_labels)]
    pairs = [[area & ~binary_erosion(area, square) for area in pair] for pair in areas]
    return [int((a & b).sum()) for a, b in pairs], [int((a | b).sum()) for a, b in pairs]


@pytest.mark.parametrize("block", [1, 9, 60])
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (2, 400), (90, 3), (150, 201)])
def test_boundary_iou_equals_erosion_of_each_label(size, block):
    """With windows of 3 to 17 pixels, some larger than the image."""
    rng = np.random.default_rng(block)
    for ignored in (0, 0.0005, 0.05):
        prediction, truth = (random_labels(rng, *size, num_labels, ignored, block) for num_labels in (4, 3))
        views = (prediction.T, truth.T), (prediction[::-1, ::-1], truth[::-1, ::-1])
        for pair in ((prediction, truth), (truth, truth), *views):
            intersections, unions = count_boundaries(*pair, 5)
            assert (intersections.tolist(), unions.tolist()) == counts_by_label(*pair, 5)


def test_predictions_on_an_ignored_outline_do_not_count():
    """As in VOC masks, the truth is 255 between object and background."""
    truth = np.zeros((60, 80), np.uint8)
    truth[15:45, 20:60], truth[20:40, 25:55] = 255, 3
    for filler in (0, 3, 255):
        prediction = np.where(truth == 255, filler, truth).astype(np.uint8)
        assert mean_boundary_iou(*count_boundaries(prediction, truth, 4)) == 1


@pytest.mark.parametrize("distance_px", [1, 2, 5, 30])
def test_bands_equal_the_chessboard_distance(distance_px):
    mask = random_labels(np.random.default_rng(distance_px), 40, 50, 2, ignored=0.01) == 1
    expected = mask & (distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1] <= distance_px)
    assert np.array_equal(boundary_band(mask, distance_px), expected)
    assert np.array_equal(boundary_band(mask[:, ::-1].T, distance_px), expected[:, ::-1].T)


def test_boundary_iou_by_hand():
    """The prediction misses one column of a 4×4 square in 12×12 px; bands are one pixel wide."""
    truth, prediction = np.zeros((2, 12, 12), np.uint8)
    truth[4:8, 4:8] = 1
    prediction[4:8, 4:7] = 1
    intersections, unions = count_boundaries(prediction, truth, 2)
    # object: bands of 12 and 10 pixels, 8 common; background: 44 pixels along the image border, and rings of 20 and 18
    # pixels around the square, 14 common
    assert intersections.tolist() == [44 + 14, 8]
    assert unions.tolist() == [44 + 20 + 18 - 14, 12 + 10 - 8]
    assert mean_boundary_iou(intersections, unions) == pytest.approx((58 / 68 + 8 / 14) / 2)


def test_boundary_iou_and_255():
    truth = np.zeros((12, 12), np.uint8)
    truth[4:8, 4:8] = 1
    everywhere_255 = np.full((12, 12), 255, np.uint8)
    nothing_known = count_boundaries(truth, everywhere_255, 2)
    assert nothing_known[1].tolist() == [0, 0]
    assert np.isnan(mean_boundary_iou(*nothing_known))
    assert mean_boundary_iou(*count_boundaries(everywhere_255, truth, 2)) == 0  # a prediction of 255 is a miss
    assert mean_boundary_iou(*count_boundaries(truth, truth, 2)) == 1


def test_distance_is_a_share_of_the_diagonal():
    truth, prediction = np.zeros((2, 300, 400), np.uint8)
    truth[:, :200], prediction[:, :205] = 1, 1
    intersections, unions = count_boundaries(prediction, truth, 2)
    band = 2 * 10 * 200 + 10 * 280 * 2  # 10 px wide: top and bottom, and both sides of 300 − 20 rows
    assert unions[1] == band + 2 * 10 * 5 + 5 * 280
    assert intersections[1] == band - 5 * 280


def test_precision_and_recall_by_hand():
    quality = LabelQuality(3).add(np.array([[0, 1, 1, 1, 255]], np.uint8), np.array([[0, 0, 1, 255, 1]], np.uint8))
    scores = quality.scores()
    assert scores["precision"][:2].tolist() == [1, 0.5]
    assert scores["recall"][:2].tolist() == [0.5, 0.5]
    assert np.isnan([scores[key][2] for key in ("precision", "recall", "IoU")]).all()
    assert scores["mIoU"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert scores["mIoU_dropped"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert scores["coverage"] == 3 / 4
    assert scores["images"] == 1


def test_equal_to_torchmetrics():
    rng, quality = np.random.default_rng(0), LabelQuality(5)
    pairs = [(random_labels(rng, 30, 40, 5, ignored=0), random_labels(rng, 30, 40, 5)) for _ in range(4)]
    for pair in pairs:
        quality.add(*pair)
    both = [torch.from_numpy(np.stack(part).astype(np.int64)) for part in zip(*pairs)]
    scores = quality.scores()
    for key, metric in (
        ("precision", MulticlassPrecision),
        ("recall", MulticlassRecall),
        ("IoU", MulticlassJaccardIndex),
    ):
        expected = metric(num_classes=5, average="none", ignore_index=255)(*both)
        assert scores[key] == pytest.approx(expected.numpy(), abs=1e-6)
    assert scores["mIoU_dropped"] == scores["mIoU"]
    assert scores["images"] == 4


def test_packed_sums_add_up():
    rng = np.random.default_rng(0)
    pairs = [(random_labels(rng, 20, 20, 6), random_labels(rng, 20, 20, 5)) for _ in range(4)]
    whole, total = LabelQuality(6), LabelQuality(6)
    for pair in pairs:
        whole.add(*pair)
        packed = LabelQuality(6).add(*pair).pack()
        assert len(packed[0]) == len(packed[1]) <= 1 + 5 * 7 + 2 * 6
        assert packed[1].all()
        total.add_packed(packed)
    total.add_packed(LabelQuality(6).pack())  # no image
    assert np.array_equal(total.state, whole.state)
    assert total.state.dtype == np.int64
    for key, value in whole.scores().items():
        assert np.array_equal(total.scores()[key], value, equal_nan=True), key


def test_scores_of_several_states():
    rng = np.random.default_rng(0)
    qualities = [LabelQuality(5).add(random_labels(rng, 30, 20, 5), random_labels(rng, 30, 20, 4)) for _ in range(3)]
    states = np.stack([quality.state for quality in [*qualities, LabelQuality(5)]])
    assert states.shape == (4, 1 + 5 * 6 + 2 * 5)
    assert states[:, 0].tolist() == [1, 1, 1, 0]
    many = score_states(states, 5)
    assert {"Acc", "Acc_class", "mIoU", "fwIoU", "mIoU_dropped", "boundary_IoU", "coverage"} <= set(many)
    for index, quality in enumerate([*qualities, LabelQuality(5)]):
        scores = quality.scores()
        assert set(scores) == {*many, "images"}
        for key, value in many.items():
            assert np.array_equal(value[index], scores[key], equal_nan=True), key
    whole = LabelQuality(5)
    for quality in qualities:
        whole.add_packed(quality.pack())
    assert np.array_equal(whole.state, states.sum(axis=0))
    assert all(np.isnan(value).all() for value in score_states(np.full(41, np.nan), 5).values())


def test_mean_iou_of_one_image_is_over_the_labels_in_truth_or_prediction():
    truth, prediction = np.array([[0, 0, 3, 3]], np.uint8), np.array([[0, 0, 3, 7]], np.uint8)
    assert LabelQuality(21).add(prediction, truth).scores()["mIoU"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_refusals():
    with pytest.raises(ValueError, match=r"prediction is \[2, 2\], truth \[2, 3\]"):
        LabelQuality(3).add(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))
    with pytest.raises(ValueError, match="holds label 3"):
        LabelQuality(3).add(np.full((2, 2), 3, np.uint8), np.zeros((2, 2), np.uint8))


def test_tables_of_one_folder():
    scores = LabelQuality(2).add(np.eye(4, dtype=np.uint8), np.eye(4, dtype=np.uint8)).scores()
    scores = {key: dict(zip("ab", value)) if isinstance(value, np.ndarray) else value for key, value in scores.items()}
    quality, *by_class = label_tables("segmentation", ("a", "b"), {"x/y": scores})
    assert quality.header[:4] == ["segmentation", "which", "images", "Acc"]
    assert quality.rows == [["x/y", "all", 1, *["100.00"] * 7]]
    assert [table.name for table in by_class] == ["IoU_by_class", "precision_by_class", "recall_by_class"]
    assert by_class[0].rows == [["a", "100.00"], ["b", "100.00"]]
