"""Checkpoints: plain types and tensors, written atomically, read without executing pickles.

stage      "saliency", "classification", "affinity" or "segmentation"
settings   how to build the network again, so that predict.py needs nothing but the file
network    its weights
training   what --resume needs besides: see utils/training_state.py
"""

import hashlib
from pathlib import Path

import torch
from torch import nn

from atomic_files import atomic_path
from input_errors import InputError, MissingInputError, first_line


def save_checkpoint(path, stage: str, settings: dict, network: nn.Module, training: dict) -> None:
    content = {"stage": stage, "settings": settings, "network": network.state_dict(), "training": training}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # what `file` says, such as that the disk is full
                raise error.__context__ from None
            raise


def load_checkpoint(path, convert=None) -> dict:
    """Reads what `save_checkpoint` wrote, onto the CPU. Raises `InputError` for any other file.

    `convert(content, path)` makes such a checkpoint of a file in another format, and gives back any other content.
    """
    if not Path(path).is_file():
        raise MissingInputError(f"checkpoint {path} does not exist")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none fails in many ways
        raise InputError(f"{path} cannot be read as a checkpoint: {first_line(error)}") from error
    if convert:
        content = convert(content, path)
    absent = (
        [key for key in ("stage", "settings", "network", "training") if key not in content]
        if isinstance(content, dict)
        else ["stage"]
    )
    if absent:
        raise InputError(f"{path} is no checkpoint of this project: it lacks {', '.join(absent)}")
    return content


def file_digest(path) -> str:
    """SHA-256 of a checkpoint file: what tells results of one training from those of another."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rebuild(builder, checkpoint: dict, path) -> nn.Module:
    """The network of a checkpoint, made by `builder(settings)`, with its weights. `path` is for the error message."""
    try:
        network = builder(checkpoint["settings"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} cannot be used: the settings of its network are incomplete ({error})") from error
    load_weights(network, checkpoint["network"], path)
    return network


def load_weights(network: nn.Module, state: dict, path) -> None:
    """Loads every weight of `network`; raises `InputError` that names missing, unexpected and misshapen ones."""
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or misshapen:
        raise InputError(
            f"{path} does not fit the network: {len(missing)} weights missing {missing[:2]}, "
            f"{len(unexpected)} unexpected {unexpected[:2]}, {len(misshapen)} of another shape {misshapen[:2]}"
        )
    network.load_state_dict(state)
