"""Properties of pure functions on random inputs, which are the same in every run."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from datasets.epoch_batches import EpochBatches
from datasets.transforms import change_colours, crop_image, crop_map, draw_crop, draw_saliency_crop
from formats.cams import load_cams, save_cams
from formats.errors import InputError
from formats.images import load_grey, load_image, save_grey, save_image
from formats.labels import IGNORE_LABEL, load_label, save_label
from formats.voc_layout import load_ids, parse_ids, save_ids
from metrics.label_quality import LabelQuality
from metrics.saliency import SaliencyMetrics
from metrics.segmentation import ConfusionMatrix
from models.edge_head import edge_target
from models.saliency_losses import saliency_objective
from models.segmentation_losses import class_balanced_weights, count_pixels, summed_cross_entropy
from pseudo_labels.dense_crf import LABELS, PROBABILITIES, DenseCrf, refine_label, refine_probs
from pseudo_labels.fusion_rules import RULES, fuse
from pseudo_labels.random_walk import random_walk
from pseudo_labels.selector import class_saliency, measure, overlap, select, select_regions, split_mask
from utils.multi_scale import slide_windows, window_starts
from utils.schedules import polynomial_decay, step_decay, warm_up

FEW = settings(derandomize=True, deadline=None, database=None, max_examples=25)
MANY = settings(derandomize=True, deadline=None, database=None, max_examples=300)
PROPERTIES = {}
SIDES = st.integers(1, 12)
SEEDS = st.integers(0, 2**32 - 1)
BYTES = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12))
SHARES = st.floats(0, 1)
LABEL_VALUES = (0, 1, 2, 3, IGNORE_LABEL)
LEVELS = np.array([0, 0.3, 0.5, 0.9, 1], np.float32)  # at and between the thresholds of the rules


def holds_for(**strategies):
    """Turn a function into a test of few examples; `test_many_examples` runs it with many."""

    def decorate(function):
        PROPERTIES[function.__name__] = (function, strategies)
        return FEW(given(**strategies)(function))

    return decorate


# files


@holds_for(values=BYTES)
def test_labels_and_grey_maps_come_back(values):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        for save, load in ((save_label, load_label), (save_grey, load_grey)):
            save(path, values)
            assert np.array_equal(load(path), values)


@holds_for(
    pixels=arrays(np.uint8, st.tuples(SIDES, SIDES, st.just(3))), suffix=st.sampled_from([".png", ".bmp", ".tif"])
)
def test_images_come_back(pixels, suffix):
    with tempfile.TemporaryDirectory() as folder:
        save_image(Path(folder) / f"a{suffix}", pixels)
        assert np.array_equal(load_image(Path(folder) / f"a{suffix}"), pixels)


@holds_for(cams=arrays(np.float16, st.tuples(st.integers(0, 3), SIDES, SIDES), elements=st.floats(0, 1, width=16)))
def test_maps_come_back(cams):
    with tempfile.TemporaryDirectory() as folder:
        save_cams(Path(folder) / "a.npz", cams, np.arange(1, len(cams) + 1))
        loaded, classes = load_cams(Path(folder) / "a.npz")
        assert np.array_equal(loaded, cams)
        assert classes.tolist() == list(range(1, len(cams) + 1))


@holds_for(content=st.binary(max_size=60), place=st.integers(0, 400), values=BYTES)
def test_damaged_labels_are_refused_or_read(content, place, values):
    """With bytes replaced anywhere, reading gives a label map or an `InputError`."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        save_label(path, values)
        whole = path.read_bytes()
        path.write_bytes(whole[:place] + content + whole[place + len(content) :])
        for load in (load_label, load_grey, load_image):
            try:
                assert load(path).dtype == np.uint8
            except InputError as error:
                assert "a.png" in str(error)


