"""Time of scoring label maps, compared with decoding them and with a plain mIoU.

    python -m benchmarks.segmentation_metrics --masks data/voc12/VOCdevkit/VOC2012/SegmentationClass

Each mask is scored against a copy shifted by a few pixels, also a palette PNG. The plain mIoU, as in much public code,
compares whole maps for each of 21 labels; its score must equal ours. One core; see benchmarks/timing.py.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import save_page
from benchmarks.timing import milliseconds
from formats.errors import InputError
from formats.labels import load_label, save_label
from metrics.label_quality import measure_label
from metrics.segmentation import ConfusionMatrix
from metrics.tables import markdown_table

NUM_LABELS = 21
SHIFT_YX_PX = (3, 5)
CHUNK, TURNS = 50, 3


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Time of scoring label maps.")
    parser.add_argument("--masks", required=True, help="folder of palette PNGs")
    parser.add_argument("--limit", type=int, help="number of masks (default: all)")
    args = parser.parse_args(argv)
    masks = sorted(Path(args.masks).glob("*.png"))[: args.limit]
    if not masks:
        raise InputError(f"--masks {args.masks} holds no .png")
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        pairs = [(write_shifted(mask, Path(folder)), mask) for mask in masks]
        ms = measure([pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)])
    rows = [[name, f"{time:.3f}", f"{time / ms['decoding']:.2f}"] for name, time in ms.items()]
    plain_ms, ours_ms = (ms[f"decoding + {name}"] - ms["decoding"] for name in ("plain mIoU", "mIoU"))
    parts = [
        f"{len(pairs)} masks, each against itself shifted by {SHIFT_YX_PX} pixels (rows, columns); one core.",
        markdown_table(["", "ms/pair", "× decoding"], rows),
        f"Without decoding, mIoU is {plain_ms / max(ours_ms, 1e-9):.1f} times as fast as the plain mIoU.",
    ]
    save_page("segmentation_metrics", "segmentation_metrics", argv, parts)


def write_shifted(mask: Path, folder: Path) -> Path:
    path = folder / mask.name
    save_label(path, np.roll(load_label(mask), SHIFT_YX_PX, axis=(0, 1)))
    return path


def measure(chunks: list[list[tuple[Path, Path]]]) -> dict[str, float]:
    """Time per pair of each way, in ms."""
    matrix, plain = ConfusionMatrix(NUM_LABELS), np.zeros((3, NUM_LABELS))
    ways = {"decoding": lambda *pair: None, "decoding + plain mIoU": partial(count_plainly, plain)}
    ways |= {"decoding + mIoU": matrix.add, "decoding + all scores": partial(measure_label, num_labels=NUM_LABELS)}
    ms = milliseconds({name: partial(score_files, add) for name, add in ways.items()}, chunks, TURNS)
    both, predicted, true = plain
    union = predicted + true - both
    plain_miou, ours = np.mean(both[union > 0] / union[union > 0]), matrix.scores()["mIoU"]
    assert np.isclose(plain_miou, ours, rtol=1e-12), f"plain mIoU {plain_miou}, ours {ours}"
    return ms


def score_files(add, pairs: list[tuple[Path, Path]]) -> None:
    for prediction, truth in pairs:
        add(load_label(prediction), load_label(truth))


def count_plainly(counts: np.ndarray, prediction: np.ndarray, truth: np.ndarray) -> None:
    """Add the true positives, predicted and true pixels of each label, [3, L], by comparisons of whole maps."""
    known = truth < NUM_LABELS
    for label in range(NUM_LABELS):
        predicted, true = (prediction == label) & known, (truth == label) & known
        counts[:, label] += (predicted & true).sum(), predicted.sum(), true.sum()


if __name__ == "__main__":
    main(sys.argv[1:])
