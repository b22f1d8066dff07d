"""Time of scoring label maps in memory, compared with a plain mIoU.

    python -m benchmarks.segmentation_metrics --masks dataset/voc12/VOC2012/SegmentationClass

Each mask is scored against a copy shifted by a few pixels. The plain mIoU, as in much public code, compares whole maps
for each of 21 labels; its score must equal ours. One core; see benchmarks/timing.py.
"""

import argparse
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import environment_line, save_page
from benchmarks.timing import milliseconds
from formats.errors import InputError
from formats.labels import load_label
from metrics.segmentation import ConfusionMatrix
from metrics.tables import markdown_table

NUM_LABELS = 21
SHIFT_YX_PX = (3, 5)
CHUNK, TURNS = 50, 3


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Time of scoring label maps.")
    parser.add_argument("--masks", required=True, help="folder of palette PNGs")
    parser.add_argument("--limit", type=int, default=300, help="largest number of masks, which are held in memory")
    args = parser.parse_args(argv)
    masks = [load_label(path) for path in sorted(Path(args.masks).glob("*.png"))[: args.limit]]
    if not masks:
        raise InputError(f"--masks {args.masks} holds no .png")
    cv2.setNumThreads(1)
    pairs = [(np.roll(mask, SHIFT_YX_PX, axis=(0, 1)), mask) for mask in masks]
    plain, matrix = PlainCounts(NUM_LABELS), ConfusionMatrix(NUM_LABELS)
    ways = {"plain": lambda chunk: add_pairs(plain, chunk), "ours": lambda chunk: add_pairs(matrix, chunk)}
    ms = milliseconds(ways, [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)], TURNS)
    if not np.isclose(plain.miou(), matrix.scores()["mIoU"], rtol=1e-12):
        raise AssertionError(f"plain mIoU {plain.miou()}, ours {matrix.scores()['mIoU']}")
    header = ["", "plain mIoU, ms/pair", "ours, ms/pair", "speed-up"]
    row = [f"{len(pairs)} masks", f"{ms['plain']:.3f}", f"{ms['ours']:.3f}", f"{ms['plain'] / ms['ours']:.1f} ×"]
    command = f"python -m benchmarks.segmentation_metrics {shlex.join(argv)}"
    save_page("segmentation_metrics", command, [markdown_table(header, [row]), environment_line()])


def add_pairs(counts, pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    for prediction, truth in pairs:
        counts.add(prediction, truth)


class PlainCounts:
    """True positives, predicted and true pixels of each label, by comparisons of whole maps."""

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


if __name__ == "__main__":
    main(sys.argv[1:])
