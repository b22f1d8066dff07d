"""Labels of one folder or rule: scored as they are, and as a selector changes them, in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from formats.errors import InputError
from formats.labels import load_label, paint_label
from metrics.interval_tables import Sampled
from metrics.label_quality import LabelQuality
from metrics.label_sets import LabelSets, plain_scores, sum_of
from metrics.page import Picture, photograph
from metrics.scored_files import FileReport, worst_first
from utils.processes import measure_all

OF_IMAGES = ("mIoU", "Acc")  # measures that a single image is shown with


@dataclass(frozen=True)
class LabelData:
    """The images to score: N ids, their truth, and where they are known their image labels, bool [N, C]."""

    ids: list[str]
    names: tuple[str, ...]  # of the labels, background first
    truth: Sequence[Path]
    image_labels: np.ndarray | None

    @cached_property
    def is_single(self) -> np.ndarray | None:
        """bool [N]: which images have exactly one class; None where that is not known."""
        return None if self.image_labels is None else self.image_labels.sum(axis=1) == 1


@dataclass(frozen=True)
class LabelSource:
    """Labels of one folder or rule: `read(index, shape_hw)` for the images that it has, by their places in the list."""

    read: Callable
    indices: list[int]
    report: FileReport


@dataclass(frozen=True)
class Choice:
    """A single-class image as the selector sees it, and its quality, packed, with the mask in place of its label."""

    label: int
    measured: tuple[float, float, float]
    replaced: tuple


@dataclass(frozen=True)
class MeasuredLabel:
    """The quality of one label, packed; its scores; with a selector, where there is one class, what it chooses from."""

    quality: tuple
    scores: dict[str, float]
    choice: Choice | None


@dataclass(frozen=True)
class LabelScores:
    """One folder or rule: `scores`; by its name, and that of what is selected from it, the replicates, where there was
    a bootstrap; and of each image that could be scored, by its place in the list, the measures `OF_IMAGES`."""

    scores: dict
    sampled: dict[str, Sampled]
    images: dict[int, dict[str, float]]


def score_labels(
    name: str,
    source: LabelSource,
    data: LabelData,
    selector=None,
    sweep: Sequence[float] = (),
    num_replicates: int = 0,
    workers: int = 1,
    progress: Callable = lambda count, title: iter,
) -> LabelScores | None:
    """Scores of all images and, where image labels are known, of those with one and with several classes apart; the
    same "selected"; statistics of the selector by class; the "sweep" over these thresholds.

    selector: an `ImageSelector` of pseudo_labels. progress: wraps the iterator over the images. Fills `source.report`;
    None where no image could be scored.
    """
    sets, images = LabelSets(data.names, data.is_single, num_replicates), {}
    kept = {}  # what the selector needs of the images, once all are known
    measured = measure_all(partial(measure_label, source.read, data, selector), source.indices, workers)
    for index, found in zip(source.indices, progress(len(source.indices), name)(measured)):
        if isinstance(found, InputError):
            source.report.unusable[data.ids[index]] = str(found)
            continue
        sets.add(index, found.quality)
        images[index] = found.scores
        if selector:
            kept[index] = found
    source.report.scored = len(images)
    if not images:
        return None
    if not selector:
        return LabelScores(sets.scores(), {name: sets.sampled()} if num_replicates else {}, images)
    selected, told = select_labels(name, source, data, kept, selector, num_replicates, workers, progress)
    choices = choices_of(kept)
    told["sweep"] = [{"threshold": t, **sweep_scores(kept, choices, t, data)} for t in (sweep if choices else ())]
    versions = {name: sets, f"{name} + selector": selected} if num_replicates else {}
    sampled = {version: of_version.sampled() for version, of_version in versions.items()}
    return LabelScores(sets.scores() | told, sampled, images)


def select_labels(
    name: str, source: LabelSource, data: LabelData, kept: dict, selector, num_replicates: int, workers: int, progress
) -> tuple[LabelSets, dict]:
    """The labels after the selector, and what `score_labels` tells of them, but for the sweep."""
    choices = choices_of(kept)
    chosen = choose(choices, selector, len(data.names) - 1)
    statistics = chosen["numbers"] | {"classes": class_statistics(kept, choices, chosen, data)}
    qualities = {index: quality_after(found, chosen["replaced"].get(index, False)) for index, found in kept.items()}
    if selector.split_cams:
        indices = [index for index in kept if not data.is_single[index]]
        measured = measure_all(partial(measure_split, source.read, data, selector, chosen["values"]), indices, workers)
        splits = dict(zip(indices, progress(len(indices), f"{name}, split")(measured)))
        for found in splits.values():
            if isinstance(found, InputError):  # a file that was whole a moment ago
                raise found
        qualities |= {index: quality for index, (quality, _, _) in splits.items()}
        statistics["split"] = split_statistics(splits.values(), data)
    selected = LabelSets(data.names, data.is_single, num_replicates)
    for index, quality in qualities.items():
        selected.add(index, quality)
    return selected, {"selected": selected.scores(), "selector": statistics}


def choices_of(kept: dict[int, MeasuredLabel]) -> dict[int, Choice]:
    return {index: found.choice for index, found in kept.items() if found.choice}


def measure_label(read: Callable, data: LabelData, selector, index: int) -> MeasuredLabel:
    """Raises `InputError` where a file of the image cannot be used."""
    truth = load_label(data.truth[index])
    label, choice = read(index, truth.shape), None
    quality = quality_of(label, truth, data, index)
    if selector and data.is_single[index]:
        label_of_class, measured, mask = selector.measure_image(index, label)
        choice = Choice(label_of_class, measured, quality_of(mask, truth, data, index).packed())
    elif selector and selector.split_cams:
        selector.load_split(index, label.shape)  # what cannot be split later is told now
    scores = quality.scores()
    return MeasuredLabel(quality.packed(), {measure: scores[measure] for measure in OF_IMAGES}, choice)


def measure_split(read: Callable, data: LabelData, selector, thresholds: np.ndarray, index: int) -> tuple:
    """→ packed quality of the image's label after the selector, its classes, and those that were replaced."""
    truth = load_label(data.truth[index])
    label, classes, replaced = selector.split(index, read(index, truth.shape), thresholds)
    return quality_of(label, truth, data, index).packed(), classes, replaced


