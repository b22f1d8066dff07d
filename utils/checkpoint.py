"""Checkpoints: plain types and tensors, written atomically, read without executing pickles.

stage      "saliency", "classification", "affinity" or "segmentation"
settings   how to build the network again, so that predict.py needs nothing but the file
network    its weights
training   what --resume needs besides: see utils/training_state.py
"""

import hashlib
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from formats.atomic_files import atomic_path
from formats.errors import InputError, MissingInputError, first_line
from utils.checkpoint_content import check_content, check_stored

MOST_UNUSED = 4096  # weights that timm draws up and throws away, such as those behind the last map
TORCHS_ADVICE = "weights_only"  # to execute what a file says: not handed on
NO_CHECKPOINT = "it is none, or holds more than tensors and plain values"
LARGEST_BUFFERS = 1 << 30  # bytes; the masks and indices of Swin's windows, which no file holds, have some millions


def save_checkpoint(path, stage: str, settings: dict, network: nn.Module, training: dict) -> None:
    """Writes a checkpoint of plain types and tensors: {"stage", "settings", "network", "training"}.

    stage      saliency, classification, affinity or segmentation
    settings   what the stage's `build_…` needs to make the network
    training   of `TrainingState`, empty where nothing is to be resumed
    A full disk raises its `OSError`; the file that was there stays.
    """
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
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: name its last.pth")
    if not Path(path).is_file():
        raise MissingInputError(f"checkpoint {path} does not exist")
    try:
        check_stored(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none fails in many ways
        told = NO_CHECKPOINT if TORCHS_ADVICE in str(error) else first_line(error)
        raise InputError(f"{path} cannot be read as a checkpoint: {told}") from error
    if convert:
        content = convert(content, path)
    check_content(content, path)
    return content


def file_digest(path) -> str:
    """SHA-256 of a file, such as a checkpoint: what tells results of one training from those of another."""
    if not Path(path).is_file():
        raise MissingInputError(f"{path} does not exist")
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rebuild(builder, checkpoint: dict, path) -> nn.Module:
    """The network of a checkpoint, made by `builder(settings)`, with its weights. `path` is for the error message.

    Before any memory is taken, the network is drawn up without numbers and compared with the weights: settings that
    describe an absurd one do not fit what the file holds.
    """
    settings, state = checkpoint["settings"], checkpoint["network"]
    try:
        with torch.device("meta"), at_most(2 * len(state) + MOST_UNUSED, path):  # timm draws some networks up twice
            outline = builder(settings)
        check_fit(outline, state, path)
        nbytes = sum(buffer.nbytes for buffer in outline.buffers())
        if nbytes > LARGEST_BUFFERS:
            raise InputError(f"{path} cannot be used: its network asks for {nbytes} bytes besides its weights")
        network = builder(settings)
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:  # as absent and odd values fail
        raise InputError(
            f"{path} cannot be used: the settings of its network are incomplete or no such ({first_line(error)})"
        ) from error
    load_weights(network, state, path)
    return network


@contextmanager
def at_most(count: int, path) -> Iterator[None]:
    """Raises `InputError` where a network of more weights is drawn up, as soon as it has them: a number in a file can
    ask for more blocks than there is time for."""
    weights = itertools.count(1)

    def count_weight(*_):
        if next(weights) > count:
            raise RuntimeError("too many weights")

    handle = register_module_parameter_registration_hook(count_weight)
    try:
        yield
    finally:
        handle.remove()
        if next(weights) > count + 1:
            raise InputError(f"{path} does not fit the network, which has over {count} weights")


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
