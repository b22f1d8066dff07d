"""Class activation maps as files: `.npz` with named arrays and no pickles.

cams     float16 [K, H, W], 0..1   one map for each class of the image, at the size of the image
classes  uint8 [K]                 their labels, 1..C (0 is background)
"""

import zipfile

import numpy as np

from formats.atomic_files import atomic_path
from formats.errors import InputError, shorten
from formats.npz_files import load_named_arrays

DEFLATE_LEVEL = 1  # numpy's own, 6, takes 1.4 to 2 times as long, for 4 % less at best


def save_cams(path, cams: np.ndarray, classes: np.ndarray) -> None:
    """Writes the maps of one image; see the module's docstring for shapes and ranges."""
    if cams.ndim != 3 or len(cams) != len(classes):
        raise ValueError(f"{path}: {len(classes)} classes, but maps of shape {list(cams.shape)}")
    arrays = {"cams": cams.astype(np.float16), "classes": np.asarray(classes, np.uint8)}
    how = {"compression": zipfile.ZIP_DEFLATED, "compresslevel": DEFLATE_LEVEL}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w", **how) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def load_cams(path) -> tuple[np.ndarray, np.ndarray]:
    """→ cams float32 [K, H, W], classes uint8 [K]. Raises `InputError` for a file that does not hold such maps."""
    arrays = load_named_arrays(path)
    if not {"cams", "classes"} <= arrays.keys():
        raise InputError(f"{path} holds {shorten(arrays) or 'nothing'}, not `cams` and `classes`: make it again")
    cams, classes = arrays["cams"], arrays["classes"]
    if cams.dtype.kind != "f" or cams.ndim != 3 or classes.dtype != np.uint8 or classes.shape != cams.shape[:1]:
        raise InputError(
            f"{path} holds cams {cams.dtype} {list(cams.shape)} and classes {classes.dtype} {list(classes.shape)}, not "
            "float [K, H, W] and uint8 [K]: make it again"
        )
    if not np.isfinite(cams).all():
        raise InputError(f"{path} holds numbers that are not finite: make it again")
    return cams.astype(np.float32), classes
