"""Initial weights of backbones: from the hub, from a file of timm's, or from a checkpoint of this project or of
Puzzle-CAM's segmentation network."""

from functools import partial
from pathlib import Path

import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from timm.models import load_state_dict
from torch import Tensor, nn

from formats.errors import InputError, MissingInputError, first_line
from models.puzzle_cam_checkpoint import from_puzzle_cam
from utils.checkpoint_content import check_content, check_stored, check_weights

HUB_TIMEOUT_S = 10
PREFIX = "backbone."  # of its weights in a checkpoint of this project


def check_hub_weights(name: str, full_name: str) -> None:
    """Raises `InputError` at once, not after a minute of retries, when ImageNet weights cannot be had."""
    config = timm.get_pretrained_cfg(full_name)
    if config is None or not (config.hf_hub_id or config.url):
        raise InputError(
            f"--backbone {name}: timm has no ImageNet weights for it: give --pretrained PATH or --pretrained none"
        )
    hub_id = config.hf_hub_id
    if not hub_id or any(
        isinstance(try_to_load_from_cache(hub_id, file), str) for file in ("model.safetensors", "pytorch_model.bin")
    ):
        return
    try:
        HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # whatever the reason, the answer for the user is the same
        raise InputError(
            f"ImageNet weights of {name} ({hub_id}) cannot be downloaded ({first_line(error)}): give a file of "
            "them with --pretrained PATH, or start from random weights with --pretrained none"
        ) from error


def read_weights(path) -> tuple[dict[str, Tensor], bool]:
    """The weights of `--pretrained PATH` by their names, and whether these are ours: those of the backbone in a
    checkpoint of this project or of Puzzle-CAM. Otherwise they are what timm will find in the file."""
    name = f"--pretrained {path}"
    if not Path(path).is_file():
        raise MissingInputError(f"{name}: no such file (or use `imagenet` or `none`)")
    if Path(path).suffix != ".safetensors":
        content = read_strangers_file(partial(torch.load, weights_only=True, map_location="cpu"), path)
        if not isinstance(content, dict):
            raise InputError(f"{name} holds a {type(content).__name__}, not weights by name")
        content = from_puzzle_cam(content, name)
        if {"stage", "network"} <= content.keys():
            check_content(content, name)
            ours = {key: value for key, value in content["network"].items() if key.startswith(PREFIX)}
            return {key.removeprefix(PREFIX): value for key, value in ours.items()}, True
    weights = read_strangers_file(partial(load_state_dict, weights_only=True), path)
    check_weights(weights, name)
    return weights, False


def read_strangers_file(read, path):
    try:
        check_stored(path)
        return read(str(path))
    except Exception as error:  # a damaged file fails in many ways
        raise InputError(f"--pretrained {path} cannot be read as weights: {first_line(error)}") from error


def check_all_loaded(network: nn.Module, weights: dict[str, Tensor], path) -> None:
    """Raises `InputError` if some weight of the network is none of those in the file: timm starts these at random.

    Weights are looked up by shape and sum, since timm renames them while loading. Position tables are passed over:
    timm resizes them to the size of the windows.
    """
    in_file = {fingerprint(weight) for weight in weights.values()}
    resized = ("relative_position_bias_table", "pos_embed")
    missing = [
        name
        for name, weight in network.named_parameters()
        if not name.endswith(resized) and fingerprint(weight.detach()) not in in_file
    ]
    if missing:
        raise InputError(
            f"--pretrained {path} lacks {len(missing)} weights of the backbone, {missing[0]} among them: "
            "are they of the same network?"
        )


def fingerprint(weight: Tensor) -> tuple:
    return tuple(weight.shape), weight.double().sum().item()


def load_own_backbone(backbone: nn.Module, state: dict, path) -> None:
    """Loads the state of `read_weights`; raises `InputError` unless every weight fits."""
    own = backbone.state_dict()
    differing = [
        key
        for key in own.keys() | state.keys()
        if key not in own or key not in state or own[key].shape != state[key].shape
    ]
    if differing:
        raise InputError(
            f"--pretrained {path} holds another backbone: {len(differing)} weights differ, such as "
            f"{min(differing)}; use the --backbone and --backbone_args it was trained with"
        )
    backbone.load_state_dict(state)
