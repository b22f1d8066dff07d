"""Saliency metrics against PySODMetrics, published values, and by hand in the cases where the reference breaks."""

import numpy as np
import pytest

from image_files import image_stems, load_grey, load_mask
from metrics.saliency import SaliencyMetrics

REFERENCE_3_PAIRS = {
    "MAE": 0.03705558476661653,
    "S": 0.9029761578759272,
    "adpF": 0.5816750824038355,
    "meanF": 0.577051059518767,
    "maxF": 0.5886784581120638,
}


def ours(pairs) -> dict:
    metrics = SaliencyMetrics()
    for prediction, truth in pairs:
        metrics.add(prediction, truth)
    return metrics.scores()


def reference(pairs) -> dict:
    sod = pytest.importorskip("py_sod_metrics")
    mae, f, s = sod.MAE(), sod.Fmeasure(), sod.Smeasure()
    for prediction, truth in pairs:
        for metric in (mae, f, s):
            metric.step(prediction, truth.astype(np.uint8) * 255)
    f_scores = f.get_results()["fm"]
    return {
        "MAE": mae.get_results()["mae"],
        "maxF": f_scores["curve"].max(),
        "meanF": f_scores["curve"].mean(),
        "adpF": f_scores["adp"],
        "S": s.get_results()["sm"],
    }


def random_pair(rng, kind: str):
    height, width = rng.integers(12, 60, 2)
    y, x = np.mgrid[:height, :width]
    truth = (y - height * rng.uniform(0.3, 0.7)) ** 2 + (x - width * rng.uniform(0.3, 0.7)) ** 2 < rng.uniform(
        2, 9
    ) ** 2
    noise = rng.integers(0, 256, (height, width))
    prediction = {
        "noise": noise,
        "close": np.clip(truth * 200 + noise * 0.2, 0, 255),
        "binary": truth * 255,
        "inverse": 255 - truth * 255,
        "narrow": 100 + noise % 7,
        "constant": np.full((height, width), rng.integers(0, 256)),
        "zero": np.zeros((height, width)),
    }[kind]
    return prediction.astype(np.uint8), truth


@pytest.mark.parametrize("kind", ["noise", "close", "binary", "inverse", "narrow", "constant", "zero"])
def test_equal_to_the_reference(kind):
    rng = np.random.default_rng(0)
    for _ in range(15):
        pair = random_pair(rng, kind)
        expected, found = reference([pair]), ours([pair])
        assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("fill", [False, True])
def test_empty_and_full_truth(fill):
    rng = np.random.default_rng(1)
    pair = (rng.integers(0, 256, (20, 30)).astype(np.uint8), np.full((20, 30), fill))
    expected, found = reference([pair]), ours([pair])
    assert found == pytest.approx(expected, abs=1e-9)


def test_mean_over_images_equals_the_reference():
    rng = np.random.default_rng(2)
    pairs = [random_pair(rng, kind) for kind in ("noise", "close", "binary", "narrow")]
    assert ours(pairs) == pytest.approx(reference(pairs), abs=1e-9)


def test_object_in_the_last_corner_is_defined():
    """The reference gives NaN there: its lower right quadrant is empty."""
    truth = np.zeros((8, 8), bool)
    truth[7, 7] = True
    score = ours([(truth.astype(np.uint8) * 255, truth)])["S"]
    assert np.isfinite(score)
    assert score > 0.95


def test_single_pixel():
    for truth in (True, False):
        for level in (0, 255):
            assert all(np.isfinite(list(ours([(np.full((1, 1), level, np.uint8), np.full((1, 1), truth))]).values())))


def test_shares_add_up():
    rng = np.random.default_rng(3)
    pairs = [random_pair(rng, "close") for _ in range(5)]
    parts = [SaliencyMetrics(), SaliencyMetrics()]
    for index, pair in enumerate(pairs):
        parts[index % 2].add(*pair)
    joined = SaliencyMetrics.from_state(parts[0].state + parts[1].state)
    assert joined.scores() == pytest.approx(ours(pairs), abs=1e-12)


def test_refusals():
    with pytest.raises(ValueError, match=r"\[2, 2\]"):
        SaliencyMetrics().add(np.zeros((2, 2), np.uint8), np.zeros((3, 2), bool))
    with pytest.raises(ValueError, match="float64"):
        SaliencyMetrics().add(np.zeros((2, 2)), np.zeros((2, 2), bool))
    with pytest.raises(ValueError, match="no image"):
        SaliencyMetrics().scores()


def test_published_values(real_data):
    folder = real_data / "sod_metric_pairs"
    folders = sorted(path for path in folder.rglob("*") if path.is_dir() and any(path.glob("*.png")))
    maps, masks = sorted(folders, key=lambda path: "mask" in path.name.lower() or "gt" in path.name.lower())
    predictions, truths = image_stems(maps), image_stems(masks)
    assert predictions.keys() == truths.keys()
    pairs = [(load_grey(predictions[stem]), load_mask(truths[stem])) for stem in predictions]
    assert len(pairs) == 3
    found = ours(pairs)
    assert {name: found[name] for name in REFERENCE_3_PAIRS} == pytest.approx(REFERENCE_3_PAIRS, abs=1e-12)
