"""Labels produced by other methods: label maps, or class scores that are compared with a constant background score.

    <id>.png   palette, grey or RGB label map
    <id>.npy   pickled dict of scores, as PSA, IRN, Puzzle-CAM and CLIP-ES write it
    <id>.npz   the same as named arrays, or CAMs of this project

A dict holds either one map per class under the class number, or `keys` and the maps under one of `MAP_KEYS`. Class
numbers either count from 0, or are labels from 1 with 0 for the background: the classes of the image decide which.
"""

import io
import re
from pathlib import Path

import cv2
import numpy as np

from formats.cams import load_named_arrays
from formats.errors import InputError, MissingInputError, require_folder, shorten
from formats.images import check_size
from formats.labels import check_labels, load_label
from formats.pickles import load_object_array
from formats.voc_layout import names_in
from pseudo_labels.fusion_rules import strongest

LABEL_SUFFIXES = (".png", ".npy", ".npz")
MAP_KEYS = ("high_res", "hr_cam", "attn_highres", "rw", "cams", "cam")  # the finest resolution first
CLASS_KEYS = ("keys", "classes")
CLASS_NUMBER = re.compile(r"0|[1-9][0-9]{0,2}")


def find_baseline(folder, ids: list[str], suffixes=LABEL_SUFFIXES, allow_missing: bool = False) -> dict[str, Path]:
    """Find the file of each id in a folder; with `allow_missing`, one of them is enough.

    Raises `MissingInputError` if the folder or a file is missing, `InputError` if an id has two files.
    """
    folder = require_folder(folder)
    present = names_in(folder, ids)
    found = {name: [name + suffix for suffix in suffixes if name + suffix in present] for name in ids}
    missing = [name for name, names in found.items() if not names]
    if missing and not (allow_missing and len(missing) < len(ids)):
        lacking = f"{len(missing)} of {len(ids)} images ({shorten(missing)})"
        advice = f"add <id>{' or <id>'.join(suffixes)}, or remove their ids (evaluate.py: or --allow_missing)"
        raise MissingInputError(f"{folder} lacks the labels of {lacking}: {advice}")
    ambiguous = [names for names in found.values() if len(names) > 1]
    if ambiguous:
        raise InputError(f"{folder} holds {' and '.join(ambiguous[0])}: remove all but one")
    return {name: folder / names[0] for name, names in found.items() if names}


def load_baseline(path: Path, image_labels: np.ndarray, reference_path, shape_hw, bg_threshold: float) -> np.ndarray:
    """Load the label map of an image, uint8 [H, W].

    image_labels: bool [C], the classes of the image. bg_threshold: score of the background where the file has none.
    Raises `InputError` for unknown labels, scores of other classes, or a size other than `shape_hw`, which is that of
    the file `reference_path`.
    """
    if path.suffix == ".png":
        label = load_label(path)
        check_labels(label, len(image_labels) + 1, path)
    else:
        scores, labels = load_scores(path, np.flatnonzero(image_labels) + 1)
        if not labels.any():  # the image has no class
            return np.zeros(shape_hw, np.uint8)
        if scores.shape[1:] != tuple(shape_hw):  # maps at the stride of their network
            scores = np.stack([cv2.resize(score, shape_hw[::-1], interpolation=cv2.INTER_LINEAR) for score in scores])
        background = scores[0] if labels[0] == 0 else np.full(shape_hw, bg_threshold, np.float32)
        label = strongest(background, scores[labels > 0], labels[labels > 0])
    check_size(path, label.shape, reference_path, shape_hw)
    return label


def load_scores(path: Path, expected: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Load the scores of an image, float32 [K, h, w], and their labels, uint8 [K], ascending.

    `expected` holds the labels of the image, 1..C. Label 0 is the background, if the file has scores of it.
    """
    content = load_dict(path)
    numbers = [key for key in content if isinstance(key, (int, np.integer))]
    if len(numbers) == len(content):  # also an empty dict, of an image without classes
        keys, maps = numbers, [content[key] for key in numbers]
    else:
        names = [next((name for name in known if name in content), None) for known in (CLASS_KEYS, MAP_KEYS)]
        if None in names:
            expected_keys = f"one map per class number, or keys with {', '.join(MAP_KEYS)}"
            raise InputError(f"{path} holds {shorten(content)}: expected {expected_keys}")
        keys, maps = content[names[0]], content[names[1]]
    try:
        keys, scores = np.asarray(keys).reshape(-1), np.asarray(maps)
    except ValueError:
        raise InputError(f"{path} holds maps of several sizes: save all at one size") from None
    if len(keys) and scores.shape[:1] == (len(keys) - 1,) and keys[0] == 0:
        keys = keys[1:]  # Puzzle-CAM lists the background, but stores no map of it
    is_numeric = {keys.dtype.kind, scores.dtype.kind} <= set("iufb")
    if not is_numeric or scores.shape[:1] != keys.shape or (len(keys) and (scores.ndim != 3 or scores.size == 0)):
        found = f"{len(keys)} classes, but maps of {scores.dtype} {list(scores.shape)}"
        raise InputError(f"{path} holds {found}: save one map [H, W] of numbers per class")
    labels = convert_keys(keys, expected, path, may_count_from_0="classes" not in content)
    scores = scores[np.argsort(labels)].astype(np.float32)
    if not np.isfinite(scores).all():
        raise InputError(f"{path} holds numbers that are not finite: make it again")
    return scores, np.sort(labels).astype(np.uint8)


def convert_keys(keys: np.ndarray, expected: np.ndarray, path, may_count_from_0: bool) -> np.ndarray:
    """Convert class numbers to labels, given the labels that the image has; raise `InputError` for other classes."""
    found, wanted = sorted(keys.tolist()), expected.tolist()
    if found in (wanted, [0, *wanted]):
        return keys
    if may_count_from_0 and found == [label - 1 for label in wanted]:
        return keys + 1
    reason = f"holds scores of the classes {found}, but by its image labels the image has {wanted} (or these minus 1)"
    raise InputError(f"{path} {reason}: check --image_labels")


def load_dict(path: Path) -> dict:
    """Load a dict of arrays from a `.npz`, or from a `.npy` of a pickled dict; keys that are numbers become int."""
    if path.suffix == ".npz":
        arrays = load_named_arrays(path)
        return {int(name) if CLASS_NUMBER.fullmatch(name) else name: array for name, array in arrays.items()}
    content = load_object_array(path, TENSOR_FUNCTIONS)
    content = content.item() if content.shape == () else content
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}: save a dict of scores")
    return content


def array_from_tensor(storage: bytes, offset: int, shape, strides, *_) -> np.ndarray:
    """Rebuild a pickled tensor as an array, from the bytes of its storage and its place in it."""
    import torch  # most label files hold no tensors

    stored = torch.load(io.BytesIO(storage), map_location="cpu", weights_only=True)
    numbers = torch.empty(0, dtype=stored.dtype).set_(stored)
    return numbers.as_strided(tuple(shape), strides, offset).numpy()  # torch checks the bounds


TENSOR_FUNCTIONS = {
    "torch.storage._load_from_bytes": bytes,
    "torch._utils._rebuild_tensor": array_from_tensor,
    "torch._utils._rebuild_tensor_v2": array_from_tensor,
}
