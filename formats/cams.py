"""Class activation maps (CAMs) as files: `.npz` of named arrays, without pickles.

cams     float16 [K, H, W], 0..1   one map for each class of the image, at the size of the image
classes  uint8 [K]                 their labels, 1..C (0 is background)
"""

import io

import numpy as np

from formats.atomic_files import atomic_path
from formats.errors import InputError, first_line, shorten
from formats.images import read_bytes


def save_cams(path, cams: np.ndarray, classes: np.ndarray) -> None:
    """Save the CAMs of one image; the module's docstring lists shapes and ranges."""
    assert cams.ndim == 3 and len(cams) == len(classes), f"{path}: {list(cams.shape)} for {len(classes)} classes"
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, cams=cams.astype(np.float16), classes=np.asarray(classes, np.uint8))


def load_cams(path) -> tuple[np.ndarray, np.ndarray]:
    """Load cams float32 [K, H, W] and classes uint8 [K]. Raises `InputError` for a file without such arrays."""
    arrays = load_named_arrays(path)
    cams, classes = (arrays.get(name, np.zeros(0)) for name in ("cams", "classes"))
    if cams.dtype.kind != "f" or cams.ndim != 3 or classes.dtype != np.uint8 or classes.shape != cams.shape[:1]:
        found = shorten(f"{name} {array.dtype} {list(array.shape)}" for name, array in arrays.items()) or "nothing"
        raise InputError(f"{path} holds {found}, not cams float [K, H, W] and classes uint8 [K]: create it again")
    if not np.isfinite(cams).all():
        raise InputError(f"{path} holds numbers that are not finite: create it again")
    return cams.astype(np.float32), classes


def load_named_arrays(path) -> dict[str, np.ndarray]:
    """Load the arrays of a `.npz` file by name. Pickled arrays and damaged files are an `InputError`."""
    content = read_bytes(path)
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            # members that are not arrays are returned as bytes
            return {name: np.asarray(archive[name]) for name in archive.files}
    except Exception as error:  # numpy and zipfile fail in many ways on damaged archives, and numpy advises to unpickle
        reason = "it holds pickled objects, or no arrays" if "pickle" in str(error) else first_line(error)
        raise InputError(f"{path} cannot be read as named arrays ({reason}): create it again") from None
