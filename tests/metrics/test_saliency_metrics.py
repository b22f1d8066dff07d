"""Saliency metrics compared with PySODMetrics, with published values and with results worked out by hand."""

import warnings

import numpy as np
import pytest

from formats.images import image_stems, load_grey, load_mask
from formats.labels import load_label
from metrics.saliency import mean_curves, measure_map, score_states

REFERENCE_3_PAIRS = {
    "MAE": 0.03705558476661653,
    "S": 0.9029761578759272,
    "wF": 0.5579812753638986,
    "adpE": 0.9408760066970617,
    "meanE": 0.9566258293508704,
    "maxE": 0.9669544828922699,
    "adpF": 0.5816750824038355,
    "meanF": 0.577051059518767,
    "maxF": 0.5886784581120638,
    "meanIoU": 0.49816648786971,
    "maxIoU": 0.5201569938888494,
    "meanDice": 0.5689913551800527,
    "maxDice": 0.5830613926289557,
}
OVERLAP = {
    "IoU": "IOUHandler",
    "Dice": "DICEHandler",
    "Specificity": "SpecificityHandler",
    "Accuracy": "OverallAccuracyHandler",
    "BER": "BERHandler",
}


def ours(pairs, strict_reference: bool = False) -> dict:
    states = [measure_map(*pair, strict_reference=strict_reference) for pair in pairs]
    return score_states(sum(states), strict_reference)


