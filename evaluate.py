"""Stage 4: files → benchmark tables.

    python evaluate.py saliency --pred experiments/saliency/ours other_method --gt_root dataset/benchmark
    python evaluate.py labels --pred experiments/pseudo_labels/cam experiments/pseudo_labels/sos \\
        --data_dir data/voc12 --list voc12/train_id.txt
    python evaluate.py labels --baseline_dir other_method/labels --saliency_dir experiments/saliency/ours/VOC2012 \\
        --data_dir data/voc12 --list voc12/train_id.txt --image_labels voc12/cls_labels.npy --sweep --tables tables
    python evaluate.py segmentation --pred experiments/segmentation/val --data_dir data/voc12 --list voc12/val_id.txt
    python evaluate.py submission --archive results.tar.gz --data_dir data/voc12 --list voc12/test_id.txt

Maps of a method lie in METHOD_DIR/<data set>/<stem>.png, truth in GT_ROOT/<data set>/Masks/<stem>.png; labels and
segmentations in DIR/<id>.png. A missing prediction is an error. Folders that differ only in a last part seed<N> are
runs of one setting: a table tells their mean ± standard deviation. With saliency maps, labels are scored before and
after the selector, which selects in memory: no labels are written. `submission` checks an archive for VOC's test server
as the server does: files, sizes, palette, labels.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.evaluate().parse_args()

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from atomic_files import write_json
from datasets.image_sizes import image_size
from image_files import image_stems, load_grey, load_mask
from image_labels import load_image_labels
from input_errors import InputError, MissingInputError, run_script, shorten
from label_files import load_label
from metrics.label_quality import LabelQuality
from metrics.label_tables import label_tables
from metrics.saliency import SaliencyMetrics
from metrics.seed_tables import scores_over_seeds, seed_table
from metrics.tables import Table, save_tables
from pseudo_labels.baseline_labels import find_baseline, load_baseline
from pseudo_labels.fusion_inputs import check_size, load_checked_cams, load_evidence, load_saliency
from pseudo_labels.fusion_rules import RULES, evidence_of, fuse
from pseudo_labels.selector import (
    Thresholds,
    build_thresholds,
    measure,
    painted,
    saliency_mask,
    select_regions,
    split_mask,
)
from voc_layout import VOC_CLASSES, files_of_ids, find_voc_root, load_class_names, load_ids, truth_folder
from voc_submission import check_submission

PAPER_ALPHAS = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
CONVENTIONS = {
    "saliency": "F: β² = 0.3, maximum and mean of the mean curve; maps stretched to 0..1 per image; truth over 128",
    "labels": "a prediction of 255 counts as a miss; mIoU*: such pixels dropped; coverage: pixels with a prediction",
    "submission": "8-bit palette PNGs of the photographs' sizes, VOC's palette, labels 0 to 20",
}
CONVENTIONS["segmentation"] = CONVENTIONS["labels"]


def main(args) -> None:
    evaluations = {"saliency": evaluate_saliency, "submission": evaluate_submission}
    results, tables = evaluations.get(args.kind, evaluate_labels)(args)
    for table in tables:
        if table.on_screen:
            print(f"{table.name}\n{table.markdown()}\n")
    print(CONVENTIONS[args.kind])
    if args.tables:
        save_tables(args.tables, tables)
    if args.json:
        write_json(args.json, results)


def evaluate_saliency(args) -> tuple[dict, list[Table]]:
    """Scores every data set that a method has maps of. → {method: {data set: scores}}, tables"""
    work = {method: find_maps(Path(method), Path(args.gt_root)) for method in args.pred}
    results, rows = {}, []
    for method, data_sets in work.items():
        results[method] = {}
        for data_set, pairs in data_sets.items():
            scores, resized = score_saliency(pairs, f"{method} on {data_set}")
            results[method][data_set] = scores | {"images": len(pairs), "resized": resized}
            if resized:
                print(f"{method} on {data_set}: {resized} of {len(pairs)} maps resized to the size of their truth")
            numbers = [f"{scores[name]:.4f}" for name in ("MAE", "maxF", "meanF", "adpF", "S")]
            rows.append([method, data_set, len(pairs), *numbers])
    header = ["method", "data set", "images", "MAE ↓", "max F ↑", "mean F ↑", "adp F ↑", "S ↑"]
    return results, [Table("saliency", header, rows)]


def find_maps(method: Path, gt_root: Path) -> dict[str, list[tuple[Path, Path]]]:
    """data set → (map, truth) of every truth; raises if a map is missing or there is no data set in common."""
    for folder in (method, gt_root):
        if not folder.is_dir():
            raise MissingInputError(f"folder {folder} does not exist")
    found = {}
    for data_set in sorted(path.name for path in gt_root.iterdir() if (path / "Masks").is_dir()):
        if not (method / data_set).is_dir():
            continue
        truth, maps = image_stems(gt_root / data_set / "Masks"), image_stems(method / data_set)
        missing = [stem for stem in truth if stem not in maps]
        if missing or not truth:
            raise MissingInputError(
                f"{method / data_set} lacks {len(missing)} of {len(truth)} maps ({shorten(missing)}): "
                "predict.py makes them"
            )
        found[data_set] = [(maps[stem], path) for stem, path in truth.items()]
    if not found:
        raise MissingInputError(
            f"no data set of {gt_root} has a folder in {method}: expected {method}/<data set>/<stem>.png"
        )
    return found


def score_saliency(pairs: list[tuple[Path, Path]], title: str) -> tuple[dict[str, float], int]:
    """Scores, and how many maps had to be resized to their truth."""
    metrics, resized = SaliencyMetrics(), 0
    for map_path, mask_path in tqdm(pairs, desc=title, mininterval=1, leave=False):
        saliency, mask = load_grey(map_path), load_mask(mask_path)
        if saliency.shape != mask.shape:
            saliency = cv2.resize(saliency, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)
            resized += 1
        metrics.add(saliency, mask)
    return metrics.scores(), resized


@dataclass(frozen=True)
class LabelData:
    """The images to score: N ids, their truth, and where given their image labels (bool [N, C]) and saliency maps."""

    ids: list[str]
    names: tuple[str, ...]  # of the labels, background first
    truth: list[Path]
    image_labels: np.ndarray | None
    maps: list[Path] | None


@dataclass(frozen=True)
class Selection:
    """The selector as its user set it; `split_cams`: maps of all images, where masks of several classes are split."""

    thresholds: Thresholds
    mask_threshold: float
    alphas: list[float]
    split_cams: list[Path] | None


def evaluate_labels(args) -> tuple[dict, list[Table]]:
    """Scores label maps: as they are and, where saliency maps are given, after the selector.

    → {folder or rule: scores}, with those "over_seeds" where a setting has several; tables
    """
    voc_root = find_voc_root(args.data_dir)
    data = load_label_data(args, voc_root)
    selection, rules, bg_threshold = None, {}, None
    if args.kind == "labels":
        selection, bg_threshold = choose_selection(args, data), args.bg_threshold
        rules = rule_readers(args, data, voc_root)
    if not args.pred and not rules:
        raise InputError("nothing to score: name folders by --pred, or --rules and --cam_dir")
    both = rules.keys() & set(args.pred)
    if both:
        raise InputError(f"--pred {shorten(both)}: a rule of --rules has that name; write ./{shorten(both)}")
    readers = {folder: folder_reader(folder, data, bg_threshold) for folder in args.pred} | rules
    results = {name: score_labels(read, data, selection, name) for name, read in readers.items()}
    which = " with exactly one class" if args.single_class else ""
    print(f"{len(data.ids)} images{which}, truth {data.truth[0].parent}, %")
    tables, over_seeds = label_tables(args.kind, data.names, results), scores_over_seeds(results)
    if over_seeds:
        tables.insert(1, seed_table(over_seeds))  # below the table of all folders
        results["over_seeds"] = over_seeds
    return results, tables


def load_label_data(args, voc_root: Path) -> LabelData:
    names = ("background", *load_class_names(voc_root))
    ids, image_labels = load_ids(args.list), None
    source = args.single_class or args.image_labels
    beside = Path(args.list).with_name("cls_labels.npy")  # as in the README's tree
    if not source and args.kind == "labels" and beside.is_file():
        holds_scores = any(path.suffix != ".png" for folder in args.pred for path in find_baseline(folder, ids))
        source = beside if holds_scores or args.saliency_dir or args.rules is not None else None
    if source:
        image_labels = load_image_labels(source, ids, names[1:])
    if args.single_class:
        chosen = np.flatnonzero(image_labels.sum(axis=1) == 1)
        if not chosen.size:
            raise InputError(f"{args.list} has no image with exactly one class by {args.single_class}")
        ids, image_labels = [ids[index] for index in chosen], image_labels[chosen]
    truth = files_of_ids(voc_root / args.gt if args.gt else truth_folder(voc_root, ids), ids, ".png")
    saliency_dir = getattr(args, "saliency_dir", None)
    return LabelData(ids, names, truth, image_labels, files_of_ids(saliency_dir, ids, ".png") if saliency_dir else None)


def choose_selection(args, data: LabelData) -> Selection | None:
    """The selector by its flags; None where it is off or has no maps. Asks for what is missing."""
    if args.selector == "none" or not args.saliency_dir:
        if args.sweep is not None or args.multi_class == "split" or args.t0 == "auto":
            raise InputError("--sweep, --multi_class split and --t0 auto need --saliency_dir, and --selector sos")
        return None
    if data.image_labels is None:
        raise InputError("the selector needs --image_labels (or --single_class): cls_labels.npy, a table or XML")
    splits = args.multi_class == "split"
    if splits and not args.cam_dir:
        raise InputError("--multi_class split needs --cam_dir: the strongest map splits the mask")
    if not splits and not (data.image_labels.sum(axis=1) == 1).any():
        raise InputError(f"no image of {args.list} has exactly one class: there is nothing to select")
    given, numbers = dict(args.class_saliency), (args.selector_form, args.t0, args.t1, args.tau)
    thresholds = build_thresholds(data.names[1:], *numbers, args.non_salient_classes, given, args.salient_norm)
    alphas = [] if args.sweep is None else sorted(args.sweep) or PAPER_ALPHAS
    split_cams = files_of_ids(args.cam_dir, data.ids, ".npz") if splits else None
    return Selection(thresholds, args.saliency_threshold, alphas, split_cams)


def folder_reader(folder: str, data: LabelData, bg_threshold: float | None):
    """A function index → label of the files of a folder, all of which are there. Score dictionaries are made labels
    by a constant background; where it is None, the files are label maps."""
    only_label_maps = bg_threshold is None
    paths = files_of_ids(folder, data.ids, ".png") if only_label_maps else find_baseline(folder, data.ids)
    if data.image_labels is None and any(path.suffix != ".png" for path in paths):
        raise InputError(f"{folder} holds score dictionaries: --image_labels must tell the classes of the images")
    none = np.zeros(len(data.names) - 1, bool)

    def read(index: int, shape_hw) -> np.ndarray:
        image_labels = none if data.image_labels is None else data.image_labels[index]
        return load_baseline(paths[index], image_labels, shape_hw, bg_threshold)

    return read


def rule_readers(args, data: LabelData, voc_root: Path) -> dict:
    """Rule → a function index → label by that rule, from the maps of --cam_dir."""
    if args.rules is None:
        return {}
    if not args.cam_dir or data.image_labels is None:
        raise InputError("--rules needs --cam_dir and --image_labels")
    rules = args.rules or list(RULES)
    unfounded = [rule for rule in rules if "saliency" in evidence_of(rule) and data.maps is None]
    if unfounded:
        raise InputError(f"--rules {shorten(unfounded)} need --saliency_dir")
    cams = files_of_ids(args.cam_dir, data.ids, ".npz")
    second_cams = files_of_ids(args.second_cam_dir or args.cam_dir, data.ids, ".npz")
    images = files_of_ids(voc_root / "JPEGImages", data.ids, ".jpg")

    def read(rule: str, index: int, shape_hw) -> np.ndarray:
        saliency = data.maps[index] if data.maps else None
        paths = cams[index], second_cams[index], images[index], saliency
        evidence = load_evidence(evidence_of(rule), *paths, data.image_labels[index])
        check_size(evidence["cams"].shape[1:], cams[index], shape_hw)
        return fuse(rule, evidence, {"bg_threshold": args.bg_threshold} if rule == "none" else {})

    return {rule: partial(read, rule) for rule in rules}


@dataclass(frozen=True)
class Choice:
    """A single-class image as the selector sees it, and its quality, packed, with either label."""

    label: int
    measured: tuple[float, float, float]  # of `measure`
    kept: tuple
    replaced: tuple


def score_labels(read, data: LabelData, selection: Selection | None, title: str) -> dict:
    """Scores of all images and, where image labels are known, of those with one and with several classes apart; the
    same "selected"; statistics of the selector by class; the "sweep" over its thresholds."""
    single, other, choices = LabelQuality(len(data.names)), LabelQuality(len(data.names)), []
    is_single = np.zeros(len(data.ids), bool) if data.image_labels is None else data.image_labels.sum(axis=1) == 1
    for index in tqdm(range(len(data.ids)), desc=title, mininterval=1, leave=False):
        truth = load_label(data.truth[index])
        label = read(index, truth.shape)
        quality = quality_of(label, truth, data, index)
        (single if is_single[index] else other).add_packed(quality)
        if selection and is_single[index]:
            choices.append(measure_choice(label, truth, quality, data, index, selection))
    scores = scores_of_sets(single, other, data)
    return scores | score_selection(choices, other, read, data, selection, title) if selection else scores


def score_selection(choices, other: LabelQuality, read, data: LabelData, selection: Selection, title: str) -> dict:
    """What `score_labels` tells of the selector; `other` are the scores of images that have not one class."""
    num_labels = len(data.names)
    measured = np.array([choice.measured for choice in choices]).reshape(-1, 3)
    overlaps = measured[:, 0]
    classes = np.array([choice.label for choice in choices], int)
    chosen = selection.thresholds.of_classes(measured, classes, num_labels - 1)
    replaced = overlaps > chosen["values"][classes]
    statistics = {"t0": chosen["t0"], "classes": class_statistics(choices, replaced, chosen, data.names)}
    if selection.split_cams:
        other, statistics["split"] = score_split(read, data, selection, chosen["values"], title)
    sweep = [
        {"threshold": alpha, "replaced": int((overlaps > alpha).sum())}
        | plain_scores(sum_of_choices(choices, overlaps > alpha, num_labels), data.names)
        for alpha in (selection.alphas if choices else [])
    ]
    return {
        "selected": scores_of_sets(sum_of_choices(choices, replaced, num_labels), other, data),
        "selector": statistics,
        "sweep": sweep,
    }


def measure_choice(label, truth, quality: tuple, data: LabelData, index: int, selection: Selection) -> Choice:
    label_of_class = int(data.image_labels[index].argmax()) + 1
    saliency = load_saliency(data.maps[index], label.shape)
    mask = saliency_mask(saliency, selection.mask_threshold)
    of_mask = quality_of(painted(mask, label_of_class), truth, data, index)
    return Choice(label_of_class, measure(label, saliency, selection.mask_threshold), quality, of_mask)


def quality_of(label: np.ndarray, truth: np.ndarray, data: LabelData, index: int) -> tuple:
    """The packed quality of one label."""
    try:
        return LabelQuality(len(data.names)).add(label, truth).packed()
    except ValueError as error:
        raise InputError(f"{data.ids[index]} against {data.truth[index]}: {error}") from None


def sum_of_choices(choices: list[Choice], replaced: np.ndarray, num_labels: int) -> LabelQuality:
    total = LabelQuality(num_labels)
    for choice, is_replaced in zip(choices, replaced):
        total.add_packed(choice.replaced if is_replaced else choice.kept)
    return total


def score_split(read, data: LabelData, selection: Selection, thresholds: np.ndarray, title: str):
    """Images with other than one class after their masks were split by the strongest map: their quality, and class
    name → how many regions it had and how many were replaced."""
    total, counts = LabelQuality(len(data.names)), {}
    indices = np.flatnonzero(data.image_labels.sum(axis=1) != 1)
    for index in tqdm(indices, desc=f"{title}, split", mininterval=1, leave=False):
        truth = load_label(data.truth[index])
        label = read(index, truth.shape)
        cams, classes = load_checked_cams(selection.split_cams[index], data.image_labels[index])
        check_size(cams.shape[1:], selection.split_cams[index], label.shape)
        if len(classes):
            mask = saliency_mask(load_saliency(data.maps[index], label.shape), selection.mask_threshold)
            label, replaced = select_regions(label, split_mask(mask, cams, classes), classes, thresholds)
            for label_of_class in classes.tolist():
                count = counts.setdefault(data.names[label_of_class], {"images": 0, "replaced": 0})
                count["images"] += 1
                count["replaced"] += label_of_class in replaced
        total.add_packed(quality_of(label, truth, data, index))
    return total, counts


def scores_of_sets(single: LabelQuality, other: LabelQuality, data: LabelData) -> dict:
    both = LabelQuality(len(data.names))
    for part in (single, other):
        both.add_packed(part.packed())
    result = plain_scores(both, data.names)
    if data.image_labels is not None:
        for name, part in (("single_class", single), ("multi_class", other)):
            result[name] = plain_scores(part, data.names) if part.num_images else None
    return result


def class_statistics(choices: list[Choice], replaced: np.ndarray, chosen: dict, names) -> dict:
    """Class name → its single-class images, how many labels were replaced, and its IoU on them before and after."""
    labels, statistics = np.array([choice.label for choice in choices], int), {}
    for label in np.unique(labels):
        of_class = [choice for choice in choices if choice.label == label]
        none, mine = np.zeros(len(of_class), bool), replaced[labels == label]
        before, after = (plain_scores(sum_of_choices(of_class, which, len(names)), names) for which in (none, mine))
        statistics[names[label]] = {
            "images": len(of_class),
            "replaced": int(mine.sum()),
            "saliency": float(chosen["saliency"][label]),
            "threshold": float(chosen["values"][label]),
            "IoU_before": before["IoU"][names[label]],
            "IoU_after": after["IoU"][names[label]],
        }
    return statistics


def plain_scores(quality: LabelQuality, names) -> dict:
    """Its scores, arrays over the labels as name → number; None for what is not defined."""

    def plain(value):
        if isinstance(value, np.ndarray):
            return {name: plain(number) for name, number in zip(names, value.tolist())}
        return None if value != value else value

    return {key: plain(value) for key, value in quality.scores().items()}


def evaluate_submission(args) -> tuple[dict, list[Table]]:
    """Checks an archive for VOC's test server; raises if anything is wrong. → {class: masks that hold it}, table"""
    ids = load_ids(args.list)
    photographs = files_of_ids(find_voc_root(args.data_dir) / "JPEGImages", ids, ".jpg")
    report = check_submission(args.archive, {name: image_size(path) for name, path in zip(ids, photographs)})
    if report.problems:
        raise InputError(f"--archive {args.archive} is no valid submission: {'; '.join(report.problems)}")
    print(f"valid: {len(ids)} masks in {report.folder}\n")
    masks_of_class = dict(zip(("background", *VOC_CLASSES), report.masks_of_label))
    rows = [[name, count] for name, count in masks_of_class.items()]
    return masks_of_class, [Table("submission", ["class", "masks that hold it"], rows)]


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
