"""Initial weights of backbones: from the hub, a file of timm, or a checkpoint of this project or of Puzzle-CAM."""

import argparse
import os
from pathlib import Path

import timm
import torch
from huggingface_hub import HfApi, try_to_load_from_cache
from timm.models import clean_state_dict
from torch import Tensor, nn

from formats.errors import InputError, MissingInputError, first_line, shorten
from models.puzzle_cam_checkpoint import from_puzzle_cam
from utils.checkpoint import load_torch_file

HUB_FILES, HUB_TIMEOUT_S = ("model.safetensors", "pytorch_model.bin"), 10
TIMM_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model")  # in the order of timm
POSITION_TABLES = ("relative_position_bias_table", "pos_embed")


def check_hub_weights(full_name: str) -> None:
    """Raise `InputError` immediately if ImageNet weights cannot be downloaded; timm would retry for a minute."""
    hub_id = timm.get_pretrained_cfg_value(full_name, "hf_hub_id")
    if hub_id and not any(isinstance(try_to_load_from_cache(hub_id, file), str) for file in HUB_FILES):
        try:
            HfApi().model_info(hub_id, timeout=HUB_TIMEOUT_S)
        except Exception as error:  # of the network, the hub or its client
            found = f"ImageNet weights of {full_name} cannot be downloaded ({first_line(error)})"
            raise InputError(f"{found}: give their file by --pretrained PATH, or --pretrained none") from error


def read_weights(path) -> tuple[dict[str, Tensor], bool]:
    """Read the state dict in the file of `--pretrained PATH`.

    Returns (weights, True) for the backbone in a checkpoint of this project or of Puzzle-CAM, and (weights, False) for
    a file with timm's names: its content, or what it holds under one key, such as `model`. Raises `InputError` for any
    other file.
    """
    name = f"--pretrained {path}"
    if not Path(path).exists():
        raise MissingInputError(f"{name}: no such file (or use `imagenet` or `none`)")
    content = from_puzzle_cam(load_torch_file(path, [argparse.Namespace]), name)  # timm's trainings save their options
    content = content if isinstance(content, dict) else {}
    if {"stage", "network"} <= content.keys():
        prefix, weights = "backbone.", content["network"]
        return {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}, True
    dicts = {key: value for key, value in {"": content, **content}.items() if isinstance(value, dict)}
    states = {key: state for key, state in dicts.items() if state and all(map(torch.is_tensor, state.values()))}
    keys = [key for key in TIMM_KEYS if key in states][:1] or list(states)
    if len(keys) != 1:
        expected = f"expected one state dict, found {shorten(keys) or 'none'}"
        raise InputError(f"{name} cannot be read as weights: {expected}: save the state dict of the backbone alone")
    return states[keys[0]], False


def strip_prefix(weights: dict[str, Tensor], full_name: str, backbone_args: dict) -> dict[str, Tensor]:
    """Remove the prefix that all names share, such as `module.` or `backbone.`, if others are names of the network."""
    weights = clean_state_dict(weights)
    prefix = os.path.commonprefix(list(weights)).rpartition(".")[0]
    stripped = {name.removeprefix(f"{prefix}."): weight for name, weight in weights.items()}
    with torch.device("meta"):
        own = timm.create_model(full_name, **backbone_args).state_dict() if prefix else {}
    return stripped if own.keys() & stripped.keys() else weights


def check_all_loaded(network: nn.Module, weights: dict[str, Tensor], path) -> None:
    """Raise `InputError` if the file lacks weights of the network, which timm silently leaves at random values.

    timm renames weights and resizes position tables, so weights are compared by shape and sum, without those tables.
    """

    def fingerprint(weight: Tensor) -> tuple:
        return weight.shape, weight.detach().double().sum().item()

    in_file = {fingerprint(weight) for weight in weights.values()}
    own = {name: weight for name, weight in network.named_parameters() if not name.endswith(POSITION_TABLES)}
    missing = [name for name, weight in own.items() if fingerprint(weight) not in in_file]
    if missing:
        found = f"--pretrained {path} lacks {len(missing)} weights of the backbone, such as {missing[0]}"
        raise InputError(f"{found}: pass the weights file of the network that --backbone names")
