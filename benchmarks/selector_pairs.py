r"""Every selector on every pair of labels and saliency maps: mIoU of single-class images.

    python -m benchmarks.selector_pairs --labels raw=experiments/pseudo_labels/cam published=other_method/labels \
        --saliency_dir experiments/saliency/ours/VOC2012 other_network/VOC2012 --degrade 0.03 0.07 0.15 \
        --degraded_lists voc12/train_id.txt --data_dir data/voc12 --image_labels voc12/cls_labels.npy \
        --features resnet-50

A pair is scored on the images of which it has a label and a map. Besides the given folders there is degraded truth: the
outline of each object is moved by smooth noise. The amplitude is --degrade times the square root of the object's area,
times a random factor per image with mean 1. The constants of the evidence selector were chosen on the images whose
crc32(id) is even; the others confirm, and each half is compared with its own best t0. `best fixed t0` and `best per
image` need the truth. Features of all images stay in memory, 1 MB each for a small network.
"""

import argparse
import sys
import zlib
from functools import cache, partial
from pathlib import Path

import cv2
import numpy as np

from benchmarks.report import save_page
from formats.image_labels import load_image_labels
from formats.images import load_grey, load_image
from formats.labels import IGNORE_LABEL, load_label
from formats.voc_layout import find_masks, find_voc_root, load_class_names, load_ids
from metrics.bootstrap import interval
from metrics.label_quality import measure_label, name_scores, score_images, sum_states
from metrics.tables import markdown_table
from models.backbones import load_feature_network
from pseudo_labels import evidence
from pseudo_labels.selector import Measurement, ThresholdRule, fill_mask, measure

THRESHOLDS = [round(0.05 * step, 2) for step in range(21)]
COLUMNS = ["labels", "mask", "best fixed t0", "paper", "evidence", "best per image"]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="mIoU of every selector on every pair of labels and saliency maps.")
    parser.add_argument("--labels", nargs="+", required=True, metavar="KIND=DIR", help="folders of label maps")
    parser.add_argument("--saliency_dir", nargs="+", required=True, metavar="DIR", help="folders of saliency maps")
    parser.add_argument("--degrade", nargs="*", type=float, default=[], metavar="X", help="noise amplitudes")
    parser.add_argument("--degraded_lists", nargs="*", default=[], metavar="FILE", help="lists of ids")
    for flag in ("--data_dir", "--image_labels", "--features"):
        parser.add_argument(flag, required=True, metavar="PATH", help="as for evaluate.py labels")
    parser.add_argument("--pretrained", default="imagenet", metavar="PATH", help="weights of --features")
    parser.add_argument("--name", default="selector_pairs", help="name of the page in benchmarks/results")
    args = parser.parse_args(argv)

    # labels: (kind, name, ids, function from id, truth and class to the label)
    sources = []
    for kind, folder in (text.split("=", 1) for text in args.labels):
        ids = sorted(path.stem for path in Path(folder).glob("*.png"))
        sources.append((kind, Path(folder).name, ids, partial(read_label, Path(folder))))
    for path in args.degraded_lists:
        for amplitude in args.degrade:
            name = f"truth of {Path(path).stem}, degraded by {amplitude}"
            sources.append(("degraded truth", name, load_ids(path), partial(degrade, amplitude)))

    rows, gains = [], {}
    network = load_feature_network(args.features, args.pretrained, "cpu")
    voc_root = find_voc_root(args.data_dir)
    compute_features = cache(partial(load_features, network, voc_root / "JPEGImages"))
    for kind, name, ids, load in sources:
        for folder in map(Path, args.saliency_dir):
            pair = load_pair(ids, load, folder, voc_root, args.image_labels)
            if pair:
                row, gain = score_pair(pair, compute_features, voc_root)
                maps = folder.parent.name if folder.name == "VOC2012" else folder.name
                rows.append([kind, f"{name} + {maps}", len(pair), *row])
                gains.setdefault(kind, []).append(gain)
    means = [[kind, len(found), *np.mean(found, axis=0)] for kind, found in gains.items()]
    means.append(["mean of the kinds", len(rows), *np.mean([row[2:] for row in means], axis=0)])
    means = [[*row[:2], *(f"{mean:+.2f}" for mean in row[2:])] for row in means]
    text = "mIoU in %. Gain: evidence − the highest of labels, mask and best fixed t0, with a paired 95 % interval."
    columns = ["gain", "choice images", "confirming images"]
    tables = [markdown_table(["kind", "pair", "images", *COLUMNS, *columns], rows)]
    save_page(args.name, "selector_pairs", argv, [text, *tables, markdown_table(["kind", "pairs", *columns], means)])


def read_label(folder: Path, name: str, truth: np.ndarray, label_of_class: int) -> np.ndarray:
    return load_label(folder / f"{name}.png")