@holds_for(content=st.binary(max_size=60), place=st.integers(0, 700))
def test_damaged_maps_are_refused_or_read(content, place):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        save_cams(path, np.zeros((1, 4, 4)), np.ones(1))
        whole = path.read_bytes()
        path.write_bytes(whole[:place] + content + whole[place + len(content) :])
        try:
            cams, classes = load_cams(path)
            assert cams.ndim == 3
            assert len(cams) == len(classes)
        except InputError as error:
            assert "a.npz" in str(error)


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\\:", exclude_categories=("C", "Z")), min_size=1)


@holds_for(ids=st.lists(NAMES, min_size=1, max_size=5, unique=True), content=st.binary(max_size=40))
def test_ids_come_back_and_stay_in_their_folder(ids, content):
    ids = [name for name in ids if name not in (".", "..") and not name.endswith(".jpg") and name[0] != "\ufeff"]
    with tempfile.TemporaryDirectory() as folder:
        if ids:
            save_ids(Path(folder) / "ids.txt", ids)
            assert load_ids(Path(folder) / "ids.txt") == ids
    try:
        found = parse_ids(content, "ids.txt")
    except InputError:
        return
    assert all((Path("folder") / f"{name}.png").parent == Path("folder") for name in found)


# transforms


@holds_for(
    height=SIDES, width=SIDES, crop=st.integers(1, 20), smallest=st.integers(1, 30), more=st.integers(0, 30), seed=SEEDS
)
def test_crops_keep_image_and_label_aligned(height, width, crop, smallest, more, seed):
    """The first channel of the image is 40 · label; images may be smaller than the crop."""
    rng = np.random.default_rng(seed)
    label = np.full((height, width), rng.integers(1, 6), np.uint8)
    image = np.stack([40 * label] * 3, axis=2)
    drawn = draw_crop((height, width), crop, (smallest, smallest + more), rng)
    cropped, cropped_label = crop_image(image, drawn), crop_map(label, drawn, IGNORE_LABEL)
    assert cropped.shape == (crop, crop, 3)
    assert cropped_label.shape == (crop, crop)
    assert set(np.unique(cropped_label)) <= {label[0, 0], IGNORE_LABEL}
    inside = cropped[..., 0] == 40 * label[0, 0]
    assert (cropped_label[inside] == label[0, 0]).mean() > 0.5 if inside.sum() > 20 else True
    smaller = crop_image(image[::2, ::2], drawn)  # as decoded with a reduction
    assert (smaller.shape, set(np.unique(smaller[cropped_label != IGNORE_LABEL]))) == (
        cropped.shape,
        {40 * label[0, 0]},
    )


@holds_for(height=SIDES, width=SIDES, size=st.integers(1, 24), strength=SHARES, seed=SEEDS)
def test_augmentation_keeps_masks_binary(height, width, size, strength, seed):
    rng = np.random.default_rng(seed)
    mask = (rng.integers(0, 2, (height, width)) * 255).astype(np.uint8)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    drawn = draw_saliency_crop((height, width), size, rng)
    first = change_colours(crop_image(image, drawn), rng, strength)
    second, third = crop_map(mask, drawn), crop_map(mask, drawn)
    assert (first.shape, first.dtype) == ((size, size, 3), np.uint8)
    assert np.array_equal(second, third)  # all maps are cropped alike
    assert set(np.unique(second)) <= set(np.unique(mask))


# labels


def maps_from(seed: int, num_classes: int, height: int, width: int, kind: str) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if kind == "levels":
        return rng.choice(LEVELS, (num_classes, height, width))
    return np.full((num_classes, height, width), {"zeros": 0, "ones": 1, "half": 0.5}[kind], np.float32)