def quality_of(label: np.ndarray, truth: np.ndarray, data: LabelData, index: int) -> LabelQuality:
    try:
        return LabelQuality(len(data.names)).add(label, truth)
    except ValueError as error:
        raise InputError(f"{data.ids[index]} against {data.truth[index]}: {error}") from None


def choose(choices: dict[int, Choice], selector, num_classes: int) -> dict:
    """The thresholds by class, and "replaced": place of an image → whether its label is."""
    measured = np.array([choice.measured for choice in choices.values()]).reshape(-1, 3)
    classes = np.array([choice.label for choice in choices.values()], int)
    chosen = selector.thresholds.of_classes(measured, classes, num_classes)
    return chosen | {"replaced": dict(zip(choices, measured[:, 0] > chosen["values"][classes]))}


def quality_after(found: MeasuredLabel, is_replaced: bool) -> tuple:
    return found.choice.replaced if is_replaced else found.quality


def scores_after(kept: dict[int, MeasuredLabel], replaced: dict[int, bool], data: LabelData) -> dict:
    """How many labels are replaced, and the scores of these images then."""
    qualities = (quality_after(kept[index], is_replaced) for index, is_replaced in replaced.items())
    return {
        "replaced": sum(map(int, replaced.values())),
        **plain_scores(sum_of(qualities, len(data.names)), data.names),
    }


def sweep_scores(kept: dict[int, MeasuredLabel], choices: dict[int, Choice], t0: float, data: LabelData) -> dict:
    """`scores_after` of the single-class images, with one threshold on the overlap for all classes."""
    return scores_after(kept, {index: choice.measured[0] > t0 for index, choice in choices.items()}, data)


def class_statistics(kept, choices: dict[int, Choice], chosen: dict, data: LabelData) -> dict:
    """Class name → its single-class images, how many labels were replaced, and its IoU on them before and after."""
    statistics = {}
    for label in sorted({choice.label for choice in choices.values()}):
        name, mine = data.names[label], [index for index, choice in choices.items() if choice.label == label]
        before = scores_after(kept, dict.fromkeys(mine, False), data)
        after = scores_after(kept, {index: chosen["replaced"][index] for index in mine}, data)
        statistics[name] = {
            "images": len(mine),
            "replaced": after["replaced"],
            "saliency": float(chosen["saliency"][label]),
            "threshold": float(chosen["values"][label]),
            "IoU_before": before["IoU"][name],
            "IoU_after": after["IoU"][name],
        }
    return statistics


def split_statistics(splits, data: LabelData) -> dict:
    """Class name → how many regions of images with several classes it had, and how many were replaced."""
    counts = {}
    for _, classes, replaced in splits:
        for label in classes:
            count = counts.setdefault(data.names[label], {"images": 0, "replaced": 0})
            count["images"] += 1
            count["replaced"] += label in replaced
    return counts


def label_pictures(
    sources: dict[str, LabelSource], scored: dict[str, LabelScores], data: LabelData, photographs: Path, count: int
) -> Iterator[Picture]:
    """The `count` images of lowest mIoU, on average over folders and rules; scores in percent. photographs: their
    folder."""
    images: dict[int, dict[str, dict]] = {}
    for name, labels in scored.items():
        for index, scores in labels.images.items():
            images.setdefault(index, {})[name] = scores
    for index in worst_first(images, "mIoU", count):
        truth = load_label(data.truth[index])
        shown = photograph(photographs / f"{data.ids[index]}.jpg") | {"truth": paint_label(truth)}
        shown |= {name: paint_label(sources[name].read(index, truth.shape)) for name in images[index]}
        classes = tuple(data.names[label] for label in np.unique(truth) if 0 < label < len(data.names))
        percent = {name: {key: 100 * score for key, score in scores.items()} for name, scores in images[index].items()}
        yield Picture(data.ids[index], "", classes, shown, percent)
