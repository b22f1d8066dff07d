"""Checkpoints: tensors and plain types, written atomically, read without executing pickles.

stage      "saliency", "classification", "affinity" or "segmentation"
settings   arguments of the stage's `build_…` function, so that predict.py needs only the file
network    state dict
training   further state that --resume needs: see utils/training_state.py

A checkpoint that leaves the project is a safetensors file: stage and settings (JSON) in its metadata, no training.
"""

import hashlib
import json
import re
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from formats.atomic_files import atomic_path, write_bytes
from formats.errors import InputError, MissingInputError
from formats.images import read_bytes

KEYS = ("stage", "settings", "network", "training")


def save_checkpoint(path, stage: str, settings: dict, network: nn.Module, training: dict) -> None:
    """Save a checkpoint with the contents listed above; `training` is empty if nothing is to be resumed."""
    content = {"stage": stage, "settings": settings, "network": network.state_dict(), "training": training}
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch hides the reason, such as a full disk
                raise error.__context__ from None
            raise


def save_safetensors(path, stage: str, settings: dict, weights: dict[str, torch.Tensor]) -> None:
    """Save weights, settings and stage as a safetensors file, which `load_checkpoint` reads."""
    metadata = {"format": "pt", "stage": stage, "settings": json.dumps(settings)}
    weights = {name: weight.contiguous() for name, weight in weights.items()}
    write_bytes(path, safetensors.torch.save(weights, metadata))


def load_checkpoint(path, stages: Collection[str] = (), convert=None) -> dict:
    """Load a checkpoint of one of the `stages`, if given, onto the CPU.

    `convert(content, path)`, if given, first translates files of other projects. Raises `InputError` if the result is
    not a checkpoint.
    """
    content = load_torch_file(path)
    if convert:
        content = convert(content, path)
    missing = [key for key in KEYS if not isinstance(content, dict) or key not in content]
    if missing:
        raise InputError(f"{path} is not a checkpoint of this project: it lacks {', '.join(missing)}")
    if stages and content["stage"] not in stages:
        raise InputError(f"{path} is of stage {content['stage']}: name a checkpoint of stage {' or '.join(stages)}")
    return content


def load_torch_file(path, allowed: Sequence[type] = ()):
    """Load tensors, plain types and `allowed` classes that `torch.save` wrote, or a safetensors file, onto the CPU.

    `allowed` classes must be safe with any attributes. Raises `InputError` for any other file.
    """
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder: name its last.pth")
    if not Path(path).exists():
        raise MissingInputError(f"checkpoint {path} does not exist")
    try:
        if Path(path).suffix == ".safetensors":
            return load_safetensors(path)
        # torch warns before it fails, but the error has to be one line
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch fails in many ways, and advises to let the file execute code
        writer = "torch.save with its own pickle_protocol" if Path(path).suffix != ".safetensors" else "safetensors"
        reason = f"it is damaged, or not written by {writer}: fetch or save it again"
        if found := re.search(r"GLOBAL ([\w.]+)", str(error)):
            reason = f"it holds more than tensors and plain values ({found[1]}): save only network.state_dict()"
        elif read_bytes(path)[:100].lstrip().startswith(b"<"):
            reason = "it is a web page: fetch the file itself"
        raise InputError(f"{path} cannot be read as a checkpoint: {reason}") from error


def load_safetensors(path) -> dict:
    """Load what `save_safetensors` wrote as a checkpoint, and any other safetensors file as name → tensor."""
    with safetensors.safe_open(path, framework="pt") as file:
        metadata, weights = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if "settings" not in metadata:
        return weights
    settings = json.loads(metadata["settings"])
    return {"stage": metadata["stage"], "settings": settings, "network": weights, "training": {}}


def file_digest(path) -> str:
    """SHA-256 of a file, which identifies the checkpoint that results were made with."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def rebuild(builder, checkpoint: dict, path) -> nn.Module:
    """Build the network of a checkpoint by `builder(settings)` and load its weights; `path` is named in errors."""
    try:
        network = builder(checkpoint["settings"])
    except KeyError as error:
        raise InputError(f"{path} cannot be used: the settings of its network lack {error}") from error
    load_weights(network, checkpoint["network"], path)
    return network


def load_weights(network: nn.Module, state: dict, path) -> None:
    """Load every weight of `network`. Raises `InputError` with missing, unexpected and misshapen weights."""
    own = network.state_dict()
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    misshapen = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or unexpected or misshapen:
        found = f"{len(missing)} weights missing {missing[:1]}, {len(unexpected)} unexpected {unexpected[:1]}"
        found += f", {len(misshapen)} of another shape {misshapen[:1]}"
        raise InputError(f"{path} does not fit the network: {found}: name one that was trained with the same flags")
    network.load_state_dict(state)
