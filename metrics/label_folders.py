"""Scores of the labels of one folder or fusion rule, before and after the selector, in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np

from formats.errors import InputError
from formats.labels import load_label, paint_label
from metrics.bootstrap import MethodScores
from metrics.label_quality import measure_label, name_scores, score_images, score_states, sum_states
from metrics.page import Picture, load_photograph
from metrics.scored_files import FileReport, measure_files, select_worst

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
    """Labels of one folder or rule. `load(*inputs[index], shape_hw)` returns the label of an image, uint8 [H, W]."""

    load: Callable
    inputs: dict[int, tuple]
    report: FileReport

    def read(self, index: int, shape_hw: tuple[int, int]) -> np.ndarray:
        return self.load(*self.inputs[index], shape_hw)


@dataclass(frozen=True)
class MeasuredLabel:
    """Result for one image: `measure_label` of its label and of its mask, the IMAGE_MEASURES of its label, and its row
    of `ImageSelector.measure_images`, which begins with index, class and overlap. `replaced` and `row` are None without
    a selector and for images that do not have exactly one class.
    """

    kept: tuple
    scores: dict[str, float]
    replaced: tuple | None = None
    row: tuple | None = None


def score_labels(
    name: str, source: LabelSource, data: LabelData, selector, sweep: Sequence[float], num_replicates: int, workers: int
) -> tuple[dict, dict[str, MethodScores]]:
    """Score the labels of a source, and fill `source.report`; both results are empty if no image can be scored.

    selector: None, or an `ImageSelector` of pseudo_labels, which adds the scores of the "selected" labels, statistics
    of the "selector" and the "sweep" over these thresholds. Returns scores for the JSON file, and the scores of the
    labels before and, as "<name> + selector", after the selector.
    """
    tasks = {data.ids[index]: index for index in source.inputs}
    measure = partial(measure_image, source.read, data, selector)
    found = {tasks[key]: label for key, label in measure_files(measure, tasks, source.report, workers, name)}
    if not found:
        return {}, {}
    images = {index: label.scores for index, label in found.items()}
    settings = images, data.names, data.is_single, num_replicates
    scores, before = score_images({index: label.kept for index, label in found.items()}, *settings)
    if not selector:
        return scores, {name: before}
    selected, statistics = select_labels(name, source, data, found, selector, sweep, workers)
    scores["selected"], after = score_images(selected, *settings)
    return scores | statistics, {name: before, f"{name} + selector": after}


def select_labels(
    name: str, source: LabelSource, data: LabelData, found: dict, selector, sweep: Sequence[float], workers: int
) -> tuple[dict[int, tuple], dict]:
    """`measure_label` of all labels after the selector by image, and "selector" and "sweep" of the scores.

    found: image index → `MeasuredLabel`.
    """
    rows = [label.row for label in found.values() if label.row]
    chosen = selector.choose_thresholds(rows)
    replaced = {index for index, label, overlap, *_ in rows if overlap > chosen["values"][label]}
    selected = {index: label.replaced if index in replaced else label.kept for index, label in found.items()}
    if selector.split_cams:
        tasks = {data.ids[index]: index for index, label in found.items() if not label.row}
        measure, report = partial(measure_split, source.read, data, selector, chosen["values"]), FileReport()
        splits = measure_files(measure, tasks, report, workers, f"{name}, split")
        selected |= {tasks[key]: quality for key, quality in splits}
        if report.unusable:  # the files were intact when they were first read
            raise InputError(next(iter(report.unusable.values())))
    single, sweep_rows = [row[0] for row in rows], []
    for threshold in sweep if rows else ():
        above = {index for index, _, overlap, *_ in rows if overlap > threshold}
        sweep_rows.append({"threshold": threshold, **score_selection(found, single, above, data)})
    classes = summarize_classes(found, rows, replaced, chosen, data)
    return selected, {"selector": chosen["numbers"] | {"classes": classes}, "sweep": sweep_rows}


def measure_image(read: Callable, data: LabelData, selector, index: int) -> MeasuredLabel:
    """Measure the label of one image. Raises `InputError` if a file of the image cannot be used."""
    truth, num_labels = load_label(data.truth[index]), len(data.names)
    label = read(index, truth.shape)
    kept = measure_or_refuse(label, truth, data, index)
    scores = score_states(sum_states([kept], num_labels), num_labels)
    scores = {measure: float(scores[measure]) for measure in IMAGE_MEASURES}
    if selector and data.is_single[index]:
        label_of_class, measures, mask = selector.measure_image(index, label)
        replaced = measure_or_refuse(mask, truth, data, index)
        return MeasuredLabel(kept, scores, replaced, (index, label_of_class, *measures))
    if selector and selector.split_cams:
        selector.load_split(index, label.shape)  # raises now instead of after the whole list
    return MeasuredLabel(kept, scores)


def measure_split(read: Callable, data: LabelData, selector, thresholds: np.ndarray, index: int) -> tuple:
    """Measure the label of an image with several classes after the selector."""
    truth = load_label(data.truth[index])
    label, *_ = selector.split(index, read(index, truth.shape), thresholds)
    return measure_or_refuse(label, truth, data, index)


def measure_or_refuse(label: np.ndarray, truth: np.ndarray, data: LabelData, index: int) -> tuple:
    """Result of `measure_label`. Raises `InputError`, naming the image, if the label does not fit its truth."""
    try:
        return measure_label(label, truth, len(data.names))
    except ValueError as error:
        raise InputError(f"{data.ids[index]} against {data.truth[index]}: {error}") from None


def score_selection(found: dict[int, MeasuredLabel], indices: list[int], replaced: set[int], data: LabelData) -> dict:
    """Scores of some images if the labels of `replaced` are replaced, and "replaced", the number of these."""
    states = [found[index].replaced if index in replaced else found[index].kept for index in indices]
    scores = name_scores(sum_states(states, len(data.names)), data.names)
    return {"replaced": len(replaced.intersection(indices)), **scores}


def summarize_classes(
    found: dict[int, MeasuredLabel], rows: list[tuple], replaced: set[int], chosen: dict, data: LabelData
) -> dict[str, dict]:
    """Statistics of the selector on the single-class images of each class, by its name."""
    statistics = {}
    for label in sorted({row[1] for row in rows}):
        name, indices = data.names[label], [row[0] for row in rows if row[1] == label]
        before, after = (
            score_selection(found, indices, labels_replaced, data) for labels_replaced in (set(), replaced)
        )
        statistics[name] = {
            "images": len(indices),
            "replaced": after["replaced"],
            "saliency": float(chosen["saliency"][label]),
            "threshold": float(chosen["values"][label]),
            "IoU_before": before["IoU"][name],
            "IoU_after": after["IoU"][name],
        }
    return statistics


def label_pictures(
    sources: dict[str, LabelSource], scored: dict[str, MethodScores], data: LabelData, photographs: Path, count: int
) -> Iterator[Picture]:
    """Yield the `count` images with the lowest mean mIoU over folders and rules, scores in percent.

    photographs: folder of the JPEG images.
    """
    methods = {name: scored[name].images for name in sources if name in scored}
    for index, scores in select_worst(methods, "mIoU", count).items():
        truth = load_label(data.truth[index])
        shown = load_photograph(photographs / f"{data.ids[index]}.jpg") | {"truth": paint_label(truth)}
        shown |= {name: paint_label(sources[name].read(index, truth.shape)) for name in scores}
        classes = tuple(data.names[label] for label in np.unique(truth) if 0 < label < len(data.names))
        percent = {name: {key: 100 * score for key, score in of_image.items()} for name, of_image in scores.items()}
        yield Picture(data.ids[index], "", classes, shown, percent)
