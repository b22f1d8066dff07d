"""The evidence selector on drawn arrays, against slow versions of its formulas."""

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import label as number_regions
from scipy.optimize import minimize
from scipy.special import log_softmax

from formats.errors import InputError
from models.backbones import load_feature_network
from pseudo_labels import evidence
from pseudo_labels.evidence import (
    Evidence,
    EvidenceSelector,
    draw_agreed,
    fit_classifier,
    learn_evidence,
    load_evidence,
    measure_trust,
    pixel_features,
    save_evidence,
    settle,
)

CLASSES = np.array([3, 8])


def disc(radius: int, centre=(32, 40), shape=(64, 80)) -> np.ndarray:
    y, x = np.indices(shape)
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def random_case(seed: int, share_255: float = 0.1):
    """Label with blobs of two classes and with 255, mask of blobs, features of the label's size, and evidence."""
    rng = np.random.default_rng(seed)
    smooth = cv2.GaussianBlur(rng.normal(size=(24, 30, 3)), (0, 0), 2)
    label = np.where(smooth[..., 0] > 0, np.where(smooth[..., 1] > 0, 3, 8), 0).astype(np.uint8)
    label[rng.random(label.shape) < share_255] = 255
    features = rng.normal(0, 3, (4, *label.shape)).astype(np.float32)
    weights, bias = rng.normal(size=(10, 4)).astype(np.float32), rng.normal(size=10).astype(np.float32)
    return label, smooth[..., 0] + smooth[..., 2] / 2 > 0, features, Evidence(weights, bias, np.float32(0.7))


def test_features_are_two_maps_of_norm_1_at_stride_8(networks):
    backbone = load_feature_network(f"{networks}/classification.pth", "imagenet", "cpu")
    image = np.random.default_rng(0).integers(0, 256, (50, 65, 3)).astype(np.uint8)
    features = pixel_features(backbone, image, "cpu")
    fine = backbone.channels[1]
    assert features.dtype == np.float32
    assert features.shape == (fine + backbone.channels[2], 7, 9)
    assert np.linalg.norm(features[:fine], axis=0) == pytest.approx(np.ones((7, 9)), rel=1e-4)
    assert np.linalg.norm(features[fine:], axis=0).max() <= 1 + 1e-4  # interpolated


# ---- pixels to learn from


@pytest.mark.parametrize("seed", range(3))
def test_only_agreed_pixels_are_drawn(seed):
    label, mask, *_ = random_case(seed)
    places = np.arange(1, label.size + 1, dtype=np.float32).reshape(1, *label.shape)
    drawn, labels = draw_agreed(places, label, mask, CLASSES, np.random.default_rng(seed))
    before, masked = label.flat[drawn[:, 0].astype(int) - 1], mask.flat[drawn[:, 0].astype(int) - 1]
    assert np.array_equal(labels, before)
    assert np.array_equal(labels > 0, masked)
    assert set(labels) == {0, 3, 8}
    assert np.bincount(labels).max() <= evidence.PIXELS
    assert drawn.dtype == np.float32 and labels.dtype == np.uint8


def test_each_class_has_as_many_pixels_as_the_background():
    label = 3 * disc(20).astype(np.uint8)
    _, labels = draw_agreed(np.zeros((1, 32, 40)), label, disc(22), np.array([3]), np.random.default_rng(0))
    assert np.bincount(labels).tolist() == [evidence.PIXELS, 0, 0, evidence.PIXELS]
    _, labels = draw_agreed(np.zeros((1, 8, 10)), label, disc(2, (0, 0)), np.array([3]), np.random.default_rng(0))
    assert set(labels) == {0}  # nothing is agreed for the class


@pytest.mark.parametrize(("classes", "drawn"), [([3], {0, 3}), ([3, 8], {0, 8})])
def test_of_several_classes_one_that_the_mask_hardly_covers_is_left_out(classes, drawn):
    label = np.zeros((40, 40), np.uint8)
    label[:20], label[25:35] = 3, classes[-1]
    mask = np.zeros((40, 40), bool)
    mask[12:36] = True
    _, labels = draw_agreed(np.zeros((1, 40, 40)), label, mask, np.array(classes), np.random.default_rng(0))
    assert set(labels) == drawn


# ---- classifier