def degrade(amplitude: float, name: str, truth: np.ndarray, label_of_class: int) -> np.ndarray:
    """The truth of an image with a displaced outline."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return fill_mask(displace_outline(truth == label_of_class, amplitude, rng), label_of_class)


def displace_outline(mask: np.ndarray, amplitude: float, rng: np.random.Generator) -> np.ndarray:
    """Move the outline of a mask, bool [H, W], by noise, smooth over a quarter of the square root of its area."""
    if not mask.any():
        return mask
    side_px = np.sqrt(np.count_nonzero(mask))
    inside, outside = (cv2.distanceTransform(part.astype(np.uint8), cv2.DIST_L2, 5) for part in (mask, ~mask))
    noise = cv2.GaussianBlur(rng.standard_normal(mask.shape), (0, 0), max(2, side_px / 4))
    noise /= noise.std() + 1e-9
    return (inside - outside) / side_px + amplitude * rng.gamma(2, 0.5) * noise > 0


def load_features(network, folder: Path, name: str) -> np.ndarray:
    """Features of an image in half the memory, float16 [D, h, w]."""
    return evidence.pixel_features(network, load_image(folder / f"{name}.jpg"), "cpu").astype(np.float16)


def load_pair(ids: list[str], load, folder: Path, voc_root: Path, image_labels: str) -> dict[str, tuple]:
    """Id → class, label, saliency map and truth of the single-class images that have all of them."""
    pair, truths = {}, find_masks(voc_root, ids)
    for name, row in zip(ids, load_image_labels(image_labels, ids, load_class_names(voc_root))):
        path = folder / f"{name}.png"
        if row.sum() == 1 and path.is_file() and name in truths:
            truth, label_of_class = load_label(truths[name]), int(row.argmax()) + 1
            pair[name] = label_of_class, load(name, truth, label_of_class), load_grey(path), truth
    return pair


def select_by_evidence(
    pair: dict[str, tuple], compute_features, folder: Path, num_classes: int
) -> dict[str, np.ndarray]:
    """Id → label after the evidence selector, which learns from all images of the pair."""
    drawn, overlaps = [], []
    for name, (label_of_class, label, saliency, _) in pair.items():
        rng, mask = np.random.default_rng(zlib.crc32(name.encode())), saliency > 127
        drawn.append(evidence.draw_agreed(compute_features(name), label, mask, np.array([label_of_class]), rng))
        overlaps.append(evidence.overlap_of_objects(label, mask))
    learned = evidence.learn_evidence(drawn, overlaps, num_classes)
    settled = {}
    for name, (label_of_class, label, saliency, _) in pair.items():
        features = compute_features(name).astype(np.float32)
        classes = np.array([label_of_class])
        settled[name] = evidence.settle(label, saliency > 127, features, classes, learned)
    return settled


def score_pair(pair: dict[str, tuple], compute_features, voc_root: Path) -> tuple[list[str], list[float]]:
    """Columns of a pair as texts, and its gains on all images, on those of choices, and on those that confirm."""
    names, measured, better = ("background", *load_class_names(voc_root)), [], set()
    settled = select_by_evidence(pair, compute_features, voc_root / "JPEGImages", len(names) - 1)
    versions = {"labels": {}, "mask": {}, "evidence": {}}  # image → state
    for index, (name, (label_of_class, label, saliency, truth)) in enumerate(pair.items()):
        measured.append(Measurement(index, label_of_class, *measure(label, saliency, 0.5)))
        masked = fill_mask(saliency > 127, label_of_class)
        for version, selected in zip(versions, (label, masked, settled[name])):
            versions[version][index] = measure_label(selected, truth, len(names))
        wanted, counted = truth == label_of_class, truth != IGNORE_LABEL
        parts = [(selected == label_of_class) & counted for selected in (label, masked)]
        ious = [np.count_nonzero(part & wanted) / max(np.count_nonzero(part | wanted), 1) for part in parts]
        better |= {index} if ious[1] > ious[0] else set()

    def replace(indices: set[int]) -> dict[int, tuple]:
        return {index: versions["mask" if index in indices else "labels"][index] for index in versions["labels"]}

    thresholds = ThresholdRule(names[1:]).compute(measured)["values"]
    fixed = {t0: replace({image.index for image in measured if image.overlap > t0}) for t0 in THRESHOLDS}
    above = {image.index for image in measured if image.overlap > thresholds[image.label_of_class]}
    versions |= {"paper": replace(above), "best per image": replace(better)}

    def score(states: dict[int, tuple], part=(0, 1)) -> float:
        """mIoU in % on the images whose crc32 of the id leaves one of the remainders."""
        chosen = [states[index] for index, name in enumerate(pair) if zlib.crc32(name.encode()) % 2 in part]
        return 100 * name_scores(sum_states(chosen, len(names)), names)["mIoU"]

    gains = []
    for part in ((0, 1), (0,), (1,)):
        rivals = [versions["labels"], versions["mask"], *fixed.values()]
        gains.append(score(versions["evidence"], part) - max(score(states, part) for states in rivals))
    t0 = max(fixed, key=lambda t0: score(fixed[t0]))
    versions["best fixed t0"] = fixed[t0]
    strongest = max(("labels", "mask", "best fixed t0"), key=lambda version: score(versions[version]))
    replicates = [score_images(versions[version], {}, names, None, 1000)[1] for version in ("evidence", strongest)]
    low, high = interval(100 * np.subtract(*(scores.replicates["mIoU"] for scores in replicates)))
    texts = [f"{score(versions[column]):.1f}" + f" ({t0})" * (column == "best fixed t0") for column in COLUMNS]
    return [*texts, f"{gains[0]:+.1f} [{low:+.1f}, {high:+.1f}]", *(f"{gain:+.1f}" for gain in gains[1:])], gains


if __name__ == "__main__":
    main(sys.argv[1:])
