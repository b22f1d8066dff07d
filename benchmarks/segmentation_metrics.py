"""Time and memory of scoring label maps: beside merely decoding them, and beside a comparison for each label.

    python -m benchmarks.segmentation_metrics --masks dataset/voc12/VOC2012/SegmentationClass

Each mask is scored against itself moved by a few pixels, as a palette PNG too. The plain mIoU, as much public code has
it, passes over the pixels for each of 21 labels: where is it predicted, where true, where both; it gives the same
score, or the run ends. One core; the sides take turns, a chunk of masks each, and a chunk counts by the fastest of its
turns.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import environment_line, keep
from formats.errors import InputError
from formats.labels import load_label, save_label
from metrics.label_quality import LabelQuality
from metrics.segmentation import ConfusionMatrix
from metrics.tables import markdown_table

NUM_LABELS = 21
SHIFT_YX_PX = (3, 5)
CHUNK, TURNS = 50, 3
EARLY = 200  # masks after which memory is read for the first time


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Time and memory of scoring label maps.")
    parser.add_argument("--masks", required=True, help="folder of palette PNGs")
    parser.add_argument("--limit", type=int, help="masks, all if not given")
    args = parser.parse_args(argv)
    masks = sorted(Path(args.masks).glob("*.png"))[: args.limit]
    if not masks:
        raise InputError(f"--masks {args.masks} holds no .png")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(write_shifted(mask, Path(folder)), mask) for mask in masks]
        seconds, memory_mb = measure(pairs)
    times = [
        [name, f"{value:.2f}", f"{1e3 * value / len(pairs):.3f}", f"{value / seconds['decoding']:.2f}"]
        for name, value in seconds.items()
    ]
    plain_s, ours_s = (seconds[name] - seconds["decoding"] for name in ("decoding + plain mIoU", "decoding + mIoU"))
    ratio = plain_s / max(ours_s, 1e-9)
    memory = [[done, f"{mb:.1f}"] for done, mb in memory_mb.items()]
    rows, columns = SHIFT_YX_PX
    parts = [
        f"{len(pairs)} masks, each against itself moved by {rows} rows and {columns} columns; one core.",
        markdown_table(["", "s", "ms/pair", "× decoding"], times),
        f"Without decoding, mIoU takes {ratio:.1f} times less than the plain mIoU.",
        markdown_table(["after pairs", "largest resident memory, MB"], memory),
        environment_line(),
    ]
    keep("segmentation_metrics", f"python -m benchmarks.segmentation_metrics {' '.join(argv)}", parts)


def write_shifted(mask: Path, folder: Path) -> Path:
    path = folder / mask.name
    save_label(path, np.roll(load_label(mask), SHIFT_YX_PX, axis=(0, 1)))
    return path


def measure(pairs: list[tuple[Path, Path]]) -> tuple[dict[str, float], dict[int, float]]:
    """Processor time of each side in seconds, and memory in MB after so many pairs."""
    matrix, quality, plain = ConfusionMatrix(NUM_LABELS), LabelQuality(NUM_LABELS), PassesOfLabels(NUM_LABELS)
    sides = {"decoding": lambda *pair: None, "decoding + plain mIoU": plain.add, "decoding + mIoU": matrix.add}
    sides |= {"decoding + all scores": quality.add}
    seconds, memory_mb = dict.fromkeys(sides, 0.0), {}
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        turns = [{name: cpu_seconds(score, chunk) for name, score in sides.items()} for _ in range(TURNS)]
        for name in sides:
            seconds[name] += min(turn[name] for turn in turns)
        done = start + len(chunk)
        if done in (EARLY, len(pairs)):
            memory_mb[done] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if not np.isclose(plain.miou(), matrix.scores()["mIoU"], rtol=1e-12):
        raise AssertionError(f"plain mIoU {plain.miou()}, ours {matrix.scores()['mIoU']}")
    return seconds, memory_mb


class PassesOfLabels:
    """Counts of true positives, predicted and true pixels of each label, by comparisons of whole maps."""

    def __init__(self, num_labels: int):
        self.counts = np.zeros((3, num_labels))

    def add(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        known = truth < self.counts.shape[1]
        for label in range(self.counts.shape[1]):
            predicted, true = (prediction == label) & known, (truth == label) & known
            self.counts[:, label] += (predicted & true).sum(), predicted.sum(), true.sum()

    def miou(self) -> float:
        both, predicted, true = self.counts
        union = predicted + true - both
        return float(np.mean(both[union > 0] / union[union > 0]))


def cpu_seconds(score, pairs: list[tuple[Path, Path]]) -> float:
    started = time.process_time()
    for prediction, truth in pairs:
        score(load_label(prediction), load_label(truth))
    return time.process_time() - started


if __name__ == "__main__":
    main(sys.argv[1:])
