"""Load the inputs of fusion rules from files."""

from functools import partial
from pathlib import Path

import numpy as np

from formats.cams import load_cams
from formats.errors import InputError
from formats.images import check_size, image_size, load_aligned_grey, load_image
from pseudo_labels.fusion_rules import fuse, list_inputs


def fuse_files(
    rule: str, parameters: dict, crf_iterations: int, image_labels, image_path, cam_path, second_cam_path, saliency_map
) -> np.ndarray:
    """Make the label map, uint8 [H, W], of an image by a fusion rule and, with `crf_iterations`, the CRF.

    Files: see `load_inputs`.
    """
    inputs = load_inputs(list_inputs(rule), image_labels, image_path, cam_path, second_cam_path, saliency_map)
    label = fuse(rule, inputs, parameters)
    return label_crf(load_image(image_path))(label, iterations=crf_iterations) if crf_iterations else label


def load_inputs(wanted: list[str], image_labels, image_path, cam_path, second_cam_path, saliency_map) -> dict:
    """Load the inputs `wanted` by a rule (see fusion_rules.py), and always `cams` and `classes`; return a dict by name.

    image_labels: bool [C]. saliency_map: a `GreyMap`, or None. Raises `InputError` for maps of other classes and for
    files of different sizes.
    """
    cams, classes = load_checked_cams(cam_path, image_labels)
    shape_hw, inputs = cams.shape[1:], {"cams": cams, "classes": classes}
    check_size(cam_path, shape_hw, image_path, image_size(image_path))
    if "saliency" in wanted:
        inputs["saliency"] = load_aligned_grey(saliency_map, cam_path, shape_hw).astype(np.float32) / 255
    if "second_cams" in wanted:
        inputs["second_cams"], _ = load_checked_cams(second_cam_path, image_labels)
        check_size(second_cam_path, inputs["second_cams"].shape[1:], cam_path, shape_hw)
    for name in CRFS.keys() & set(wanted):
        inputs[name] = CRFS[name](load_image(image_path))
    return inputs


def load_checked_cams(path: Path, image_labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Load the maps float32 [K, H, W] and labels uint8 [K] of an image. Raises `InputError` if they are not those of
    its classes `image_labels`, bool [C].
    """
    cams, labels = load_cams(path)
    expected = np.flatnonzero(image_labels) + 1
    if labels.tolist() != expected.tolist():
        found = f"holds maps of the labels {labels.tolist()}, but the image has {expected.tolist()}"
        raise InputError(f"{path} {found}: make the maps again, or check --image_labels")
    return cams, labels


def score_crf(image: np.ndarray):
    """Build the dense CRF of an image as a function of scores: float32 [L, H, W] → posteriors float32 [L, H, W]."""
    # imported here because torch takes seconds to import, and most rules do not need it
    import torch

    from pseudo_labels.dense_crf import PROBABILITIES, DenseCrf, refine_probs

    crf = DenseCrf(image, PROBABILITIES)
    return lambda scores: refine_probs(crf, torch.from_numpy(scores)).numpy()


def label_crf(image: np.ndarray):
    """Build the dense CRF of an image as a function of label maps: uint8 [H, W] → uint8 [H, W]."""
    from pseudo_labels.dense_crf import LABELS, DenseCrf, refine_label

    return partial(refine_label, DenseCrf(image, LABELS))


CRFS = {"crf": score_crf, "label_crf": label_crf}
