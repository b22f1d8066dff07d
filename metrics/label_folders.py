"""Scores of the labels of one folder or fusion rule, before and after the selector, in memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from formats.errors import InputError
from formats.labels import load_label, paint_label
from metrics.bootstrap import BootstrapScores
from metrics.label_quality import LabelQuality, name_scores, score_images, sum_packed
from metrics.page import Picture, load_photograph
from metrics.scored_files import FileReport, select_worst
from utils.processes import measure_all

IMAGE_MEASURES = ("mIoU", "Acc")  # measures shown with a single image


@dataclass(frozen=True)
class LabelData:
    """The N images to score: ids, files of their truth and, if known, their image labels, bool [N, C]."""

    ids: list[str]
    names: tuple[str, ...]  # of the labels, background first
    truth: Sequence[Path]
    image_labels: np.ndarray | None

    @cached_property
    def is_single(self) -> np.ndarray | None:
        """Return whether an image has exactly one class, bool [N]; None without image labels."""
        return None if self.image_labels is None else self.image_labels.sum(axis=1) == 1


@dataclass(frozen=True)
class LabelSource:
    """Labels of one folder or rule. `read(index, shape_hw)` returns the label of an image of `indices`."""

    read: Callable
    indices: list[int]
    report: FileReport


@dataclass(frozen=True)
class Choice:
    """Both options of the selector for a single-class image: label (1..C), `measures` as returned by
    `selector.measure`, and the packed quality if the label is kept or replaced.
    """

    label: int
    measures: tuple[float, float, float]
    kept: tuple
    replaced: tuple


@dataclass(frozen=True)
class MeasuredLabel:
    """Result for one image: `quality`, packed by `LabelQuality.pack`; `scores`, its IMAGE_MEASURES; `choice`, for
    single-class images if there is a selector.
    """

    quality: tuple
    scores: dict[str, float]
    choice: Choice | None


@dataclass(frozen=True)
class LabelScores:
    """Results of one folder or rule.

    scores: for the JSON file. sampled: bootstrap scores by name, for the labels before and, as "<name> + selector",
    after the selector; empty without bootstrap. images: index → IMAGE_MEASURES of each image that could be scored.
    """

    scores: dict
    sampled: dict[str, BootstrapScores]
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
    """Score the labels of a source; None if no image can be scored. Fills `source.report`.

    selector: an `ImageSelector` of pseudo_labels, which adds the scores of the "selected" labels, statistics of the
    "selector" and the "sweep" over these thresholds. progress(count, title): wraps the iterator over the images.
    """

    def measure_many(measure: Callable, indices: list[int], title: str) -> Iterable:
        return progress(len(indices), title)(measure_all(measure, indices, workers))

    measured = {}
    results = measure_many(partial(measure_label, source.read, data, selector), source.indices, name)
    for index, result in zip(source.indices, results):
        if isinstance(result, InputError):
            source.report.unusable[data.ids[index]] = str(result)
        else:
            measured[index] = result
    source.report.scored = len(measured)
    if not measured:
        return None
    score = partial(score_images, names=data.names, is_single=data.is_single, num_replicates=num_replicates)
    sampled = {}
    scores, sampled[name] = score({index: label.quality for index, label in measured.items()})
    if selector:
        choices = {index: label.choice for index, label in measured.items() if label.choice}
        qualities, statistics = select_labels(name, source, data, measured, choices, selector, measure_many)
        selected, sampled[f"{name} + selector"] = score(qualities)
        scores |= {"selected": selected, "selector": statistics, "sweep": sweep_scores(choices, sweep, data)}
    images = {index: label.scores for index, label in measured.items()}
    return LabelScores(scores, sampled if num_replicates else {}, images)


def select_labels(
    name: str, source: LabelSource, data: LabelData, measured: dict, choices: dict, selector, measure_many: Callable
) -> tuple[dict[int, tuple], dict]:
    """Packed qualities of all labels after the selector by image, and statistics of the selector."""
    thresholds, is_replaced = choose_labels(choices, selector)
    statistics = thresholds["numbers"] | {"classes": summarize_classes(choices, is_replaced, thresholds, data)}
    qualities = {index: label.quality for index, label in measured.items()}
    qualities |= {index: choice.replaced for index, choice in choices.items() if is_replaced[index]}
    if selector.split_cams:
        indices = [index for index in measured if not data.is_single[index]]
        measure = partial(measure_split, source.read, data, selector, thresholds["values"])
        splits = dict(zip(indices, measure_many(measure, indices, f"{name}, split")))
        for split in splits.values():
            if isinstance(split, InputError):  # the file was intact when it was first read
                raise split
        qualities |= {index: quality for index, (quality, _, _) in splits.items()}
        statistics["split"] = summarize_splits(splits.values(), data)
    return qualities, statistics


def measure_label(read: Callable, data: LabelData, selector, index: int) -> MeasuredLabel:
    """Measure the label of one image. Raises `InputError` if a file of the image cannot be used."""
    truth = load_label(data.truth[index])
    label, choice = read(index, truth.shape), None
    quality = measure_quality(label, truth, data, index)
    packed = quality.pack()
    if selector and data.is_single[index]:
        label_of_class, measures, mask = selector.measure_image(index, label)
        choice = Choice(label_of_class, measures, packed, measure_quality(mask, truth, data, index).pack())
    elif selector and selector.split_cams:
        selector.load_split(index, label.shape)  # raises now instead of after the whole list
    scores = quality.scores()
    return MeasuredLabel(packed, {measure: scores[measure] for measure in IMAGE_MEASURES}, choice)


def measure_split(read: Callable, data: LabelData, selector, thresholds: np.ndarray, index: int) -> tuple:
    """Packed quality of a multi-class label after the selector, the classes of the image, and the replaced ones."""
    truth = load_label(data.truth[index])
    label, classes, replaced = selector.split(index, read(index, truth.shape), thresholds)
    return measure_quality(label, truth, data, index).pack(), classes, replaced


def measure_quality(label: np.ndarray, truth: np.ndarray, data: LabelData, index: int) -> LabelQuality:
    """Quality of one label. Raises `InputError`, naming the image, if it does not fit its truth."""
    try:
        return LabelQuality(len(data.names)).add(label, truth)
    except ValueError as error:
        raise InputError(f"{data.ids[index]} against {data.truth[index]}: {error}") from None


def choose_labels(choices: dict[int, Choice], selector) -> tuple[dict, dict[int, bool]]:
    """Thresholds by class, as of `Thresholds.of_classes`, and for each image whether its label is replaced."""
    measures = np.array([choice.measures for choice in choices.values()]).reshape(-1, 3)
    classes = np.array([choice.label for choice in choices.values()], int)
    thresholds = selector.thresholds.of_classes(measures, classes)
    return thresholds, dict(zip(choices, measures[:, 0] > thresholds["values"][classes]))


def score_choices(choices: dict[int, Choice], is_replaced: dict[int, bool], data: LabelData) -> dict:
    """Scores of the images of `is_replaced` after this choice, and "replaced", the number of replaced labels."""
    pairs = ((choices[index], replaced) for index, replaced in is_replaced.items())
    qualities = [choice.replaced if replaced else choice.kept for choice, replaced in pairs]
    scores = name_scores(sum_packed(qualities, len(data.names)), data.names)
    return {"replaced": int(sum(is_replaced.values())), **scores}


def sweep_scores(choices: dict[int, Choice], thresholds: Sequence[float], data: LabelData) -> list[dict]:
    """`score_choices` of the single-class images for each threshold on the overlap, used for all classes."""
    rows = []
    for threshold in thresholds if choices else ():
        is_replaced = {index: choice.measures[0] > threshold for index, choice in choices.items()}
        rows.append({"threshold": threshold, **score_choices(choices, is_replaced, data)})
    return rows


def summarize_classes(
    choices: dict[int, Choice], is_replaced: dict[int, bool], thresholds: dict, data: LabelData
) -> dict[str, dict]:
    """Statistics of the selector on the single-class images of each class, by its name."""
    statistics = {}
    for label in sorted({choice.label for choice in choices.values()}):
        name, indices = data.names[label], [index for index, choice in choices.items() if choice.label == label]
        before = score_choices(choices, dict.fromkeys(indices, False), data)
        after = score_choices(choices, {index: is_replaced[index] for index in indices}, data)
        statistics[name] = {
            "images": len(indices),
            "replaced": after["replaced"],
            "saliency": float(thresholds["saliency"][label]),
            "threshold": float(thresholds["values"][label]),
            "IoU_before": before["IoU"][name],
            "IoU_after": after["IoU"][name],
        }
    return statistics


def summarize_splits(splits: Iterable[tuple], data: LabelData) -> dict[str, dict]:
    """Numbers of regions in multi-class images and of replaced ones, by class name; splits of `measure_split`."""
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
    """Yield the `count` images with the lowest mean mIoU over folders and rules, scores in percent.

    photographs: folder of the JPEG images.
    """
    images: dict[int, dict[str, dict]] = {}
    for name, labels in scored.items():
        for index, scores in labels.images.items():
            images.setdefault(index, {})[name] = scores
    for index in select_worst(images, "mIoU", count):
        truth = load_label(data.truth[index])
        shown = load_photograph(photographs / f"{data.ids[index]}.jpg") | {"truth": paint_label(truth)}
        shown |= {name: paint_label(sources[name].read(index, truth.shape)) for name in images[index]}
        classes = tuple(data.names[label] for label in np.unique(truth) if 0 < label < len(data.names))
        percent = {name: {key: 100 * score for key, score in scores.items()} for name, scores in images[index].items()}
        yield Picture(data.ids[index], "", classes, shown, percent)
