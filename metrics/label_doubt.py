"""Doubt in label maps, to correct the worst first: how much a network that was trained on all of them contradicts each.

A network learns what the labels of a class have in common, and so contradicts labels that are wrong. No truth is read.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from formats.errors import InputError
from formats.images import GreyMap, check_size, image_size, load_aligned_grey, scale_maps
from formats.labels import check_labels, load_label, paint_label
from formats.voc_layout import files_of_ids, find_photographs
from metrics.page import Picture, load_photograph
from metrics.scored_files import FileReport, measure_files
from metrics.segmentation import ConfusionMatrix, score_counts
from metrics.tables import Table, four_digits

DOUBT_NOTES = [
    "doubt: 1 − IoU of a label and the network's prediction, mean over its classes; behind each class stands its own",
    "next: correct the first ones in a labelling tool, which reads the files of export.py labels, and use --corrected",
]


class LabelFiles(NamedTuple):
    """Files of one image; `saliency` is only shown."""

    photograph: Path
    label: Path
    prediction: Path
    saliency: GreyMap | None


class LabelDoubt(NamedTuple):
    """Doubt in a label, 0..1, and its parts: 1 − IoU of label and prediction, by name of class."""

    doubt: float
    classes: dict[str, float]


def find_label_files(voc_root, ids: list[str], labels, predictions, saliency_dir) -> dict[str, LabelFiles]:
    """Find the files of all ids in these folders, of which `saliency_dir` may be None.

    Raises `MissingInputError` for missing files.
    """
    found = [files_of_ids(folder, ids, ".png") for folder in (labels, predictions)]
    maps = scale_maps(files_of_ids(saliency_dir, ids, ".png")) if saliency_dir else [None] * len(ids)
    return dict(zip(ids, map(LabelFiles, find_photographs(voc_root, ids), *found, maps)))


def rank_labels(files: dict[str, LabelFiles], names: tuple[str, ...], workers: int) -> dict[str, LabelDoubt]:
    """Measure the doubt in each label, most doubtful first; `names` of the labels, background first.

    Raises `InputError` for files that are damaged, hold unknown labels, or differ in size from the photograph.
    """
    report = FileReport()
    found = dict(measure_files(partial(measure_image, names), files, report, workers, "doubt"))
    if report.unusable:
        raise InputError(next(iter(report.unusable.values())))
    return dict(sorted(found.items(), key=lambda item: -item[1].doubt))


def measure_image(names: tuple[str, ...], files: LabelFiles) -> LabelDoubt:
    return measure_doubt(*load_labels(files, len(names)), names)


def measure_doubt(label: np.ndarray, prediction: np.ndarray, names: tuple[str, ...]) -> LabelDoubt:
    """Measure the doubt in a label: the mean of 1 − IoU over the classes of the label, with the background.

    label, prediction: uint8 [H, W], 0..L-1 or 255. Pixels whose label is 255 are not counted; without others the doubt
    is 1. Classes that only the prediction holds lower the IoU of the classes at their pixels; parts of their own, which
    would be 1, make the order worse.
    """
    matrix = ConfusionMatrix(len(names))
    matrix.add(prediction, label)
    iou = score_counts(matrix.counts)["IoU"]
    classes = {names[value]: float(1 - iou[value]) for value in np.flatnonzero(matrix.counts.any(axis=1))}
    return LabelDoubt(float(np.mean(list(classes.values()))) if classes else 1.0, classes)


def load_labels(files: LabelFiles, num_labels: int) -> list[np.ndarray]:
    """Load label and prediction, uint8 [H, W]; see `rank_labels` for errors."""
    labels, size_hw = [], image_size(files.photograph)
    for path in (files.label, files.prediction):
        labels.append(load_label(path))
        check_labels(labels[-1], num_labels, path)
        check_size(path, labels[-1].shape, files.photograph, size_hw)
    return labels


def doubt_table(ranked: dict[str, LabelDoubt]) -> Table:
    """Return a table of all labels, with rows such as "a/img_1", "0.4200", "background 0.12, cat 0.72"."""
    rows = []
    for image_id, (doubt, classes) in ranked.items():
        rows.append([image_id, four_digits(doubt), ", ".join(f"{name} {part:.2f}" for name, part in classes.items())])
    return Table("doubt", ["id", "doubt", "classes"], rows)


def doubt_pictures(
    files: dict[str, LabelFiles], ranked: dict[str, LabelDoubt], names: tuple[str, ...], count: int
) -> Iterator[Picture]:
    """Yield photograph, saliency map, label and prediction of the first `count` images for the page."""
    for image_id, (doubt, of_classes) in list(ranked.items())[:count]:
        paths = files[image_id]
        label, prediction = load_labels(paths, len(names))
        shown = load_photograph(paths.photograph)
        if paths.saliency:
            shown["saliency"] = load_aligned_grey(paths.saliency, paths.photograph, label.shape)
        shown |= {"label": paint_label(label), "prediction": paint_label(prediction)}
        classes = tuple(name for name in names[1:] if name in of_classes)
        yield Picture(image_id, "", classes, shown, {"prediction": {"doubt": doubt}})
