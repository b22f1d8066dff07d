"""Scores of the labels of one folder or fusion rule, before and after the selector, in memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.errors import InputError
from formats.images import image_size
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


class Selectors(NamedTuple):
    """An `ImageSelector`, and an `EvidenceSelector` that selects in its place; None if off."""

    threshold: object
    evidence: object


@dataclass(frozen=True)
class MeasuredLabel:
    """Result for one image: `measure_label` of its label and of its mask, and the IMAGE_MEASURES of its label.

    `mask_state` and `measurement`, a `Measurement` of pseudo_labels/selector.py, are None without a selector and for
    images that do not have exactly one class.
    """

    label_state: tuple
    scores: dict[str, float]
    mask_state: tuple | None = None
    measurement: tuple | None = None


def score_labels(
    name: str,
    source: LabelSource,
    data: LabelData,
    selectors: Selectors,
    sweep: Sequence[float],
    num_replicates: int,
    workers: int,
) -> tuple[dict, dict[str, MethodScores]]:
    """Score the labels of a source, and fill `source.report`; both results are empty if no image can be scored.

    A selector adds the scores of the "selected" labels, statistics of the "selector" and the "sweep" over these
    thresholds. Returns the scores for the JSON file, and a `MethodScores` of the labels before and, as "<name> +
    selector", after the selector.
    """
    tasks = {data.ids[index]: index for index in source.inputs}
    measure = partial(measure_image, source.read, data, selectors)
    found = {tasks[key]: label for key, label in measure_files(measure, tasks, source.report, workers, name)}
    if not found:
        return {}, {}
    images = {index: label.scores for index, label in found.items()}
    settings = images, data.names, data.is_single, num_replicates
    scores, before = score_images({index: label.label_state for index, label in found.items()}, *settings)
    if not selectors.threshold:
        return scores, {name: before}
    selected, statistics = select_labels(data, found, selectors.threshold, sweep)
    if selectors.evidence:
        selected, trust = settle_labels(name, source, data, found, selectors.evidence, workers)
        statistics["selector"] = {"trust": trust, "classes": {}}
        single = {index for index, label in found.items() if label.measurement}
        if statistics["sweep"]:
            # labels whose confusion with the truth changed
            changed = sum(not all(map(np.array_equal, selected[index], found[index].label_state)) for index in single)
            quality = name_scores(sum_states([selected[index] for index in single], len(data.names)), data.names)
            statistics["sweep"].append({"threshold": "evidence", "replaced": changed, **quality})
    scores["selected"], after = score_images(selected, *settings)
    return scores | statistics, {name: before, f"{name} + selector": after}


def select_labels(data: LabelData, found: dict, selector, sweep: Sequence[float]) -> tuple[dict[int, tuple], dict]:
    """`measure_label` of all labels after the selector by image, and "selector" and "sweep" of the scores.

    found: image index → `MeasuredLabel`.
    """
    single = [label.measurement for label in found.values() if label.measurement]
    chosen = selector.threshold_rule.compute(single)
    replaced = {image.index for image in single if image.overlap > chosen["values"][image.label_of_class]}
    selected = {index: label.mask_state if index in replaced else label.label_state for index, label in found.items()}
    sweep_rows = []
    if single:
        for threshold in sweep:
            above = {image.index for image in single if image.overlap > threshold}
            sweep_rows.append({"threshold": threshold, **score_selection(found, single, above, data)})
    classes = summarize_classes(found, single, replaced, chosen, data)
    return selected, {"selector": chosen["numbers"] | {"classes": classes}, "sweep": sweep_rows}


def settle_labels(
    name: str, source: LabelSource, data: LabelData, found: dict, selector, workers: int
) -> tuple[dict[int, tuple], float]:
    """`measure_label` of all labels after an `EvidenceSelector` by image, and its trust in the labels."""

    def work(function: Callable, indices: list[int], title: str) -> dict[int, tuple]:
        report, tasks = FileReport(), {data.ids[index]: index for index in indices}
        results = {tasks[key]: result for key, result in measure_files(function, tasks, report, workers, title)}
        if report.unusable:
            raise InputError(next(iter(report.unusable.values())))
        return results

    sample = selector.sample(found)
    drawn = work(partial(draw_pixels, source.read, data, selector), sample, f"{name}, evidence")
    evidence = selector.learn(list(drawn.values()))
    settled = work(partial(measure_settled, source.read, data, selector, evidence), list(found), f"{name}, selection")
    return settled, float(evidence.trust)


def draw_pixels(read: Callable, data: LabelData, selector, index: int) -> tuple:
    return selector.draw(index, read(index, image_size(data.truth[index])))


def measure_settled(read: Callable, data: LabelData, selector, evidence, index: int) -> tuple:
    """Measure the label of an image after an `EvidenceSelector`."""
    truth = load_label(data.truth[index])
    return measure_or_refuse(selector.select_image(index, read(index, truth.shape), evidence), truth, data, index)


def measure_image(read: Callable, data: LabelData, selectors: Selectors, index: int) -> MeasuredLabel:
    """Measure the label of one image. Raises `InputError` if a file of the image cannot be used."""
    truth, num_labels = load_label(data.truth[index]), len(data.names)
    label = read(index, truth.shape)
    label_state = measure_or_refuse(label, truth, data, index)
    scores = score_states(sum_states([label_state], num_labels), num_labels)
    scores = {measure: float(scores[measure]) for measure in IMAGE_MEASURES}
    if selectors.evidence:  # a broken file is found now, not after the whole list
        selectors.evidence.load_inputs(index, label.shape)
    if selectors.threshold and data.is_single[index]:
        measurement, mask = selectors.threshold.measure_image(index, label)
        return MeasuredLabel(label_state, scores, measure_or_refuse(mask, truth, data, index), measurement)
    return MeasuredLabel(label_state, scores)


def measure_or_refuse(label: np.ndarray, truth: np.ndarray, data: LabelData, index: int) -> tuple:
    """Result of `measure_label`. Raises `InputError`, naming the image, if the label does not fit its truth."""
    try:
        return measure_label(label, truth, len(data.names))
    except ValueError as error:
        raise InputError(f"{data.ids[index]} against {data.truth[index]}: {error}") from None


def score_selection(found: dict[int, MeasuredLabel], images: list, replaced: set[int], data: LabelData) -> dict:
    """Scores of some images if the labels of `replaced` are replaced, and "replaced", the number of these."""
    masks = [found[image.index].mask_state for image in images if image.index in replaced]
    labels = [found[image.index].label_state for image in images if image.index not in replaced]
    return {"replaced": len(masks), **name_scores(sum_states([*masks, *labels], len(data.names)), data.names)}


def summarize_classes(
    found: dict[int, MeasuredLabel], single: list, replaced: set[int], chosen: dict, data: LabelData
) -> dict[str, dict]:
    """Statistics of the selector on the single-class images of each class, by its name."""
    statistics = {}
    for label_of_class in sorted({image.label_of_class for image in single}):
        name, images = data.names[label_of_class], [image for image in single if image.label_of_class == label_of_class]
        before, after = (score_selection(found, images, indices, data) for indices in (set(), replaced))
        statistics[name] = {
            "images": len(images),
            "replaced": after["replaced"],
            "saliency": float(chosen["saliency"][label_of_class]),
            "threshold": float(chosen["values"][label_of_class]),
            "IoU_before": before["IoU"][name],
            "IoU_after": after["IoU"][name],
        }
    return statistics


def label_pictures(
    sources: dict[str, LabelSource], scored: dict[str, MethodScores], data: LabelData, jpeg_folder: Path, count: int
) -> Iterator[Picture]:
    """Yield the `count` images with the lowest mean mIoU over folders and rules, scores in percent."""
    methods = {name: scored[name].images for name in sources if name in scored}
    for index, scores in select_worst(methods, "mIoU", count).items():
        truth = load_label(data.truth[index])
        shown = load_photograph(jpeg_folder / f"{data.ids[index]}.jpg") | {"truth": paint_label(truth)}
        shown |= {name: paint_label(sources[name].read(index, truth.shape)) for name in scores}
        classes = tuple(data.names[label] for label in np.unique(truth) if 0 < label < len(data.names))
        percent = {name: {key: 100 * score for key, score in of_image.items()} for name, of_image in scores.items()}
        yield Picture(data.ids[index], "", classes, shown, percent)
