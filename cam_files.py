"""Class activation maps as files: `.npz` with named arrays and no pickles.

cams     float16 [K, H, W], 0..1   one map for each class of the image, at the size of the image
classes  uint8 [K]                 their labels, 1..C (0 is background)
"""

import zipfile
import zlib

import numpy as np

from atomic_files import atomic_path
from input_errors import InputError, MissingInputError


def save_cams(path, cams: np.ndarray, classes: np.ndarray) -> None:
    """Writes the maps of one image; see the module's docstring for shapes and ranges."""
    if cams.ndim != 3 or len(cams) != len(classes):
        raise ValueError(f"{path}: {len(classes)} classes, but maps of shape {list(cams.shape)}")
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, cams=cams.astype(np.float16), classes=np.asarray(classes, np.uint8))


def load_cams(path) -> tuple[np.ndarray, np.ndarray]:
    """→ cams float32 [K, H, W], classes uint8 [K]."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["cams"].astype(np.float32), arrays["classes"]
    except FileNotFoundError:
        raise MissingInputError(f"{path} does not exist") from None
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} does not hold `cams` and `classes` ({error}): delete it and make it again") from None
