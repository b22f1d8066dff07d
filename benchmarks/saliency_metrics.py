"""Time of the saliency metrics, compared with PySODMetrics.

    python -m benchmarks.saliency_metrics

Drawn pairs in memory: MAE, F, S and E with their curves by PySODMetrics, and all measures of metrics/saliency.py. One
core; see benchmarks/timing.py.
"""

import argparse
import sys
import warnings
from functools import partial

import cv2
import numpy as np

from benchmarks.report import save_page
from benchmarks.timing import milliseconds
from metrics.saliency import measure_map, score_states
from metrics.tables import markdown_table


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Time of the saliency metrics.")
    parser.add_argument("--drawn_pairs", type=int, default=20, help="number of pairs in memory")
    parser.add_argument("--image_size", type=int, nargs=2, default=[300, 400], help="height and width in px")
    parser.add_argument("--repeat", type=int, default=5, help="turns over drawn pairs")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    pairs = [draw_pair(seed, *args.image_size) for seed in range(args.drawn_pairs)]
    ways = {
        (score, wf): partial(score, weighted_f=wf) for wf in (False, True) for score in (score_reference, score_ours)
    }
    ms = milliseconds(ways, [pairs] * args.repeat)
    rows = []
    for weighted_f, name in ((False, "without weighted F"), (True, "with weighted F")):
        reference, ours = ms[score_reference, weighted_f], ms[score_ours, weighted_f]
        rows.append([name, f"{reference:.2f}", f"{ours:.2f}", f"{reference / ours:.1f} ×"])
    title = f"{args.image_size[0]}×{args.image_size[1]} px in memory"
    header = [title, "PySODMetrics, ms/pair", "ours, ms/pair", "speed-up"]
    save_page("saliency_metrics", "saliency_metrics", argv, [markdown_table(header, rows)])


def score_ours(pairs, weighted_f: bool) -> dict[str, np.ndarray]:
    return score_states(sum(measure_map(*pair, weighted_f) for pair in pairs))


def score_reference(pairs, weighted_f: bool) -> list[dict]:
    import py_sod_metrics as sod

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fmeasure is deprecated, but faster than its successor
        metrics = [sod.MAE(), sod.Fmeasure(), sod.Smeasure(), sod.Emeasure()]
    if weighted_f:
        metrics.append(sod.WeightedFmeasure())
    for prediction, truth in pairs:
        grey = truth.astype(np.uint8) * 255
        for metric in metrics:
            metric.step(prediction, grey)
    return [metric.get_results() for metric in metrics]


def draw_pair(seed: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A noisy, blurred map of one to three ellipses, uint8 [H, W], and its truth, bool [H, W]."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(1, 4)):
        centre = (int(width * rng.uniform(0.2, 0.8)), int(height * rng.uniform(0.2, 0.8)))
        axes = (int(width * rng.uniform(0.05, 0.25)), int(height * rng.uniform(0.05, 0.25)))
        cv2.ellipse(mask, centre, axes, rng.uniform(0, 180), 0, 360, 255, cv2.FILLED)
    noise = cv2.GaussianBlur(rng.normal(0, 60, mask.shape), (0, 0), 5) * 5
    saliency = cv2.GaussianBlur(mask.astype(np.float64), (0, 0), 4) + noise
    return np.clip(saliency, 0, 255).astype(np.uint8), mask > 0


if __name__ == "__main__":
    main(sys.argv[1:])