@holds_for(
    rule=st.sampled_from(sorted(RULES)),
    num_classes=st.integers(0, 20),
    height=SIDES,
    width=SIDES,
    kind=st.sampled_from(["levels", "zeros", "ones", "half"]),
    seed=SEEDS,
)
def test_rules_give_labels_of_the_image_alone(rule, num_classes, height, width, kind, seed):
    cams = maps_from(seed, num_classes, height, width, kind)
    classes = np.arange(1, num_classes + 1, dtype=np.uint8)
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)

    def crf(scores):
        return refine_probs(DenseCrf(image, PROBABILITIES), torch.from_numpy(scores), 1).numpy()

    def label_crf(label):
        return refine_label(DenseCrf(image, LABELS), label, iterations=1)

    evidence = {
        "cams": cams,
        "classes": classes,
        "saliency": maps_from(seed + 1, 1, height, width, kind)[0],
        "second_cams": maps_from(seed + 2, num_classes, height, width, kind),
        "crf": crf,
        "label_crf": label_crf,
    }
    label = fuse(rule, evidence, {})
    assert (label.dtype, label.shape) == (np.uint8, (height, width))
    assert set(np.unique(label)) <= {0, *classes.tolist(), IGNORE_LABEL}
    assert rule not in ("none", "edam", "icd") or IGNORE_LABEL not in label


@holds_for(height=SIDES, width=SIDES, thresholds=st.tuples(SHARES, SHARES), seed=SEEDS)
def test_the_selector_keeps_or_paints(height, width, thresholds, seed):
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 3, IGNORE_LABEL], (height, width)).astype(np.uint8)
    mask = rng.random((height, width)) < rng.choice([0, 0.5, 1])
    low, high = sorted(thresholds)
    results = []
    for threshold in (low, high, 1.0):
        selected, replaced = select(label, mask, 3, threshold)
        assert np.array_equal(selected, np.where(mask, 3, 0) if replaced else label)
        results.append(replaced)
    assert results == sorted(results, reverse=True)  # a higher threshold replaces fewer
    assert not results[-1]  # no overlap is above 1
    assert 0 <= overlap(label, mask) <= 1
    share, norm, certainty = measure(label, (mask * 255).astype(np.uint8), 0.5)
    assert -1 <= share <= 1
    assert 0 <= norm <= 1
    assert 0 <= certainty <= 1


@holds_for(height=SIDES, width=SIDES, num_classes=st.integers(1, 4), threshold=SHARES, seed=SEEDS)
def test_regions_stay_within_mask_and_classes(height, width, num_classes, threshold, seed):
    rng = np.random.default_rng(seed)
    classes = np.arange(1, num_classes + 1, dtype=np.uint8)
    label = rng.choice([0, *classes, IGNORE_LABEL], (height, width)).astype(np.uint8)
    mask = rng.random((height, width)) < rng.choice([0, 0.5, 1])
    regions = split_mask(mask, rng.choice(LEVELS, (num_classes, height, width)), classes)
    assert np.array_equal(regions > 0, mask)
    selected, replaced = select_regions(label, regions, classes, np.full(num_classes + 1, threshold))
    assert set(np.unique(selected)) <= {0, *classes.tolist(), IGNORE_LABEL}
    assert set(replaced) <= set(classes.tolist())
    assert replaced or np.array_equal(selected, label)
    for label_of_class in replaced:
        assert (selected[regions == label_of_class] == label_of_class).all()
        assert not (selected[~mask] == label_of_class).any()
    kept, none = select_regions(label, regions, classes, np.ones(num_classes + 1))
    assert np.array_equal(kept, label)
    assert none == []


@holds_for(norms=st.lists(SHARES, max_size=8), num_classes=st.integers(1, 4), seed=SEEDS)
def test_class_saliency_is_a_share(norms, num_classes, seed):
    classes = np.random.default_rng(seed).integers(1, num_classes + 1, len(norms))
    shares = class_saliency(np.array(norms), classes, num_classes)
    assert shares.shape == (num_classes + 1,)
    assert ((shares >= 0) & (shares <= 1)).all()


@holds_for(height=SIDES, width=SIDES, num_labels=st.integers(1, 4), constant=st.booleans(), seed=SEEDS)
def test_the_crf_on_tiny_and_constant_images(height, width, num_labels, constant, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3)).astype(np.uint8)
    image = np.full_like(image, image[0, 0]) if constant else image
    scores = rng.choice(LEVELS, (num_labels, height, width))
    probs = refine_probs(DenseCrf(image, PROBABILITIES), torch.from_numpy(scores), 3)
    assert probs.isfinite().all()
    assert torch.allclose(probs.sum(dim=0), torch.ones(height, width), atol=1e-4)
    label = rng.choice(LABEL_VALUES, (height, width)).astype(np.uint8)
    assert set(np.unique(refine_label(DenseCrf(image, LABELS), label, iterations=2))) <= set(np.unique(label))


