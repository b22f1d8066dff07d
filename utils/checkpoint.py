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
from checkpoint_content import check_content
from input_errors import InputError, MissingInputError, first_line

LARGEST_SETTING = 1 << 14  # of widths, sides in px and numbers of blocks


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
    check_content(content, path)
    return content


def file_digest(path) -> str:
    """SHA-256 of a checkpoint file: what tells results of one training from those of another."""
    if not Path(path).is_file():
        raise MissingInputError(f"checkpoint {path} does not exist")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rebuild(builder, checkpoint: dict, path) -> nn.Module:
    """The network of a checkpoint, made by `builder(settings)`, with its weights. `path` is for the error message.

    Before any memory is taken, the network is drawn up without numbers and compared with the weights: settings that
    describe an absurd one do not fit what the file holds.
    """
    settings, state = checkpoint["settings"], checkpoint["network"]
    absurd = [number for number in numbers_in(settings) if not abs(number) <= LARGEST_SETTING]  # NaN too
    if absurd:
        raise InputError(f"{path} cannot be used: {absurd[0]} in the settings of its network, over {LARGEST_SETTING}")
    try:
        with torch.device("meta"):
            outline = builder(settings)
        check_fit(outline, state, path)
        network = builder(settings)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # as absent and odd values fail
        raise InputError(
            f"{path} cannot be used: the settings of its network are incomplete or no such ({first_line(error)})"
        ) from error
    load_weights(network, state, path)
    return network


def numbers_in(value) -> list:
    """All numbers within plain containers."""
    if isinstance(value, (int, float)):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [number for item in items for number in numbers_in(item)]


def load_weights(network: nn.Module, state: dict, path) -> None:
    """Loads every weight of `network`; raises `InputError` where `check_fit` does."""
    check_fit(network, state, path)
    network.load_state_dict(state)


def check_fit(network: nn.Module, state: dict, path) -> None:
    """Raises `InputError` that names missing, unexpected and misshapen weights."""
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or misshapen:
        raise InputError(
            f"{path} does not fit the network: {len(missing)} weights missing {missing[:2]}, "
            f"{len(unexpected)} unexpected {unexpected[:2]}, {len(misshapen)} of another shape {misshapen[:2]}"
        )
