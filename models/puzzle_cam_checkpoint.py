"""Checkpoints of Puzzle-CAM's DeepLabV3+ on ResNeSt (Jo and Yu, ICIP 2021), read as if they were of this project.

Such a file is a plain state dict. It holds the backbone under `model.`, the same tensors again under `stage1.` …
`stage5.`, then `aspp.` and `decoder.`, all of them perhaps behind `module.`.
"""

import torch
from torch import Tensor

from formats.errors import InputError
from formats.voc_layout import VOC_CLASSES
from utils.checkpoint_content import check_weights

RESNESTS = {  # by the number of blocks in layer1 … layer4
    (3, 4, 6, 3): "resnest50",
    (3, 4, 23, 3): "resnest101",
    (3, 24, 36, 3): "resnest200",
    (3, 30, 48, 8): "resnest269",
}
COPIES = {"stage1.0.": "model.conv1.", "stage1.1.": "model.bn1."} | {
    f"stage{number + 1}.0.": f"model.layer{number}." for number in range(1, 5)
}
OUR_NAMES = {"model.": "backbone.network.", "aspp.": "aspp.", "decoder.": "decoder."}
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def from_puzzle_cam(content, path) -> dict:
    """A segmentation checkpoint of this project from the content of such a file; any other content as it is."""
    if not is_puzzle_cam(content):
        return content
    settings, weights = read_puzzle_cam(content, path)
    return {"stage": "segmentation", "settings": settings, "network": weights, "training": {}}


def is_puzzle_cam(content) -> bool:
    """Whether a file's content is a state dict with the names of Puzzle-CAM's segmentation network."""
    if not isinstance(content, dict):
        return False
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        return False
    return {"model", "aspp", "decoder"} <= {key.removeprefix("module.").split(".")[0] for key in content}


def read_puzzle_cam(state: dict[str, Tensor], path) -> tuple[dict, dict[str, Tensor]]:
    """The settings of `build_deeplabv3plus` that follow from the weights, and the weights by our names.

    Raises `InputError` for a name that has no place in the network, for a copy that differs from its original, and
    for a backbone that is none of the known ones.
    """
    check_weights(state, path)  # before they are compared, number by number
    state = {key.removeprefix("module."): value for key, value in state.items()}
    weights = {}
    for key, value in state.items():
        if original := renamed(key, COPIES):
            if original not in state or not torch.equal(state[original], value):
                raise InputError(f"{path}: {key} differs from {original}, whose copy it is: the file is damaged")
        elif ours := renamed(key, OUR_NAMES):
            weights[ours] = value
        else:
            raise InputError(f"{path}: {key} has no place in Puzzle-CAM's DeepLabV3+, whose names the others are")
    return settings_of(state, path), weights


def renamed(key: str, prefixes: dict[str, str]) -> str | None:
    """The key with its prefix replaced; None if it has none of these."""
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    return None


def settings_of(state: dict[str, Tensor], path) -> dict:
    num_classes = num_outputs(state, "decoder.classifier.8.weight", path) - 1
    names = VOC_CLASSES if num_classes == len(VOC_CLASSES) else [f"class{index + 1}" for index in range(num_classes)]
    return {
        "backbone": resnest_of(state, path),
        "backbone_args": {},
        "pixel_mean": list(IMAGENET_MEAN),
        "pixel_std": list(IMAGENET_STD),
        "classes": list(names),
        "head_width": num_outputs(state, "aspp.conv1.weight", path),
        "use_gn": "aspp.bn1.running_mean" not in state,
        "mode": "fix",
        "output_stride": 16,
    }


def num_outputs(state: dict[str, Tensor], key: str, path) -> int:
    if key not in state or not (state[key].ndim == 4 and state[key].numel()):
        raise InputError(f"{path} lacks the convolution {key} of Puzzle-CAM's DeepLabV3+, whose other names it has")
    return len(state[key])


def resnest_of(state: dict[str, Tensor], path) -> str:
    """The README name of the ResNeSt whose weights these are."""
    layers = [f"model.layer{number}." for number in range(1, 5)]
    blocks = tuple(len({key.split(".")[2] for key in state if key.startswith(layer)}) for layer in layers)
    has_split_attention = any(".conv2.fc1." in key for key in state)
    if blocks in RESNESTS and has_split_attention:
        return RESNESTS[blocks]
    known = ", ".join(f"{name} {counts}" for counts, name in RESNESTS.items())
    attention = "with" if has_split_attention else "without"
    raise InputError(f"{path}: a backbone of {blocks} blocks {attention} split attention; known are {known}")