@holds_for(
    height=SIDES,
    width=SIDES,
    kind=st.sampled_from(["levels", "zeros", "ones", "half"]),
    edges=st.sampled_from(["levels", "zeros", "ones"]),
    steps=st.sampled_from([1, 2, 256]),
    radius=st.integers(2, 5),
    seed=SEEDS,
)
def test_walks_stay_between_0_and_1(height, width, kind, edges, steps, radius, seed):
    """Including images of one row or column, shorter than a step."""
    cams = torch.from_numpy(maps_from(seed, 2, height, width, kind))
    edge = torch.from_numpy(maps_from(seed + 1, 1, height, width, edges)[0])
    walked = random_walk(cams, edge, steps=steps, radius=radius)
    assert walked.shape == cams.shape
    assert walked.isfinite().all()
    assert ((walked >= 0) & (walked <= 1)).all()
    assert walked.any() == bool((cams * (1 - edge)).any())


# metrics


@holds_for(height=SIDES, width=SIDES, seed=SEEDS)
def test_label_scores_equal_a_loop_over_pixels(height, width, seed):
    rng = np.random.default_rng(seed)
    prediction, truth = rng.choice(LABEL_VALUES, (2, height, width), p=(0.4, 0.3, 0.1, 0, 0.2)).astype(np.uint8)
    matrix = ConfusionMatrix(4)
    matrix.add(prediction, truth)
    hits, predicted, true = np.zeros(4), np.zeros(4), np.zeros(4)
    for theirs, ours in zip(truth.ravel().tolist(), prediction.ravel().tolist()):
        if theirs == IGNORE_LABEL:
            continue
        true[theirs] += 1
        if ours != IGNORE_LABEL:
            predicted[ours] += 1
            hits[ours] += ours == theirs
    ious = [hits[i] / (true[i] + predicted[i] - hits[i]) for i in range(4) if true[i] + predicted[i]]
    scores = matrix.scores()
    assert scores["mIoU"] == pytest.approx(np.mean(ious) if ious else np.nan, nan_ok=True)
    assert scores["Acc"] == pytest.approx(hits.sum() / true.sum() if true.any() else np.nan, nan_ok=True)
    assert np.isnan(scores["IoU"][3])  # absent class
    values = LabelQuality(4).add(prediction, truth).scores()
    flat = np.concatenate([np.ravel(value) for value in values.values() if not isinstance(value, dict)]).astype(float)
    assert ((flat >= 0) & (flat <= 1) | np.isnan(flat)).all()


@holds_for(saliency=BYTES, seed=SEEDS)
def test_saliency_scores_are_shares(saliency, seed):
    metrics = SaliencyMetrics()
    metrics.add(saliency, np.random.default_rng(seed).random(saliency.shape) < 0.5)
    for name, score in metrics.scores().items():
        assert np.isnan(score) or -1e-12 <= score <= 1 + 1e-12, name


# losses


@holds_for(batch=st.integers(1, 3), side=SIDES, share=st.floats(0.01, 1), smoothing=SHARES, ignored=SHARES, seed=SEEDS)
def test_segmentation_losses_are_finite(batch, side, share, smoothing, ignored, seed):
    """Including labels that are all ignored, and absent classes."""
    rng = np.random.default_rng(seed)
    labels = np.where(rng.random((batch, side, side)) < ignored, IGNORE_LABEL, rng.integers(0, 3, (batch, side, side)))
    labels = torch.from_numpy(labels).long()
    logits = torch.from_numpy(rng.normal(0, 50, (batch, 4, side, side)).astype(np.float32)).requires_grad_()
    counts = torch.bincount(labels[labels != IGNORE_LABEL], minlength=4)
    weights = class_balanced_weights((counts > 0).long(), counts, 0.9)
    assert weights.isfinite().all()
    count = count_pixels(labels, share).sum().clamp(min=1)
    loss = summed_cross_entropy(logits, labels, smoothing, weights, share) / count
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()
    assert loss > 0 or not (labels != IGNORE_LABEL).any() or logits.grad.abs().max() < 1e-3