def drawn_pixels(num: int = 90, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping clouds of background and classes 1 and 2, of unequal size; class 3 does not occur."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, num, p=(0.6, 0.3, 0.1))
    return (rng.normal(size=(num, 3)) + np.eye(3)[labels] * (2, 1, 3)).astype(np.float32), labels


def test_classifier_agrees_with_scipy():
    features, labels = drawn_pixels()
    inputs, counts = (features - features.mean(0)) / features.std(0), np.bincount(labels)

    def loss(flat: np.ndarray) -> float:
        weights, bias = flat[:9].reshape(3, 3), flat[9:]
        logits = inputs @ weights.T + bias + np.log(counts / len(labels))
        picked = log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
        return -picked.mean() + evidence.WEIGHT_DECAY / 2 * (weights**2).sum()

    best = minimize(loss, np.zeros(12), method="BFGS").x
    logits = inputs @ best[:9].reshape(3, 3).T + best[9:]
    expected = (logits[:, 1:] - logits[:, :1]) * np.minimum(1, counts / evidence.FEW_PIXELS)[1:]
    weights, bias = fit_classifier(features, labels, 2)
    assert weights.dtype == bias.dtype == np.float32
    assert features @ weights.T + bias == pytest.approx(expected, abs=2e-3)


def test_classifier_ignores_the_scale_of_features_and_unseen_classes():
    features, labels = drawn_pixels()
    weights, bias = fit_classifier(features, labels, 3)
    assert not weights[2].any() and bias[2] == 0
    scale, shift = np.array([100, 1, 0.01], np.float32), np.array([5, 0, 1], np.float32)
    scaled = features * scale + shift
    other_weights, other_bias = fit_classifier(scaled, labels, 3)
    assert scaled @ other_weights.T + other_bias == pytest.approx(features @ weights.T + bias, abs=2e-3)


def test_constant_features_and_a_single_class_give_finite_logits():
    for labels in (np.zeros(5, int), np.full(5, 2)):
        weights, bias = fit_classifier(np.ones((5, 2), np.float32), labels, 3)
        assert np.isfinite(weights).all() and np.isfinite(bias).all()


# ---- trust


def test_trust_follows_the_best_overlaps():
    assert measure_trust(np.array([0.1, 0.2, 0.65, 0.9, 0])) == pytest.approx(10 * (0.7125 - 0.65))
    trusts = [measure_trust(np.full(4, overlap)) for overlap in (0.2, 0.6, 0.9)]
    assert trusts == sorted(trusts) and trusts[1] < 0 < trusts[2]
    assert measure_trust(np.zeros(3)) == measure_trust(np.zeros(0)) > trusts[2]  # no mask: labels stay


# ---- decisions


def settle_slowly(label, mask, features, classes, learnt) -> np.ndarray:
    """The formula of `settle`, pixel by pixel; features of the size of the label."""
    is_object, settled = ~np.isin(label, (0, 255)), np.zeros_like(label)
    logits = {c: sum(w * f for w, f in zip(learnt.weights[c - 1], features)) + learnt.bias[c - 1] for c in classes}
    regions = {kind: number_regions((is_object != mask) & (mask == kind), np.ones((3, 3)))[0] for kind in (True, False)}
    for place in np.ndindex(label.shape):
        if is_object[place] == mask[place]:
            settled[place] = label[place] if mask[place] else 0
            continue
        numbers = regions[bool(mask[place])]
        region = numbers == numbers[place]
        scores = {c: (z[place] + z[region].mean()) / 2 for c, z in logits.items()}
        chosen = label[place] if is_object[place] else max(scores, key=scores.get)
        bonus = -learnt.trust / 2 if mask[place] else learnt.trust
        if scores[chosen] + (evidence.MASK_TRUST if label[place] == 255 else bonus) > 0:
            settled[place] = chosen
    return settled


@pytest.mark.parametrize("classes", [CLASSES, CLASSES[:1]])
@pytest.mark.parametrize("trust", [-0.5, 0.0, 0.8])
def test_disputes_are_settled_by_the_formula(classes, trust):
    label, mask, features, learnt = random_case(seed=len(classes))
    if len(classes) == 1:
        label[label == 8] = 0
    given, learnt = label.copy(), learnt._replace(trust=np.float32(trust))
    settled = settle(label, mask, features, classes, learnt)
    assert settled.dtype == np.uint8
    assert np.array_equal(settled, settle_slowly(label, mask, features, classes, learnt))
    assert np.array_equal(label, given)
    agreed = (label == 0) & ~mask | np.isin(label, CLASSES) & mask
    assert np.array_equal(settled[agreed], label[agreed])
    disputed = settled[~agreed & (label != 255)] != label[~agreed & (label != 255)]
    assert 0 < disputed.mean() < 1


def test_images_without_dispute_are_unchanged():
    label, _, features, learnt = random_case(seed=0, share_255=0)
    assert np.array_equal(settle(label, label > 0, features, CLASSES, learnt), label)


@pytest.mark.parametrize(
    ("label", "mask"), [(disc(22), disc(10)), (disc(10), disc(22)), (disc(16, (36, 46)), disc(12))]
)
def test_features_that_see_the_object_find_it(label, mask):
    """Objects and their surroundings differ in noisy features of stride 2."""
    truth, rng = disc(16), np.random.default_rng(0)
    seen = np.stack([truth, ~truth]) + rng.normal(0, 0.1, (2, *truth.shape))
    features = np.stack([cv2.resize(maps.astype(np.float32), (40, 32), interpolation=cv2.INTER_AREA) for maps in seen])
    wrong = 3 * label.astype(np.uint8)
    drawn = [draw_agreed(features, wrong, mask, CLASSES[:1], rng) for _ in range(20)]
    learnt = Evidence(*fit_classifier(*map(np.concatenate, zip(*drawn)), 3), np.float32(0))
    settled = settle(wrong, mask, features, CLASSES[:1], learnt) > 0
    assert max((region == truth)[label != mask].mean() for region in (label, mask)) < 0.7
    assert (settled == truth)[label != mask].mean() > 0.75


def test_classes_of_other_images_count_as_255():
    label, mask, features, learnt = random_case(seed=1)
    foreign = np.where(label == 255, 9, label)
    assert np.array_equal(
        settle(foreign, mask, features, CLASSES, learnt), settle(label, mask, features, CLASSES, learnt)
    )
    drawn = [draw_agreed(features, one, mask, CLASSES, np.random.default_rng(0)) for one in (label, foreign)]
    assert all(np.array_equal(*pair) for pair in zip(*drawn))


# ---- the whole


def test_labels_and_masks_that_agree_nowhere():
    with pytest.raises(InputError, match="agree nowhere"):
        learn_evidence([(np.zeros((0, 2), np.float32), np.zeros(0, np.uint8))], [0.0], 3)


def test_the_sample_and_what_is_learnt_do_not_depend_on_the_order(monkeypatch):
    monkeypatch.setattr(evidence, "NUM_IMAGES", 5)
    ids = [f"image{index}" for index in range(12)]

    def build(ids):
        return EvidenceSelector(None, torch.device("cpu"), ids, [], np.ones((len(ids), 2), bool), None, [])

    sample = build(ids).sample(range(12))
    assert len(sample) == 5 and sample == sorted(sample)
    assert {ids[index] for index in sample} == {ids[::-1][index] for index in build(ids[::-1]).sample(range(12))}
    drawn = [(index, drawn_pixels(30, seed=index), 0.1 * index) for index in range(5)]
    one, other = build(ids).learn(drawn), build(ids).learn(drawn[::-1])
    assert all(np.array_equal(*pair) for pair in zip(one, other))
    assert one.trust == pytest.approx(measure_trust(np.arange(1, 5) / 10))


def test_files_of_evidence(tmp_path):
    learnt = random_case(seed=0)[-1]
    save_evidence(tmp_path / "evidence.npz", learnt)
    loaded = load_evidence(tmp_path / "evidence.npz")
    assert all(np.array_equal(one, other) and one.dtype == other.dtype for one, other in zip(learnt, loaded))
    np.savez(tmp_path / "cams.npz", cams=np.zeros((1, 2, 2)), classes=np.ones(1))
    with pytest.raises(InputError, match=r"cams\.npz is not a file of --selector evidence"):
        load_evidence(tmp_path / "cams.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "evidence.npz").read_bytes()[:100])
    with pytest.raises(InputError, match=r"cut\.npz cannot be read"):
        load_evidence(tmp_path / "cut.npz")
