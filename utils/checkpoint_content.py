"""What a checkpoint of a stranger may hold, checked before anything is built of it.

A tensor tells all that is asked here of itself, so that this needs no torch.
"""

import os
import struct
import zipfile
from collections.abc import Iterator
from itertools import islice
from types import NoneType

from formats.errors import InputError

KINDS = {"stage": str, "settings": dict, "network": dict, "training": dict}
LARGEST_SETTING = 1 << 14  # of widths, sides in px, numbers of blocks and lengths of texts, and of values in all
DEEPEST_SETTING = 8  # containers in each other; lists in backbone_args are the third
END = struct.Struct("<48xQ 4s4xQ4x 4s12xLH")  # of a .zip: where its directory lies, in 64 bits, again, and in 32 bits
SIZED = (str, int, float)
NUMBERS = {"torch.float32", "torch.float16", "torch.bfloat16", "torch.float64", "torch.int64"}


def check_stored(path) -> None:
    """Raises `InputError` for a .zip that torch would unpack to more than its file has; `torch.save` packs nothing.

    Torch goes to the directory where the end of the file says that it lies, zipfile to what lies before that end.
    """
    with open(path, "rb") as file:
        if file.read(4) != b"PK\3\4":  # as torch tells its two formats; the other is not packed
            return
        with zipfile.ZipFile(file) as archive:
            members, start = archive.infolist(), archive.start_dir
        end_place = file.seek(-END.size, os.SEEK_END)
        start64, locator, place64, end, start32, comment = END.unpack(file.read())
    if (end, start32, comment) != (b"PK\5\6", min(start, 0xFFFFFFFF), 0) or (
        locator == b"PK\6\7" and (start64, place64) != (start, end_place)
    ):
        raise InputError("its directory lies in two places")
    unpacked = sum(member.file_size for member in members)
    if unpacked > end_place or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise InputError(f"it is packed, and has {unpacked} bytes when unpacked")


def check_content(content, name) -> None:
    """Raises `InputError` unless this is what a checkpoint of this project holds; `name` is for the error message."""
    absent = [key for key in KINDS if not isinstance(content, dict) or key not in content]
    if absent:
        raise InputError(f"{name} is no checkpoint of this project: it lacks {', '.join(absent)}")
    wrong = [key for key, kind in KINDS.items() if not isinstance(content[key], kind)]
    if wrong:
        raise InputError(f"{name} is no checkpoint of this project: {wrong[0]} is a {type(content[wrong[0]]).__name__}")
    check_settings(content["settings"], name)
    check_weights(content["network"], name)


def check_settings(settings: dict, name) -> None:
    """Raises `InputError` unless these are plain values, not many and none of them large."""
    values = list(islice(values_in(settings, name), LARGEST_SETTING + 1))
    sizes = [len(value) if isinstance(value, str) else abs(value) for value in values if isinstance(value, SIZED)]
    if not all(size <= LARGEST_SETTING for size in [len(values), *sizes]):  # NaN too
        raise InputError(f"{name} cannot be used: something in the settings of its network is over {LARGEST_SETTING}")


def values_in(value, name, deepest: int = DEEPEST_SETTING) -> Iterator:
    """A plain value and all that it holds; what stands in several places counts in each."""
    if not deepest or not isinstance(value, (*SIZED, dict, list, tuple, NoneType)):
        raise InputError(f"{name} cannot be used: the settings of its network are no plain values")
    yield value
    items = [*value, *value.values()] if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for item in items:
        yield from values_in(item, name, deepest - 1)


def check_weights(weights: dict, name) -> None:
    """Raises `InputError` unless every weight is a tensor of finite numbers, each of which the file holds."""
    for key, weight in weights.items():
        if not isinstance(key, str):
            raise InputError(f"{name} cannot be used: the name of a weight is a {type(key).__name__}")
        if not is_plain_tensor(weight):
            raise InputError(f"{name} cannot be used: {key} is no tensor of numbers")
        if weight.untyped_storage().nbytes() < weight.numel() * weight.element_size():  # a few bytes ask for all memory
            raise InputError(f"{name} cannot be used: {key} {list(weight.shape)} has fewer numbers than its shape")
        if not weight.isfinite().all():
            raise InputError(f"{name} cannot be used: {key} holds numbers that are not finite")


def is_plain_tensor(weight) -> bool:
    """Whether this is a tensor whose numbers lie in memory as they are, of a type that weights have: int64 counts the
    batches of a batch norm."""
    is_strided = str(getattr(weight, "layout", None)) == "torch.strided"
    return is_strided and not weight.is_meta and str(weight.dtype) in NUMBERS
