"""Time of the saliency metrics, compared with PySODMetrics and with decoding the files.

    python -m benchmarks.saliency_metrics
    python -m benchmarks.saliency_metrics --maps maps/CSNet/ECSSD --masks dataset/benchmark/ECSSD/Masks

Drawn pairs in memory: MAE, F, S and E with their curves by PySODMetrics, and all measures of metrics/saliency.py. With
--maps and --masks also pairs of files: decoding, and decoding and scoring. One core; see benchmarks/timing.py.
"""

import argparse
import sys
import warnings
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import save_page
from benchmarks.timing import milliseconds
from formats.errors import MissingInputError, shorten
from formats.images import image_stems, load_grey, load_mask
from metrics.saliency import measure_map, score_states
from metrics.tables import markdown_table

CHUNK = 50  # pairs of files per turn


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Time of the saliency metrics.")
    parser.add_argument("--maps", help="folder of maps with the stems of --masks")
    parser.add_argument("--masks", help="folder of masks")
    parser.add_argument("--drawn_pairs", type=int, default=20, help="number of pairs in memory")
    parser.add_argument("--image_size", type=int, nargs=2, default=[300, 400], help="height and width in px")
    parser.add_argument("--repeat", type=int, default=5, help="turns over drawn pairs")
    parser.add_argument("--file_pairs", type=int, default=1000, help="pairs of files, repeated if there are fewer")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    parts = [compare_in_memory(args.drawn_pairs, args.image_size, args.repeat)]
    if args.maps and args.masks:
        parts.append(compare_files(find_pairs(Path(args.maps), Path(args.masks), args.file_pairs)))
    save_page("saliency_metrics", "saliency_metrics", argv, parts)


def compare_in_memory(count: int, size_hw: list[int], repeat: int) -> str:
    """Table of the times of PySODMetrics and ours, without and with weighted F."""
    pairs = [draw_pair(seed, *size_hw) for seed in range(count)]
    ways = {
        (score, wf): partial(score, weighted_f=wf) for wf in (False, True) for score in (score_reference, score_ours)
    }
    ms = milliseconds(ways, [pairs] * repeat)
    rows = []
    for weighted_f, name in ((False, "without weighted F"), (True, "with weighted F")):
        reference, ours = ms[score_reference, weighted_f], ms[score_ours, weighted_f]
        rows.append([name, f"{reference:.2f}", f"{ours:.2f}", f"{reference / ours:.1f} ×"])
    title = f"{size_hw[0]}×{size_hw[1]} px in memory"
    return markdown_table([title, "PySODMetrics, ms/pair", "ours, ms/pair", "speed-up"], rows)


def compare_files(paths: list[tuple[Path, Path]]) -> str:
    """Table of the times of decoding, and of decoding and scoring."""
    ways = {
        "decoding": load_pairs,
        "and scoring without weighted F": lambda chunk: score_ours(load_pairs(chunk), weighted_f=False),
        "and scoring with weighted F": lambda chunk: score_ours(load_pairs(chunk), weighted_f=True),
    }
    ms = milliseconds(ways, [paths[first : first + CHUNK] for first in range(0, len(paths), CHUNK)])
    rows = [[name, f"{way:.2f}", f"{way / ms['decoding']:.2f} ×"] for name, way in ms.items()]
    return markdown_table([f"{len(paths)} pairs from disk", "ms/pair", "of decoding"], rows)


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


def load_pairs(paths: list[tuple[Path, Path]]) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(load_grey(map_path), load_mask(mask_path)) for map_path, mask_path in paths]


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


def find_pairs(maps: Path, masks: Path, count: int) -> list[tuple[Path, Path]]:
    found, truth = image_stems(maps), image_stems(masks)
    missing = [stem for stem in truth if stem not in found]
    if missing or not truth:
        raise MissingInputError(f"{maps} lacks {len(missing)} of {len(truth)} maps ({shorten(missing)})")
    pairs = [(found[stem], path) for stem, path in truth.items()]
    return [pairs[place % len(pairs)] for place in range(count)]


if __name__ == "__main__":
    main(sys.argv[1:])