def reference(pairs) -> tuple[dict, dict]:
    """Scores and curves of PySODMetrics with the names of this project."""
    sod = pytest.importorskip("py_sod_metrics")
    handlers = {name: getattr(sod, handler)(with_dynamic=True, with_adaptive=True) for name, handler in OVERLAP.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of divisions by 0 and deprecations
        mae, f, s, e, w = sod.MAE(), sod.Fmeasure(), sod.Smeasure(), sod.Emeasure(), sod.WeightedFmeasure()
        overlap = sod.FmeasureV2(handlers)
        for prediction, truth in pairs:
            for metric in (mae, f, s, e, w, overlap):
                metric.step(prediction, truth.astype(np.uint8) * 255)
    fm, pr, em = f.get_results()["fm"], f.get_results()["pr"], e.get_results()["em"]
    adaptive = {"F": fm["adp"], "E": em["adp"]}
    curves = {"F": fm["curve"], "E": em["curve"]}
    for name, result in overlap.get_results().items():
        adaptive[name], curves[name] = result["adaptive"], result["dynamic"]
    scores = {"MAE": mae.get_results()["mae"], "S": s.get_results()["sm"], "wF": w.get_results()["wfm"]}
    for name, curve in curves.items():
        best = ("minBER", curve.min()) if name == "BER" else (f"max{name}", curve.max())
        scores |= dict([best, (f"mean{name}", curve.mean()), (f"adp{name}", adaptive[name])])
    scores["mean_of_maxF"] = np.mean([curve.max() for curve in f.changeable_fms])
    return scores, curves | {"precision": pr["p"], "recall": pr["r"]}


def assert_equal(found: dict, expected: dict, tolerance: float = 1e-9) -> None:
    """Compare all scores of the reference; relative tolerance above 1."""
    for name, value in expected.items():
        atol = 1e-6 if name == "wF" else tolerance
        np.testing.assert_allclose(found[name], value, rtol=1e-9, atol=atol, equal_nan=True, err_msg=name)


def random_pair(rng) -> tuple[np.ndarray, np.ndarray]:
    """A pair of random kind and size, 1×1 to 60×60 px; many are degenerate."""
    height, width = (1 if rng.random() < 0.1 else rng.integers(1, rng.choice([6, 60])) for _ in range(2))
    y, x = np.mgrid[:height, :width]
    truth = {
        "disc": lambda: (y - rng.uniform(0, height)) ** 2 + (x - rng.uniform(0, width)) ** 2 < rng.uniform(1, 20) ** 2,
        "noise": lambda: rng.random((height, width)) < rng.choice([0.01, 0.1, 0.5, 0.9]),
        "last row": lambda: y == height - 1,
        "pixel": lambda: (y == rng.integers(height)) & (x == rng.integers(width)),
        "empty": lambda: y < 0,
        "full": lambda: y >= 0,
    }[rng.choice(["disc", "disc", "noise", "noise", "last row", "pixel", "empty", "full"])]()
    noise = rng.integers(0, 256, (height, width))
    prediction = {
        "noise": lambda: noise,
        "close": lambda: np.clip(truth * 200 + noise * 0.2, 0, 255),
        "binary": lambda: truth * 255,
        "narrow": lambda: 100 + noise % 7,
        "few levels": lambda: rng.choice([0, 60, 85, 170, 255], (height, width)),
        "constant": lambda: np.full((height, width), rng.integers(0, 256)),
        "nearly constant": lambda: np.where((noise == 7) | ((y == 0) & (x == 0)), 90, 91),
    }[rng.choice(["noise", "close", "close", "binary", "narrow", "few levels", "constant", "nearly constant"])]()
    prediction = prediction.astype(np.uint8)
    return (255 - prediction if rng.random() < 0.3 else prediction), truth


def compare_random_pairs(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for _ in range(count):
        pair = random_pair(rng)
        expected, _ = reference([pair])
        assert_equal(ours([pair], strict_reference=True), expected)
        found = ours([pair])
        assert all(0 <= score <= 1 for score in found.values())
        assert_equal(found, {name: value for name, value in expected.items() if value <= 1})  # NaN is not


def test_equal_to_the_reference():
    compare_random_pairs(300, seed=0)


@pytest.mark.slow
def test_equal_to_the_reference_on_thousands():
    compare_random_pairs(5000, seed=1)


def test_sets_and_curves_equal_the_reference():
    rng = np.random.default_rng(2)
    pairs = [pair for pair in (random_pair(rng) for _ in range(40)) if pair[1].size > 1]
    expected, expected_curves = reference(pairs)
    state = sum(measure_map(*pair, strict_reference=True) for pair in pairs)
    assert_equal(score_states(state, strict_reference=True), expected)
    curves = mean_curves(state, strict_reference=True)
    assert curves.keys() == expected_curves.keys()
    for name, curve in expected_curves.items():
        np.testing.assert_allclose(curves[name], curve, atol=1e-12, err_msg=name)
    precision, recall = expected_curves["precision"], expected_curves["recall"]
    f = 1.3 * precision * recall / np.maximum(0.3 * precision + recall, 1e-300)
    assert score_states(state)["maxF_of_mean_PR"] == pytest.approx(f.max(), abs=1e-12)


def pairs_in(maps, masks) -> list:
    predictions, truths = image_stems(maps), image_stems(masks)
    assert predictions.keys() == truths.keys()
    return [(load_grey(predictions[stem]), load_mask(truths[stem])) for stem in predictions]


def test_published_values(real_data):
    folder = real_data / "sod_metric_pairs"
    pairs = pairs_in(folder / "preds", folder / "masks")
    assert len(pairs) == 3
    assert_equal(ours(pairs), REFERENCE_3_PAIRS, tolerance=1e-12)


def test_real_maps_equal_the_reference(real_data):
    pairs = pairs_in(real_data / "saliency_maps/CSNet/ECSSD", real_data / "sod/benchmark/ECSSD/Masks")
    assert_equal(ours(pairs), reference(pairs)[0], tolerance=1e-12)


@pytest.mark.slow
def test_maps_of_every_photograph_equal_the_reference(real_data):
    """Each map on its own; the truth is the foreground of the VOC masks."""
    masks = real_data / "voc12-photos/data/voc12/VOCdevkit/VOC2012/SegmentationClass"
    for path in sorted((real_data / "saliency_maps/CSNet/VOC2012").iterdir()):
        label = load_label(masks / f"{path.stem}.png")
        pair = [(load_grey(path), (label > 0) & (label < 255))]
        assert_equal(ours(pair), reference(pair)[0], tolerance=1e-12)


def test_by_hand():
    """Levels 0, 51, 153, 255 are values 0, .2, .6, 1; their mean is .45, the adaptive threshold .9."""
    found = ours([(np.array([[0, 51], [153, 255]], np.uint8), np.array([[False, False], [True, True]]))])
    assert found["MAE"] == pytest.approx((0 + 0.2 + 0.4 + 0) / 4)
    assert found["adpF"] == pytest.approx(1.3 * 1 * 0.5 / (0.3 * 1 + 0.5))
    assert found["maxF"] == found["mean_of_maxF"] == found["maxIoU"] == found["maxDice"] == 1
    assert found["adpIoU"] == 0.5
    assert found["adpDice"] == pytest.approx(2 / 3)
    assert found["adpSpecificity"] == 1
    assert found["adpAccuracy"] == 0.75
    assert found["adpBER"] == 0.25
    # pixels by threshold: 255 … 154: 1; 153 … 52: 2, both right; 51 … 1: 3; 0: all
    assert found["meanIoU"] == pytest.approx((102 * 1 / 2 + 102 * 1 + 51 * 2 / 3 + 1 / 2) / 256)
    assert found["boundary_IoU"] == 1


def test_three_definitions_of_max_f():
    """Two images with an object of one of four pixels; the best thresholds are above 199 and 99."""
    truth = np.array([[True, False, False, False]])
    pairs = [(np.array([row], np.uint8), truth) for row in ([255, 199, 0, 0], [100, 99, 0, 255])]
    scores, half = ours(pairs), 1.3 * 0.5 / (0.3 * 0.5 + 1)
    assert scores["mean_of_maxF"] == pytest.approx((1 + half) / 2)
    assert scores["maxF"] == pytest.approx(max(1 / 2, (half + half) / 2))
    precision, recall = 0.5, 1
    assert scores["maxF_of_mean_PR"] == pytest.approx(1.3 * precision * recall / (0.3 * precision + recall))


def test_object_in_the_last_corner_is_defined():
    """The reference gives NaN there: its lower right quadrant is empty."""
    truth = np.zeros((8, 8), bool)
    truth[7, 7] = True
    perfect = (truth.astype(np.uint8) * 255, truth)
    assert 0.95 < ours([perfect])["S"] <= 1
    assert np.isnan(ours([perfect], strict_reference=True)["S"])
    assert np.isnan(reference([perfect])[0]["S"])


def test_perfect_map():
    truth = np.zeros((8, 10), bool)
    truth[2:5, 3:7] = True
    perfect = (truth.astype(np.uint8) * 255, truth)
    scores = ours([perfect])
    assert scores.pop("MAE") == scores["minBER"] == scores["adpBER"] == 0
    assert scores["wF"] == pytest.approx(1, abs=1e-6)
    for name in ("maxF", "adpF", "S", "maxE", "adpE", "adpIoU", "adpDice", "boundary_IoU"):
        assert scores[name] == pytest.approx(1, abs=1e-12)
    assert ours([perfect], strict_reference=True)["maxE"] == pytest.approx(80 / 79)
    assert mean_curves(measure_map(*perfect))["E"].max() == 1
    assert mean_curves(measure_map(*perfect), strict_reference=True)["E"].max() == pytest.approx(80 / 79)


def test_only_reported_means_are_clipped_at_one():
    """A mean of at most 1 equals the reference even if one image is above 1."""
    truth = np.zeros((2, 2), bool)
    truth[0, 0] = True
    pairs = [(truth.astype(np.uint8) * 255, truth), (255 - truth.astype(np.uint8) * 255, truth)]
    found = ours(pairs)["adpE"]
    assert found == pytest.approx(4 / 3 / 2, abs=1e-12)
    assert found == pytest.approx(reference(pairs)[0]["adpE"], abs=1e-12)


def test_single_pixel():
    for truth in (True, False):
        for level in (0, 255):
            found = ours([(np.full((1, 1), level, np.uint8), np.full((1, 1), truth))])
            assert all(0 <= score <= 1 for score in found.values())
            right = truth == (level == 255)
            assert found["S"] == (1 if right else 0)
            assert found["MAE"] == (0 if right else 1)
            assert found["maxE"] == (1 if truth or right else 0)  # the threshold 0 selects all pixels


def test_empty_and_full_truth():
    half = np.zeros((4, 6), np.uint8)
    half[:, :3] = 255
    empty, full = (ours([(half, np.full((4, 6), fill))]) for fill in (False, True))
    for name in ("maxF", "adpF", "wF", "maxIoU", "maxDice", "boundary_IoU"):
        assert empty[name] == 0
    assert (empty["S"], empty["adpSpecificity"], empty["adpBER"]) == (0.5, 0.5, 0.75)
    assert empty["adpE"] == pytest.approx(12 / 23)
    assert (full["S"], full["adpSpecificity"], full["maxIoU"]) == (0.5, 0, 1)
    assert full["adpE"] == pytest.approx(12 / 23)


def test_boundary_iou():
    """In 30×40 px the band is 1 px wide: 36 of the 100 pixels of a 10×10 square."""
    truth = np.zeros((30, 40), bool)
    truth[5:15, 5:15] = True
    moved = np.roll(truth, 1, axis=1)

    def score(mask, truth):
        return ours([(mask.astype(np.uint8) * 200, truth)])["boundary_IoU"]

    assert score(truth, truth) == 1
    assert score(moved, truth) == pytest.approx(18 / (36 + 36 - 18))
    assert score(np.roll(truth, 12, axis=1), truth) == 0
    empty = np.zeros((30, 40), bool)
    assert score(empty, empty) == 1
    assert score(empty, truth) == score(truth, empty) == 0
    assert score(~empty, ~empty) == 1


def test_views_are_measured_like_copies():
    rng = np.random.default_rng(5)
    levels, truth = rng.integers(0, 256, (60, 90), np.uint8), rng.random((60, 90)) < 0.3
    views = levels[5:40:2, 3:80], truth[5:40:2, 3:80]
    expected = measure_map(*(np.ascontiguousarray(view) for view in views))
    np.testing.assert_allclose(measure_map(*views), expected, rtol=0, atol=1e-12)


def test_several_states_at_once():
    """Weighted sums of states, as in a bootstrap."""
    rng = np.random.default_rng(6)
    states = np.stack([measure_map(*random_pair(rng)) for _ in range(5)])
    counts = np.array([[1, 1, 1, 1, 1], [0, 3, 0, 1, 1]])
    scores, curves = score_states(counts @ states), mean_curves(counts @ states)
    for place, row in enumerate(counts):
        single = score_states(row @ states)
        assert {name: score[place] for name, score in scores.items()} == pytest.approx(single, abs=1e-12)
        np.testing.assert_allclose(curves["E"][place], mean_curves(row @ states)["E"], atol=1e-12)


def test_without_weighted_f():
    rng = np.random.default_rng(7)
    pairs = [random_pair(rng) for _ in range(4)]
    with_it, without = ours(pairs), score_states(sum(measure_map(*pair, weighted_f=False) for pair in pairs))
    assert np.isnan(without.pop("wF"))
    assert without == {name: with_it[name] for name in without}


def test_refusals():
    with pytest.raises(ValueError, match=r"\[2, 2\].*\[3, 2\]"):
        measure_map(np.zeros((2, 2), np.uint8), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="float64"):
        measure_map(np.zeros((2, 2)), np.zeros((2, 2), bool))
