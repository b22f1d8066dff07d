"""Weighted F-measure (Margolin et al., CVPR 2014: How to evaluate foreground maps?), β² = 1.

Equal to PySODMetrics within 1e-6: images are float32, sums float64. The distance transform returns no indices, because
only errors within 3 px of the object are copied; the 7×7 Gaussian is separated, inside the object's bounding box.
"""

import cv2
import numpy as np

EPS = np.finfo(np.float64).eps
FILTER_RADIUS_PX = 3
FILTER_SIGMA_PX = 5
HALVING_PX = 5  # distance at which the weight of a false alarm is halfway between 1 and 2
MAX_DISTANCE2 = 2 * FILTER_RADIUS_PX**2  # largest squared distance of a background pixel that the filter reads


def measure_weighted_f(prediction: np.ndarray, truth: np.ndarray) -> float:
    """Weighted F-measure of one saliency map, 0..1; 0 if the truth is empty.

    prediction: uint8 [H, W]; truth: bool [H, W].
    """
    area = np.count_nonzero(truth)
    if area == 0:
        return 0.0
    values = stretch_levels(int(prediction.min()), int(prediction.max()))
    saliency = cv2.LUT(prediction, values.astype(np.float32))  # [H, W]
    distances = cv2.distanceTransform((~truth).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)  # px
    errors, smaller_errors = sum_foreground_errors(saliency, truth, distances)
    distances *= np.float32(np.log(0.5) / HALVING_PX)
    decay = cv2.exp(distances, dst=distances)  # the weight of the map is 2 − decay: 1 on the object, 2 far from it
    weighted_saliency = 2 * sum_pixels(saliency) - sum_pixels(cv2.multiply(decay, saliency, dst=decay))
    alarms = max(0.0, weighted_saliency - (area - errors))
    hits = max(0.0, area - smaller_errors)
    recall, precision = hits / area, hits / (hits + alarms + EPS)
    return float(2 * recall * precision / (recall + precision + EPS))


def stretch_levels(low: int, high: int) -> np.ndarray:
    """Values in 0..1 of the 256 grey levels, float64 [256], for a map whose levels range from `low` to `high`."""
    values = np.arange(256) / 255
    return values if low == high else (values - values[low]) / (values[high] - values[low])


def sum_pixels(image: np.ndarray) -> float:
    """Sum of a float32 image in float64. NumPy would copy the image first."""
    return cv2.sumElems(image)[0]


def sum_foreground_errors(saliency: np.ndarray, truth: np.ndarray, distances: np.ndarray) -> tuple[float, float]:
    """Sum of |map − truth| over the object, and the sum of min(error, 7×7 Gaussian mean of errors) over the object.

    For the mean, a background pixel has the error of the nearest object pixel. All are [H, W]; distances in px.
    """
    box = find_box(truth, FILTER_RADIUS_PX)
    inside = pad(truth[box].view(np.uint8))
    errors = pad(saliency[box])
    np.subtract(1, errors, out=errors)
    errors *= inside
    plain = sum_pixels(errors)
    ring = copy_nearest_errors(errors, inside, pad(distances[box]))
    kernel = np.exp(-(np.arange(-FILTER_RADIUS_PX, FILTER_RADIUS_PX + 1) ** 2) / (2 * FILTER_SIGMA_PX**2))
    kernel /= kernel.sum()
    means = cv2.sepFilter2D(errors, cv2.CV_32F, kernel, kernel, borderType=cv2.BORDER_CONSTANT)
    smaller = np.minimum(errors, means, out=means)  # not 0 only on the object and on the ring around it
    return plain, sum_pixels(smaller) - sum_pixels(smaller.take(ring))


def find_box(mask: np.ndarray, margin_px: int) -> tuple[slice, slice]:
    """Row and column slices of the mask's bounding box, enlarged by `margin_px` and clipped to the image."""
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    rows = slice(max(top - margin_px, 0), top + height + margin_px)
    return rows, slice(max(left - margin_px, 0), left + width + margin_px)


def pad(image: np.ndarray) -> np.ndarray:
    """Add a border of zeros wide enough that no step of `STEPS` leaves the image or wraps to another row."""
    return cv2.copyMakeBorder(image, *[FILTER_RADIUS_PX + 1] * 4, cv2.BORDER_CONSTANT, value=0)


def build_steps() -> np.ndarray:
    """Steps (rows, columns) to the nearest object pixel by squared distance 0..18, int [19, N, 2].

    Among equally near pixels the order is left to right, then top to bottom, as in SciPy's distance transform. The last
    step is repeated to fill a row; a squared distance without steps has (0, 0).
    """
    reach = range(-FILTER_RADIUS_PX - 1, FILTER_RADIUS_PX + 2)
    by_distance = [[(y, x) for x in reach for y in reach if y * y + x * x == d2] for d2 in range(MAX_DISTANCE2 + 1)]
    longest = max(map(len, by_distance))
    return np.array([(steps + (steps or [(0, 0)])[-1:] * longest)[:longest] for steps in by_distance])


STEPS = build_steps()


def copy_nearest_errors(errors: np.ndarray, inside: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """Copy the error of the nearest object pixel to each background pixel that the filter reads, in place.

    errors, distances: float [H, W]; inside: uint8 [H, W], 1 on the object; all padded by `pad`. Returns the flat
    indices of these pixels, [P].
    """
    ring = np.flatnonzero((distances > 0) & (distances < MAX_DISTANCE2**0.5 + 0.01))
    squared = np.rint(distances.take(ring) ** 2).astype(np.intp)
    steps = STEPS @ (errors.shape[1], 1)  # in the flat image
    candidates = ring[:, None] + steps.take(squared, axis=0)  # [P, N]
    first = inside.take(candidates).argmax(axis=1)
    nearest = candidates.take(np.arange(len(ring)) * candidates.shape[1] + first)
    errors.put(ring, errors.take(nearest))
    return ring
