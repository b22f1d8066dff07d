"""Checkpoints of Puzzle-CAM's DeepLabV3+ on ResNeSt (Jo and Yu, ICIP 2021), as checkpoints of this project.

Such a file is a state dict. It holds the backbone under `model.`, the same tensors again under `stage1.` … `stage5.`,
and `aspp.` and `decoder.`. All names may begin with `module.`.
"""

from torch import Tensor

from formats.errors import InputError
from formats.voc_layout import VOC_CLASSES

RESNESTS = {  # by the number of blocks in layer1 … layer4
    (3, 4, 6, 3): "resnest50",
    (3, 4, 23, 3): "resnest101",
    (3, 24, 36, 3): "resnest200",
    (3, 30, 48, 8): "resnest269",
}
CLASSIFIER, ASPP = "decoder.classifier.8.weight", "aspp.conv1.weight"  # [L, width, 1, 1], [width, 5 width, 1, 1]


def from_puzzle_cam(content, path) -> dict:
    """Convert the content of such a file to a segmentation checkpoint; return any other content unchanged.

    Raises `InputError` for an unknown backbone.
    """
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        return content
    state = {key.removeprefix("module."): value for key, value in content.items()}
    if not {CLASSIFIER, ASPP, "model.bn1.weight"} <= state.keys():
        return content
    weights = {key: value for key, value in state.items() if not key.startswith("stage")}
    weights = {key.replace("model.", "backbone.network.", 1): value for key, value in weights.items()}
    return {"stage": "segmentation", "settings": infer_settings(state, path), "network": weights, "training": {}}


def infer_settings(state: dict[str, Tensor], path) -> dict:
    """Infer the settings of `build_deeplabv3plus` from the weights."""
    layers = [f"model.layer{number}." for number in range(1, 5)]
    blocks = tuple(len({key.split(".")[2] for key in state if key.startswith(layer)}) for layer in layers)
    if blocks not in RESNESTS:
        known = ", ".join(f"{name} {counts}" for counts, name in RESNESTS.items())
        raise InputError(f"{path}: unknown backbone with {blocks} blocks; supported are ResNeSts: {known}")
    num_classes = len(state[CLASSIFIER]) - 1
    names = VOC_CLASSES if num_classes == len(VOC_CLASSES) else [f"class{index + 1}" for index in range(num_classes)]
    return {
        "backbone": RESNESTS[blocks],
        "backbone_args": {},
        "pixel_mean": None,
        "pixel_std": None,
        "classes": list(names),
        "head_width": len(state[ASPP]),
        "use_gn": "aspp.bn1.running_mean" not in state,
        "mode": "fix",
        "output_stride": 16,
    }