@holds_for(batch=st.integers(1, 3), side=SIDES, value=st.sampled_from([-1e4, 0, 1e4]), share=SHARES, seed=SEEDS)
def test_saliency_losses_are_finite(batch, side, value, share, seed):
    """Including empty and full masks, and logits that are confident and wrong."""
    mask = torch.from_numpy((np.random.default_rng(seed).random((batch, 1, side, side)) < share).astype(np.float32))
    logits = torch.full_like(mask, value).requires_grad_()
    edge = edge_target(mask)
    assert ((edge >= 0) & (edge <= 1 + 1e-6)).all()
    loss = saliency_objective({"saliency": [logits] * 4, "edge": logits}, mask, 1.0)["loss"]
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


# batches, windows and schedules


@holds_for(
    num_samples=st.integers(1, 60), share=st.integers(1, 9), size=st.integers(1, 5), epoch=st.integers(0, 3), seed=SEEDS
)
def test_every_image_comes_once_in_an_epoch(num_samples, share, size, epoch, seed):
    """For any number of processes, except images that do not fill the last batch."""
    if num_samples < size:
        return
    ranks = [EpochBatches(num_samples, share * size, seed, rank, size) for rank in range(size)]
    seen = []
    for batches in ranks:
        batches.epoch = epoch
        keys = list(batches)
        assert len(keys) == len(batches)
        assert all(key for key in keys)  # no process is without images
        seen += [index for batch in keys for _, index in batch]
    assert len(set(seen)) == len(seen)
    assert len(seen) == (num_samples if num_samples < share * size else num_samples - num_samples % (share * size))
    steps = [ranks[0].indices_of(epoch, step) for step in range(len(ranks[0]))]
    assert sorted(index for step in steps for index in step) == sorted(seen)


@holds_for(length=st.integers(1, 200), window=st.integers(1, 60), stride=st.integers(1, 60))
def test_windows_cover_every_pixel(length, window, stride):
    starts = window_starts(length, window, min(stride, window))
    covered = {place for start in starts for place in range(start, start + window)}
    assert covered >= set(range(length))
    assert max(starts) + window == max(length, window)
    assert starts == sorted(set(starts))


@holds_for(height=SIDES, width=SIDES, window=SIDES, stride=SIDES, seed=SEEDS)
def test_sliding_windows_of_a_pointwise_network(height, width, window, stride, seed):
    images = torch.from_numpy(np.random.default_rng(seed).random((1, 3, height, width)).astype(np.float32))
    result = slide_windows(lambda x: 2 * x, images, window, min(stride, window))
    assert torch.allclose(result, 2 * images, atol=1e-6)


@holds_for(total=st.integers(1, 500), power=st.floats(0, 3), warm=st.integers(0, 50), gamma=st.floats(0.01, 1))
def test_schedules_fall_and_stay_above_0(total, power, warm, gamma):
    decays = [polynomial_decay(step, total, power) for step in range(total)]
    assert decays == sorted(decays, reverse=True)
    assert 0 < decays[-1] <= decays[0] == 1
    rises = [warm_up(step, warm) for step in range(total)]
    assert rises == sorted(rises)
    assert 0 < rises[0] <= rises[-1] <= 1
    for epochs in ([5], [3, 5, 9]):
        steps = [step_decay(epoch, epochs, gamma) for epoch in range(20)]
        assert steps == sorted(steps, reverse=True)
        assert steps[0] == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_many_examples(name):
    function, strategies = PROPERTIES[name]
    MANY(given(**strategies)(function))()
