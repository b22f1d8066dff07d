r"""mIoU with `--t0 auto` compared with all fixed thresholds, on labels of several qualities.

    python -m benchmarks.auto_threshold --baseline_dir experiments/pseudo_labels/cam experiments/pseudo_labels/walk \
        --degrade 0.07 --saliency_dir experiments/saliency/ours/VOC2012 --data_dir data/voc12 \
        --list voc12/train_id.txt --image_labels voc12/cls_labels.npy

Besides the given folders it scores degraded truth: the outline of each object is moved by smooth noise. The amplitude
is --degrade times the square root of the object's area, times a random factor per image with mean 1.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import save_page
from formats.image_labels import load_image_labels
from formats.labels import load_label, save_label
from formats.voc_layout import find_voc_root, load_class_names, load_ids, truth_folder
from metrics.tables import markdown_table, short_names
from pseudo_labels.selector import fill_mask

PROJECT = Path(__file__).resolve().parent.parent
GRID = [round(0.05 * step, 2) for step in range(21)]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="mIoU with --t0 auto and with fixed thresholds.")
    parser.add_argument("--baseline_dir", nargs="+", required=True, metavar="DIR", help="folders of labels")
    parser.add_argument("--degrade", nargs="*", type=float, default=[], metavar="X", help="noise amplitudes")
    for flag in ("--saliency_dir", "--data_dir", "--list", "--image_labels"):
        parser.add_argument(flag, required=True, metavar="PATH", help="as for evaluate.py labels")
    parser.add_argument("--name", default="auto_threshold", help="name of the page in benchmarks/results")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        degraded = {f"truth, degraded by {amplitude}": Path(folder) / str(amplitude) for amplitude in args.degrade}
        for path, amplitude in zip(degraded.values(), args.degrade):
            degrade_truth(path, amplitude, args)
        names = dict(zip(args.baseline_dir, short_names(args.baseline_dir)))
        names |= {str(path): name for name, path in degraded.items()}
        scores = score_folders(list(names), Path(folder) / "scores.json", args)
    tables = build_tables({name: scores[path] for path, name in names.items()})
    save_page(args.name, "auto_threshold", argv, tables)


def degrade_truth(folder: Path, amplitude: float, args) -> None:
    """Write the masks of the single-class images with displaced outlines."""
    voc_root = find_voc_root(args.data_dir)
    ids = load_ids(args.list)
    image_labels = load_image_labels(args.image_labels, ids, load_class_names(voc_root))
    rng = np.random.default_rng(0)
    for name, row in zip(ids, image_labels):
        if row.sum() == 1:
            label_of_class = int(row.argmax()) + 1
            mask = load_label(truth_folder(voc_root, ids) / f"{name}.png") == label_of_class
            save_label(folder / f"{name}.png", fill_mask(displace_outline(mask, amplitude, rng), label_of_class))


def displace_outline(mask: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """Move the outline of a mask, bool [H, W], by noise, smooth over a quarter of the square root of its area."""
    if not mask.any():
        return mask
    side_px = np.sqrt(np.count_nonzero(mask))
    inside, outside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (mask, ~mask))
    noise = cv2.GaussianBlur(rng.standard_normal(mask.shape), (0, 0), max(2, side_px / 4))
    noise /= noise.std() + 1e-9
    return (inside - outside) / side_px + amplitude * rng.gamma(2, 0.5) * noise > 0


def score_folders(folders: list[str], path: Path, args) -> dict:
    """Scores of evaluate.py for each folder, with fixed thresholds and with `auto`."""
    command = [sys.executable, str(PROJECT / "evaluate.py"), "labels", "--baseline_dir", *folders]
    command += ["--data_dir", args.data_dir, "--list", args.list, "--single_class", args.image_labels]
    command += ["--saliency_dir", args.saliency_dir, "--sweep", *map(str, GRID), "--t0", "auto", "--t1", "0"]
    subprocess.run([*command, "--json", str(path)], check=True, stdout=subprocess.DEVNULL)
    return json.loads(path.read_text())


def build_tables(scores: dict) -> list[str]:
    """A table with one row per baseline, and one of means over baselines, for `auto` and each fixed threshold."""
    rows, curves, chosen = [], [], []
    for name, result in scores.items():
        curve = [100 * row["mIoU"] for row in result["sweep"]]
        auto, best = 100 * result["selected"]["mIoU"], int(np.argmax(curve))
        rows.append([name, f"{100 * result['mIoU']:.1f}", f"{curve[best]:.1f} ({GRID[best]})"])
        rows[-1] += [f"{auto:.1f} ({result['selector']['t0']:.2f})", f"{curve[best] - auto:.1f}"]
        curves.append(curve)
        chosen.append(auto)
    header = ["mIoU of single-class images", "before", "best fixed t0", "auto", "short by"]
    means = [["auto", f"{np.mean(chosen):.1f}"]]
    means += [[f"t0 = {t0}", f"{mean:.1f}"] for t0, mean in zip(GRID, np.mean(curves, axis=0))]
    return [markdown_table(header, rows), markdown_table(["mean over all baselines", "mIoU"], means)]


if __name__ == "__main__":
    main(sys.argv[1:])
