"""Which pictures of two sets are the same photograph: renamed, encoded again or scaled, but not cropped or mirrored.

A signature is the grey picture at 24×24 px without its coarse brightness, so that two skies differ by their clouds. Of
1520 photographs, two different ones correlate by 0.61 at most, and one with itself scaled to a quarter, at JPEG quality
50, by 0.92 at least.
"""

from collections.abc import Iterator

import cv2
import numpy as np

SIDE_PX = 24
COARSE_PX = 2.0  # standard deviation of the blur that is taken away
FLAT = 0.5  # grey levels; what varies less is noise
SAME = 0.8
ROWS = 1024  # of the table of all correlations, at a time


def signature(image: np.ndarray) -> np.ndarray:
    """RGB uint8 [H, W, 3] → int8 [576], all zero for a picture of one colour."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    fine = small - cv2.GaussianBlur(small, (0, 0), COARSE_PX)
    if fine.std() < FLAT:
        return np.zeros(SIDE_PX**2, np.int8)
    return np.rint(fine * (127 / np.abs(fine).max())).astype(np.int8).ravel()


def same_pictures(first: list[np.ndarray], second: list[np.ndarray]) -> Iterator[tuple[int, int, float]]:
    """Yields (index, index, correlation) of all pairs of signatures that are of the same picture."""
    second = _normalized(second)
    for start in range(0, len(first), ROWS):
        table = _normalized(first[start : start + ROWS]) @ second.T
        for row, column in np.argwhere(table > SAME):
            yield start + int(row), int(column), float(table[row, column])


def _normalized(signatures: list[np.ndarray]) -> np.ndarray:
    """float32 [N, 576]: rows of mean 0 and length 1; those of zeros stay."""
    rows = np.array(signatures, np.float32).reshape(-1, SIDE_PX**2)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
