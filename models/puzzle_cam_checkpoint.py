"""Checkpoints of Puzzle-CAM's DeepLabV3+ on ResNeSt (Jo and Yu, ICIP 2021), as checkpoints of this project.

Such a file is a state dict. It holds the backbone under `model.`, the same tensors again under `stage1.` … `stage5.`,
and `aspp.` and `decoder.`. All names may begin with `module.`.
"""

import torch
from torch import Tensor

from formats.errors import InputError
from formats.voc_layout import VOC_CLASSES

RESNESTS = {  # by the number of blocks in layer1 … layer4
    (3, 4, 6, 3): "resnest50",
    (3, 4, 23, 3): "resnest101",
    (3, 24, 36, 3): "resnest200",
    (3, 30, 48, 8): "resnest269",
}
COPY_PREFIXES = {"stage1.0.": "model.conv1.", "stage1.1.": "model.bn1."} | {
    f"stage{number + 1}.0.": f"model.layer{number}." for number in range(1, 5)
}
OUR_PREFIXES = {"model.": "backbone.network.", "aspp.": "aspp.", "decoder.": "decoder."}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def from_puzzle_cam(content, path) -> dict:
    """Convert the content of such a file to a segmentation checkpoint; return any other content unchanged."""
    if not is_puzzle_cam(content):
        return content
    settings, weights = read_puzzle_cam(content, path)
    return {"stage": "segmentation", "settings": settings, "network": weights, "training": {}}


def is_puzzle_cam(content) -> bool:
    """Return whether the content of a file is a state dict with the names of Puzzle-CAM's segmentation network."""
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return False
    return {"model", "aspp", "decoder"} <= {key.removeprefix("module.").split(".")[0] for key in content}


def read_puzzle_cam(state: dict[str, Tensor], path) -> tuple[dict, dict[str, Tensor]]:
    """Return the settings of `build_deeplabv3plus` that follow from the weights, and the weights by our names.

    Raises `InputError` for an unknown name, a copy that differs from its original, or an unknown backbone.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    weights = {}
    for key, value in state.items():
        if original := replace_prefix(key, COPY_PREFIXES):
            if original not in state or not torch.equal(state[original], value):
                raise InputError(f"{path}: {key} differs from {original}, of which it is a copy: the file is damaged")
        elif our_name := replace_prefix(key, OUR_PREFIXES):
            weights[our_name] = value
        else:
            raise InputError(f"{path}: {key} is not a weight of Puzzle-CAM's DeepLabV3+, as the others are")
    return infer_settings(state, path), weights


def replace_prefix(key: str, prefixes: dict[str, str]) -> str | None:
    """Replace the prefix of a key; None if it has none of `prefixes`."""
    return next((new + key.removeprefix(old) for old, new in prefixes.items() if key.startswith(old)), None)


def infer_settings(state: dict[str, Tensor], path) -> dict:
    for key in ("decoder.classifier.8.weight", "aspp.conv1.weight"):
        if key not in state:
            raise InputError(f"{path} lacks {key} of Puzzle-CAM's DeepLabV3+")
    num_classes = len(state["decoder.classifier.8.weight"]) - 1
    names = VOC_CLASSES if num_classes == len(VOC_CLASSES) else [f"class{index + 1}" for index in range(num_classes)]
    return {
        "backbone": infer_resnest(state, path),
        "backbone_args": {},
        "pixel_mean": list(IMAGENET_MEAN),
        "pixel_std": list(IMAGENET_STD),
        "classes": list(names),
        "head_width": len(state["aspp.conv1.weight"]),
        "use_gn": "aspp.bn1.running_mean" not in state,
        "mode": "fix",
        "output_stride": 16,
    }


def infer_resnest(state: dict[str, Tensor], path) -> str:
    """Infer the README name of the ResNeSt from its weights."""
    layers = [f"model.layer{number}." for number in range(1, 5)]
    blocks = tuple(len({key.split(".")[2] for key in state if key.startswith(layer)}) for layer in layers)
    has_split_attention = any(".conv2.fc1." in key for key in state)
    if blocks in RESNESTS and has_split_attention:
        return RESNESTS[blocks]
    known = ", ".join(f"{name} {counts}" for counts, name in RESNESTS.items())
    attention = "with" if has_split_attention else "without"
    raise InputError(
        f"{path}: unknown backbone with {blocks} blocks {attention} split attention; supported are ResNeSts: {known}"
    )
