"""Find pictures that occur in two sets: renamed, encoded again or scaled, but not cropped or mirrored.

The signature of a picture is its grey image at 24×24 px minus a blurred copy, so that two skies differ by their clouds.
Among 1520 photographs, two different ones correlate by 0.61 at most; a photograph and its copy at a quarter of the size
and JPEG quality 50 correlate by at least 0.92.
"""

from collections.abc import Iterator

import cv2
import numpy as np

SIDE_PX = 24
BLUR_SIGMA_PX = 2.0
MIN_CONTRAST = 0.5  # standard deviation in grey levels; below it there is only noise
MIN_CORRELATION = 0.8
BLOCK_ROWS = 1024  # rows of the correlation matrix computed at a time


def compute_signature(image: np.ndarray) -> np.ndarray:
    """Compute the signature int8 [576] of an image, RGB uint8 [H, W, 3]; all zero for a picture without contrast."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(grey, (SIDE_PX, SIDE_PX), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = small - cv2.GaussianBlur(small, (0, 0), BLUR_SIGMA_PX)
    if detail.std() < MIN_CONTRAST:
        return np.zeros(SIDE_PX**2, np.int8)
    return np.rint(detail * (127 / np.abs(detail).max())).astype(np.int8).ravel()


def find_duplicates(first: list[np.ndarray], second: list[np.ndarray]) -> Iterator[tuple[int, int, float]]:
    """Yield (index in `first`, index in `second`, correlation) of all pairs of signatures of the same picture."""
    second = _normalize(second)
    for start in range(0, len(first), BLOCK_ROWS):
        correlations = _normalize(first[start : start + BLOCK_ROWS]) @ second.T
        for row, column in np.argwhere(correlations > MIN_CORRELATION):
            yield start + int(row), int(column), float(correlations[row, column])


def _normalize(signatures: list[np.ndarray]) -> np.ndarray:
    """Stack signatures to float32 [N, 576] with rows of mean 0 and length 1; rows of zeros stay zero."""
    rows = np.array(signatures, np.float32).reshape(-1, SIDE_PX**2)
    rows -= rows.mean(axis=1, keepdims=True)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
