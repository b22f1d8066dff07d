"""Time of the dense CRF over the present labels in several processes, compared with all labels in one process.

    python -m benchmarks.dense_crf --input data/voc12/VOCdevkit/VOC2012/JPEGImages

Probabilities are drawn: blobs of three of 21 labels for each photograph, with the confidence of real networks. The
start of the processes is part of their time and matters less with more images. See benchmarks/timing.py.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch

from benchmarks.report import device_kind, save_page
from benchmarks.timing import milliseconds
from formats.images import image_stems, load_image
from metrics.tables import markdown_table
from pseudo_labels.dense_crf import PROBABILITIES, DenseCrf, refine_to_label
from utils.memory import keep_freed_memory
from utils.processes import map_in_processes, usable_cores

NUM_LABELS = 21
TURNS = 2
NUM_COMPARED = 16  # photographs for the comparison of labels


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Dense CRF over the present labels, in processes.")
    parser.add_argument("--input", required=True, metavar="DIR", help="photographs")
    parser.add_argument("--images", type=int, default=160, help="number of photographs")
    args = parser.parse_args(argv)
    keep_freed_memory()  # as in all scripts on CPUs
    tasks = list(enumerate(list(image_stems(args.input).values())[: args.images]))
    cores = usable_cores()
    ways = {"plain": partial(refine_all, False, 1), "ours": partial(refine_all, True, cores)}
    ms = milliseconds(ways, [tasks], TURNS)
    header = [f"{len(tasks)} photographs", f"all {NUM_LABELS} labels, ms/image"]
    header += [f"present labels, {cores} processes, ms/image", "speed-up"]
    row = ["", f"{ms['plain']:.0f}", f"{ms['ours']:.0f}", f"{ms['plain'] / ms['ours']:.2f} ×"]
    same = np.mean([np.mean(refine(task, False) == refine(task, True)) for task in tasks[:NUM_COMPARED]])
    equal = f"Pixels with the same label from all labels and present: {100 * same:.3f} %."
    save_page(f"dense_crf_{device_kind()}", "dense_crf", argv, [markdown_table(header, [row]), equal])


def refine_all(only_present: bool, processes: int, tasks: list) -> None:
    for _ in map_in_processes(partial(refine, only_present=only_present), tasks, processes):
        pass


def refine(task: tuple[int, Path], only_present: bool) -> np.ndarray:
    """Label map of a numbered photograph from drawn probabilities and the CRF, uint8 [H, W]."""
    seed, path = task
    image = load_image(path)
    probs = draw_probs(seed, *image.shape[:2])
    labels = probs.argmax(dim=0).unique() if only_present else torch.arange(NUM_LABELS)
    return refine_to_label(DenseCrf(image, PROBABILITIES), probs[labels], labels.numpy().astype(np.uint8))


def draw_probs(seed: int, height: int, width: int) -> torch.Tensor:
    """Probabilities float32 [21, H, W]: smooth background and two objects, low for the other labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-3, 1, (NUM_LABELS, height // 16 + 1, width // 16 + 1)).astype(np.float32)
    logits[[0, *rng.choice(np.arange(1, NUM_LABELS), 2, replace=False)]] += 6
    smooth = [cv2.resize(cv2.GaussianBlur(plane, (0, 0), 2) * 3, (width, height)) for plane in logits]
    return torch.from_numpy(np.stack(smooth)).softmax(dim=0)


if __name__ == "__main__":
    main(sys.argv[1:])
