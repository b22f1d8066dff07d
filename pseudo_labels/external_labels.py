"""Labels by any other method: label maps, or scores from which a constant background makes them.

    <id>.png   palette, grey or RGB label map
    <id>.npy   a pickled dict of scores, as PSA, IRN and Puzzle-CAM write it
    <id>.npz   the same as named arrays, or maps of this project

A dict holds either one map per class under its number, or `keys` and the maps under one of the names below. Numbers
are classes from 0, or labels with 0 for the background: the image's own classes tell which. The maps of the first
kind become labels from 1.
"""

import re
from pathlib import Path

import cv2
import numpy as np

from formats.cams import load_named_arrays
from formats.errors import InputError, MissingInputError, existing_folder, shorten
from formats.images import check_size
from formats.labels import check_labels, load_label
from formats.pickles import load_object_array
from pseudo_labels.fusion_rules import strongest

SUFFIXES = (".png", ".npy", ".npz")
NAMES_OF_MAPS = ("high_res", "hr_cam", "rw", "cams", "cam")  # in order of resolution
NAMES_OF_CLASSES = ("keys", "classes")
NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")  # each under one name alone


def find_baseline(folder, ids: list[str]) -> list[Path]:
    """The file of every id in a folder, by one listing of it; a missing one is a `MissingInputError`."""
    folder = existing_folder(folder)
    there = {path.name for path in folder.iterdir()}
    found = [[name + suffix for suffix in SUFFIXES if name + suffix in there] for name in ids]
    missing = [name for name, names in zip(ids, found) if not names]
    if missing:
        raise MissingInputError(
            f"{folder} lacks the labels of {len(missing)} of {len(ids)} images ({shorten(missing)}): expected "
            f"<id>{', <id>'.join(SUFFIXES)}"
        )
    twice = [names for names in found if len(names) > 1]
    if twice:
        raise InputError(f"{folder} holds {' and '.join(twice[0])}: remove all but one")
    return [folder / names[0] for names in found]


def load_baseline(path: Path, image_labels: np.ndarray, other, shape_hw, bg_threshold: float) -> np.ndarray:
    """The label map, uint8 [H, W], of an image with the classes `image_labels` (bool [C]) and the size `shape_hw`, that
    of another file of it, `other`.

    Raises `InputError` for another size, or a label that does not exist.
    """
    if path.suffix == ".png":
        label = load_label(path)
        check_labels(label, len(image_labels) + 1, path)
    else:
        scores, labels = load_scores(path, np.flatnonzero(image_labels) + 1)
        if not labels.any():  # no class, with or without a map of the background
            return np.zeros(shape_hw, np.uint8)
        if scores.shape[1:] != tuple(shape_hw):  # maps at the stride of their network
            scores = np.stack([cv2.resize(score, shape_hw[::-1], interpolation=cv2.INTER_LINEAR) for score in scores])
        background = scores[0] if labels[0] == 0 else np.full(shape_hw, bg_threshold, np.float32)
        label = strongest(background, scores[labels > 0], labels[labels > 0])
    check_size(path, label.shape, other, shape_hw)
    return label


def load_scores(path: Path, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores float32 [K, h, w] of an image with the labels `expected` (1..C), and whose they are, uint8 [K], rising."""
    content = load_dict(path)
    numbers = [key for key in content if isinstance(key, (int, np.integer))]
    if len(numbers) == len(content):  # none for an image without classes
        keys, maps = numbers, [content[key] for key in numbers]
    else:
        names = [next((name for name in known if name in content), None) for known in (NAMES_OF_CLASSES, NAMES_OF_MAPS)]
        if None in names:
            raise InputError(
                f"{path} holds {shorten(content)}: expected one map per class number, or keys with "
                f"{', '.join(NAMES_OF_MAPS)}"
            )
        keys, maps = content[names[0]], content[names[1]]
    try:
        keys, scores = np.asarray(keys).reshape(-1), np.asarray(maps)
    except ValueError:
        raise InputError(f"{path} holds maps of several sizes") from None
    if len(keys) and scores.shape[:1] == (len(keys) - 1,) and keys[0] == 0:
        keys = keys[1:]  # Puzzle-CAM names the background, but stores no map of it
    if (
        {keys.dtype.kind, scores.dtype.kind} - set("iufb")
        or scores.shape[:1] != keys.shape
        or (len(keys) and (scores.ndim != 3 or scores.size == 0))
    ):
        raise InputError(f"{path} holds {len(keys)} classes, but maps of {scores.dtype} {list(scores.shape)}")
    labels = labels_of_keys(keys, expected, path, may_count_from_0="classes" not in content)
    scores = scores[np.argsort(labels)].astype(np.float32)
    if not np.isfinite(scores).all():
        raise InputError(f"{path} holds numbers that are not finite: make it again")
    return scores, np.sort(labels).astype(np.uint8)


def labels_of_keys(keys: np.ndarray, expected: np.ndarray, path, may_count_from_0: bool) -> np.ndarray:
    """Labels from numbers that are labels, with or without the background, or classes that count from 0."""
    given, wanted = sorted(keys.tolist()), expected.tolist()
    if given in (wanted, [0, *wanted]):
        return keys
    if may_count_from_0 and given == [label - 1 for label in wanted]:
        return keys + 1
    raise InputError(
        f"{path} holds scores of the classes {given}, but the image has the labels {wanted} "
        "(or these less one): do its image labels belong to it?"
    )


def load_dict(path: Path) -> dict:
    """Keys and arrays of a `.npz`, whose numbers are texts, or of a `.npy` that holds a pickled dict."""
    if path.suffix == ".npz":
        arrays = load_named_arrays(path)
        return {int(name) if NUMBER.fullmatch(name) else name: array for name, array in arrays.items()}
    content = load_object_array(path)
    content = content.item() if content.shape == () else content
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a dict of scores")
    return content
