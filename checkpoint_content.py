"""What a checkpoint of a stranger may hold, checked before anything is built of it.

A tensor tells all that is asked here of itself, so that this needs no torch.
"""

from input_errors import InputError

KINDS = {"stage": str, "settings": dict, "network": dict, "training": dict}


def check_content(content, name) -> None:
    """Raises `InputError` unless this is what a checkpoint of this project holds; `name` is for the error message."""
    absent = [key for key in KINDS if not isinstance(content, dict) or key not in content]
    if absent:
        raise InputError(f"{name} is no checkpoint of this project: it lacks {', '.join(absent)}")
    wrong = [key for key, kind in KINDS.items() if not isinstance(content[key], kind)]
    if wrong:
        raise InputError(f"{name} is no checkpoint of this project: {wrong[0]} is a {type(content[wrong[0]]).__name__}")
    check_weights(content["network"], name)


def check_weights(weights: dict, name) -> None:
    """Raises `InputError` unless every weight is a tensor of finite numbers, each of which the file holds."""
    for key, weight in weights.items():
        if not isinstance(key, str) or not is_plain_tensor(weight):
            raise InputError(f"{name} cannot be used: {key} is no tensor of numbers")
        if weight.untyped_storage().nbytes() < weight.numel() * weight.element_size():  # a few bytes ask for all memory
            raise InputError(f"{name} cannot be used: {key} {list(weight.shape)} has fewer numbers than its shape")
        if not weight.isfinite().all():
            raise InputError(f"{name} cannot be used: {key} holds numbers that are not finite")


def is_plain_tensor(weight) -> bool:
    """Whether this is a tensor whose numbers lie in memory as they are: not sparse, quantized or without numbers."""
    is_strided = str(getattr(weight, "layout", None)) == "torch.strided"
    return is_strided and not weight.is_meta and not weight.is_quantized
