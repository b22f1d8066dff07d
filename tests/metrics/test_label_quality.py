"""Boundary IoU compared with SciPy and with results worked out by hand; states of label quality."""

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, distance_transform_cdt

from metrics.label_quality import measure_label, score_images, score_states, sum_states
from metrics.segmentation import boundary_band, count_boundaries, mean_boundary_iou


def random_labels(rng, height: int, width: int, num_labels: int, ignored: float = 0.1, block: int = 4) -> np.ndarray:
    """Blocks of random labels with some pixels of 255."""
    blocks = rng.integers(0, num_labels, (height // block + 1, width // block + 1)).astype(np.uint8)
    label = blocks.repeat(block, axis=0).repeat(block, axis=1)[:height, :width]
    return np.where(rng.random(label.shape) < ignored, 255, label).astype(np.uint8)


def counts_by_label(prediction, truth, num_labels: int) -> tuple[list[int], list[int]]:
    """Intersections and unions of boundary bands by erosion of each label."""
    prediction = np.where(truth == 255, 255, prediction)
    distance_px = max(1, round(0.02 * float(np.hypot(*truth.shape))))
    square = np.ones((2 * distance_px + 1, 2 * distance_px + 1), bool)
    areas = [[labels == label for labels in (prediction, truth)] for label in range(num_labels)]
    pairs = [[area & ~binary_erosion(area, square) for area in pair] for pair in areas]
    return [int((a & b).sum()) for a, b in pairs], [int((a | b).sum()) for a, b in pairs]


@pytest.mark.parametrize("block", [1, 9, 60])
@pytest.mark.parametrize("size", [(1, 1), (1, 70), (90, 3), (150, 201)])
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


def scores_of(pairs, num_labels: int) -> dict[str, np.ndarray]:
    return score_states(sum_states([measure_label(*pair, num_labels) for pair in pairs], num_labels), num_labels)


def test_precision_and_recall_by_hand():
    pair = np.array([[0, 1, 1, 1, 255]], np.uint8), np.array([[0, 0, 1, 255, 1]], np.uint8)
    scores = scores_of([pair], 3)
    assert scores["precision"][:2].tolist() == [1, 0.5]
    assert scores["recall"][:2].tolist() == [0.5, 0.5]
    assert np.isnan([scores[key][2] for key in ("precision", "recall", "IoU")]).all()
    assert scores["mIoU"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert scores["mIoU_dropped"] == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert scores["coverage"] == 3 / 4


def test_scores_of_several_states():
    rng = np.random.default_rng(0)
    images = [measure_label(random_labels(rng, 30, 20, 5), random_labels(rng, 30, 20, 4), 5) for _ in range(3)]
    states = np.stack([sum_states(some, 5) for some in ([], *([image] for image in images))])
    assert states.dtype == np.int64
    assert states[:, 0].tolist() == [0, 1, 1, 1]
    assert np.array_equal(states.sum(axis=0), sum_states(images, 5))
    many = score_states(states, 5)
    for index, state in enumerate(states):
        for key, value in score_states(state, 5).items():
            assert np.array_equal(many[key][index], value, equal_nan=True), key
    assert all(np.isnan(value).all() for value in score_states(np.full(41, np.nan), 5).values())


def test_mean_iou_of_one_image_is_over_the_labels_in_truth_or_prediction():
    truth, prediction = np.array([[0, 0, 3, 3]], np.uint8), np.array([[0, 0, 3, 7]], np.uint8)
    assert scores_of([(prediction, truth)], 21)["mIoU"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_a_class_that_a_resample_lacks_is_not_left_out():
    """A class of one image that is never found: the mean over two classes is 0.5 in every resample."""
    plain, cat = np.zeros((10, 10), np.uint8), np.ones((10, 10), np.uint8)
    measured = {index: measure_label(plain, plain, 2) for index in range(9)}
    measured[9] = measure_label(np.full_like(cat, 255), cat, 2)
    scores, sampled = score_images(measured, {}, ("background", "cat"), None, num_replicates=300)
    assert scores["mIoU"] == 0.5
    assert sampled.replicates["mIoU"] == pytest.approx(0.5, abs=1e-6)
