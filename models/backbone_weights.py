"""Initial weights of backbones: from the hub, a file of timm, or a checkpoint of this project or of Puzzle-CAM."""

from pathlib import Path

import timm
from huggingface_hub import HfApi, try_to_load_from_cache
from timm.models import load_state_dict
from torch import Tensor, nn

from formats.errors import InputError, MissingInputError, first_line
from models.puzzle_cam_checkpoint import from_puzzle_cam
from utils.checkpoint import load_torch_file, load_weights

HUB_TIMEOUT_S = 10
BACKBONE_PREFIX = "backbone."  # of weights in a checkpoint of this project


def check_hub_weights(name: str, full_name: str) -> None:
    """Raise `InputError` immediately if ImageNet weights cannot be downloaded; timm would retry for about a minute."""
    config = timm.get_pretrained_cfg(full_name)
    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(
            f"--backbone {name}: timm has no ImageNet weights for it: give --pretrained PATH or --pretrained none"
        )
    hub_id = config.hf_hub_id
    files = ("model.safetensors", "pytorch_model.bin")
    if not hub_id or any(isinstance(try_to_load_from_cache(hub_id, file), str) for file in files):
        return
    try:
        HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # the hub fails in many ways, with the same advice for the user
        raise InputError(
            f"ImageNet weights of {name} ({hub_id}) cannot be downloaded ({first_line(error)}): give a weights file "
            "with --pretrained PATH, or start from random weights with --pretrained none"
        ) from error


def read_weights(path) -> tuple[dict[str, Tensor], bool]:
    """Read the state dict in the file of `--pretrained PATH`.

    Returns (weights, True) for the backbone in a checkpoint of this project or of Puzzle-CAM, by our names, and
    (weights, False) for a file of timm, by timm's names. Raises `InputError` for any other file.
    """
    name = f"--pretrained {path}"
    if not Path(path).is_file():
        raise MissingInputError(f"{name}: no such file (or use `imagenet` or `none`)")
    if Path(path).suffix != ".safetensors":
        content = from_puzzle_cam(load_torch_file(path), name)
        if isinstance(content, dict) and {"stage", "network"} <= content.keys():
            ours = {key: value for key, value in content["network"].items() if key.startswith(BACKBONE_PREFIX)}
            return {key.removeprefix(BACKBONE_PREFIX): value for key, value in ours.items()}, True
    try:
        return load_state_dict(str(path), weights_only=True), False
    except Exception as error:  # timm and safetensors fail in many ways on other files
        raise InputError(f"{name} cannot be read as weights: {first_line(error)}") from error


def check_all_loaded(network: nn.Module, weights: dict[str, Tensor], path) -> None:
    """Raise `InputError` if the file lacks weights of the network, which timm silently leaves at random values.

    timm renames weights while it loads them, so they are compared by shape and sum. Position tables are skipped,
    because timm resizes them.
    """
    in_file = {fingerprint(weight) for weight in weights.values()}
    resized = ("relative_position_bias_table", "pos_embed")
    own = {name: weight.detach() for name, weight in network.named_parameters() if not name.endswith(resized)}
    missing = [name for name, weight in own.items() if fingerprint(weight) not in in_file]
    if missing:
        raise InputError(
            f"--pretrained {path} lacks {len(missing)} weights of the backbone, such as {missing[0]}: "
            "pass the weights file of the network that --backbone names"
        )


def fingerprint(weight: Tensor) -> tuple:
    return tuple(weight.shape), weight.double().sum().item()


def load_own_backbone(backbone: nn.Module, state: dict, path) -> None:
    """Load the weights of a checkpoint from `read_weights`; raise `InputError` if they are of another backbone."""
    try:
        load_weights(backbone, state, f"--pretrained {path}")
    except InputError as error:
        raise InputError(f"{error}: use the --backbone and --backbone_args of its training") from error
