r"""Stage 4: files → benchmark tables.

    python evaluate.py saliency --pred experiments/saliency/ours other_method --gt_root dataset/benchmark
    python evaluate.py labels --pred experiments/pseudo_labels/cam experiments/pseudo_labels/sos \
        --data_dir data/voc12 --list voc12/train_id.txt
    python evaluate.py labels --baseline_dir other_method/labels --saliency_dir experiments/saliency/ours/VOC2012 \
        --data_dir data/voc12 --list voc12/train_id.txt --image_labels voc12/cls_labels.npy --sweep --tables tables
    python evaluate.py segmentation --pred experiments/segmentations/val --data_dir data/voc12 --list voc12/val_id.txt
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

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.voc_submission import check_submission
from formats.atomic_files import write_json
from formats.errors import InputError, MissingInputError, existing_folder, shorten
from formats.image_labels import load_image_labels
from formats.images import check_size, image_size
from formats.voc_layout import (
    VOC_CLASSES,
    files_of_ids,
    find_voc_root,
    load_class_names,
    load_ids,
    mask_folder,
    truth_folder,
)
from metrics.bootstrap import compare, comparison_table, interval_table
from metrics.label_folders import LabelData, LabelSource, label_pictures, score_labels
from metrics.label_tables import label_tables, scores_over_seeds, seed_table, short_names
from metrics.page import Picture, write_page
from metrics.plots import Plot, save_plot
from metrics.saliency_folders import find_maps, map_pictures, score_maps, sets_with_masks
from metrics.saliency_tables import four_digits, saliency_plots, saliency_tables
from metrics.scored_files import FileReport
from metrics.tables import Table, percent, save_tables
from pseudo_labels.external_labels import SUFFIXES, find_baseline, load_baseline
from pseudo_labels.fusion_inputs import load_evidence
from pseudo_labels.fusion_rules import RULES, evidence_of, fuse
from pseudo_labels.selector import build_thresholds
from pseudo_labels.selector_in_memory import ImageSelector
from utils.environment import current_commit, versions_of
from utils.interruption import run_script

PAPER_T0S = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
RESERVED = {"image", "truth", "over_seeds"}  # names that stand beside those of --pred
PACKAGES = ("numpy", "opencv-python-headless")
OF_LABELS = [
    "a prediction of 255 counts as a miss; mIoU*: such pixels dropped; coverage: pixels with a prediction",
    "pixels whose truth is 255 are not counted; classes that occur nowhere count in no mean",
    "boundary IoU: within 2 % of the image's diagonal of the outlines",
]
CONVENTIONS = {
    "saliency": [
        "maps: 8-bit, stretched to 0..1 image by image; truth: over 128; thresholds: 256, on the truncated 8-bit value",
        "F: β² = 0.3; max and mean: of the mean curve over images; adp: at twice the mean of the map; wF: β² = 1",
        "max F of mean PR: F of the mean precision and the mean recall; mean of max F: each image at its best",
        "S: α = 0.5; E: divided by the number of pixels − 1, as PySODMetrics does",
        "a truth of 0 and 1 is read as what it means; of 16 bits the upper 8 count",
        "IoU, Dice, BER: over the thresholds, as F; boundary IoU: at half of the range",
    ],
    "labels": OF_LABELS,
    "segmentation": OF_LABELS,
    "submission": ["8-bit palette PNGs of the photographs' sizes, VOC's palette, labels 0 to 20"],
}
DEFINED = "no score is over 1, and none is undefined: --strict_reference gives what PySODMetrics gives then"
STRICT_REFERENCE = "--strict_reference: as PySODMetrics, also where that gives more than 1 or no number"
OF_BOOTSTRAP = "[ , ]: 95 % intervals over {} Poisson bootstrap resamples of the images"
OF_COMPARISON = "p: two-sided, for no difference"
WORST_BY = {"saliency": "S", "labels": "mIoU", "segmentation": "mIoU"}  # order of the pictures


@dataclass
class Evaluation:
    """`scores`: for the JSON file. `comparison`: of methods with the first one. `notes`: on the files. `failures`: what
    could not be scored, and should have been. `pictures`: for the page, made when they are written; measures in `lower`
    are better where they are lower."""

    scores: dict
    tables: list[Table]
    plots: list[Plot] = field(default_factory=list)
    comparison: dict[str, dict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    pictures: Iterable[Picture] = ()
    lower: tuple[str, ...] = ()

    def note_files(self, name: str, report: FileReport, allow_missing: bool) -> None:
        """Notes what became of the files of one method; a failure, where some should have been scored and were not."""
        self.notes.extend(f"{name}: {line}" for line in report.summarize())
        if report.unusable and not (allow_missing and report.scored):
            reasons = "; ".join(list(report.unusable.values())[:3])
            self.failures.append(f"{name}: {len(report.unusable)} images cannot be scored: {reasons}")

    def compare(self, pairs: dict[tuple, tuple], sampled: dict, images: dict) -> None:
        """Compares each pair, name → keys of first and other, if they were scored on the same images."""
        for name, (first, other) in pairs.items():
            if images[first] == images[other]:
                self.comparison[name] = compare(sampled[first], sampled[other])
            else:
                self.notes.append(f"{' '.join(name)}: not compared, for they were not scored on the same images")


def main(args) -> None:
    # evaluate
    check_outputs(args)
    kinds = {"saliency": evaluate_saliency, "submission": evaluate_submission}
    done = kinds.get(args.kind, evaluate_labels)(args)
    conventions = conventions_of(args) + ([OF_COMPARISON] if done.comparison else [])
    for table in done.tables:
        if table.on_screen:
            print(f"{table.name}\n{table.markdown()}\n")
    print("\n".join([*done.notes, *conventions]))

    # save
    if args.tables:
        save_tables(args.tables, done.tables)
        for plot in done.plots:
            save_plot(Path(args.tables) / f"{plot.name}.png", plot)
    if args.json:
        write_json(args.json, done.scores)
    if args.kind != "submission" and args.report:
        versions = ", ".join(f"{name} {version}" for name, version in versions_of(PACKAGES).items())
        notes = [f"{args.kind}: {', '.join(args.pred)}", *done.notes, *conventions, versions]
        plots = [*done.plots, *(table.plot() for table in done.tables if table.curve)]
        order = f"{WORST_BY[args.kind]}, mean over methods"
        write_page(args.report, f"Scores of {args.kind}", done.tables, plots, done.pictures, notes, done.lower, order)
    for written in (args.tables, args.json, getattr(args, "report", None)):
        if written:
            print(f"written: {written}")
    if done.failures:
        raise InputError(f"{'; '.join(done.failures)}: repair these files, or leave them out by --allow_missing")


def check_outputs(args) -> None:
    """Raises where a file or folder to write, or a name, would only fail when all is scored."""
    for flag in ("json", "report"):
        path = getattr(args, flag, None)
        if path and Path(path).is_dir():
            raise InputError(f"--{flag} {path} is a folder: name a file")
    if args.tables and Path(args.tables).exists() and not Path(args.tables).is_dir():
        raise InputError(f"--tables {args.tables} is a file: name a folder")
    taken = RESERVED & set(getattr(args, "pred", ()))
    if taken:
        raise InputError(f"--pred {shorten(taken)}: the results use this name for something else; write ./{min(taken)}")


def about(args) -> dict:
    """What an entry of the JSON file says of how it was made."""
    return {"conventions": conventions_of(args), "versions": versions_of(PACKAGES) | {"commit": current_commit()}}


def conventions_of(args) -> list[str]:
    lines = list(CONVENTIONS[args.kind])
    if args.kind == "saliency":
        lines.append(STRICT_REFERENCE if args.strict_reference else DEFINED)
    if args.kind != "submission" and args.bootstrap:
        lines.append(OF_BOOTSTRAP.format(args.bootstrap))
    return lines


def evaluate_saliency(args) -> Evaluation:
    """Scores every data set that a method has maps of; `scores`: {method: {data set: scores}}."""
    gt_root, done, scored, entries = Path(args.gt_root), Evaluation({}, []), {}, {}
    work = {method: find_maps(Path(method), gt_root, args.allow_missing) for method in args.pred}
    files = {(method, data_set): found for method, sets in work.items() for data_set, found in sets.items()}
    for key, found in files.items():
        name, progress = " on ".join(key), progress_bar(len(found.maps), " on ".join(key))
        maps = score_maps(found, args.weighted_f, args.strict_reference, args.bootstrap, args.workers, progress)
        if maps:
            scored[key] = maps
        done.note_files(name, found.report, args.allow_missing)
    if not scored:
        raise InputError("; ".join(done.failures))
    made_by, all_sets = about(args), sets_with_masks(gt_root)
    for method, found in work.items():
        lacking = all_sets - found.keys()
        if lacking:
            done.notes.append(f"{method} has no folder of {shorten(sorted(lacking))}, which is not scored")
    for (method, data_set), maps in scored.items():
        report = files[method, data_set].report
        curves = {name: maps.curves[name] for name in ("precision", "recall", "F", "E")}
        told = {"images": report.scored, "resized": len(report.resized), "files": asdict(report), "curves": curves}
        intervals = {"intervals": maps.sampled.intervals()} if maps.sampled else {}
        entries[method, data_set] = plain(maps.scores | told | intervals) | made_by
        done.scores.setdefault(method, {})[data_set] = entries[method, data_set]
    done.tables.extend(saliency_tables(entries))
    if args.bootstrap:
        sampled = {key: maps.sampled for key, maps in scored.items()}
        done.tables.append(interval_table(["method", "data set"], sampled, four_digits))
        first = args.pred[0]
        pairs = [((first, key[1]), key) for key in scored if key[0] != first and (first, key[1]) in scored]
        images = {key: maps.images.keys() for key, maps in scored.items()}
        done.compare({(key[1], f"{key[0]} − {first}"): (start, key) for start, key in pairs}, sampled, images)
        if done.comparison:
            done.tables.append(comparison_table(["data set", "difference"], done.comparison, four_digits))
    done.plots.extend(saliency_plots({key: maps.curves for key, maps in scored.items()}))
    return replace(done, pictures=map_pictures(files, scored, gt_root, args.report_images), lower=("MAE",))


def plain(value):
    """A score, or a dict or list of them, as JSON knows it: None for what is not a number."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [plain(one) for one in value]
    return None if value != value else value


def progress_bar(total: int, title: str) -> Callable:
    return partial(tqdm, total=total, desc=title, mininterval=1, leave=False)


def evaluate_labels(args) -> Evaluation:
    """Scores label maps: as they are and, where saliency maps are given, after the selector.

    `scores`: {folder or rule: scores}, with those "over_seeds" where a setting has several.
    """
    voc_root = find_voc_root(args.data_dir)
    data, done, scored = load_label_data(args, voc_root), Evaluation({}, []), {}
    selector, bg_threshold, sweep = None, None, ()
    if args.kind == "labels":
        selector, bg_threshold = choose_selector(args, data), args.bg_threshold
        sweep = () if args.sweep is None else sorted(args.sweep) or PAPER_T0S
    sources = label_sources(args, data, voc_root, bg_threshold)
    made_by = about(args)
    for name, source in sources.items():
        labels = score_labels(name, source, data, selector, sweep, args.bootstrap, args.workers, progress_bar)
        if labels:
            scored[name] = labels
            done.scores[name] = labels.scores | {"files": asdict(source.report)} | made_by
            for version, found in labels.sampled.items():
                entry = done.scores[name] if version == name else done.scores[name]["selected"]
                entry["intervals"] = plain(found.intervals())
            if selector:
                done.notes.append(selector_note(name, labels.scores["selector"], selector))
        done.note_files(name, source.report, args.allow_missing)
    if not scored:
        raise InputError("; ".join(done.failures))
    which = " with exactly one class" if args.single_class else ""
    done.notes.insert(0, f"{len(data.ids)} images{which} in the list, truth {data.truth[0].parent}, %")
    done.tables.extend(label_tables(args.kind, data.names, done.scores))
    over_seeds = scores_over_seeds(done.scores)
    if over_seeds:
        done.tables.insert(1, seed_table(over_seeds))  # below the table of all folders
        done.scores["over_seeds"] = over_seeds
    if args.bootstrap:
        sampled = {name: found for labels in scored.values() for name, found in labels.sampled.items()}
        done.tables.append(interval_table([args.kind], {(name,): found for name, found in sampled.items()}, percent))
        images = {name: labels.images.keys() for labels in scored.values() for name in labels.sampled}
        first, *others = sampled
        short = dict(zip(sampled, short_names(sampled)))
        done.compare({(f"{short[name]} − {short[first]}",): (first, name) for name in others}, sampled, images)
        if done.comparison:
            done.tables.append(comparison_table(["difference"], done.comparison, percent))
    return replace(done, pictures=label_pictures(sources, scored, data, voc_root / "JPEGImages", args.report_images))


def label_sources(args, data: LabelData, voc_root: Path, bg_threshold: float | None) -> dict[str, LabelSource]:
    """All that is to be scored, by name; raises if anything is missing that may not be."""
    rules = rule_sources(args, data, voc_root) if args.kind == "labels" else {}
    if not args.pred and not rules:
        raise InputError("nothing to score: name folders by --pred, or --rules and --cam_dir")
    both = rules.keys() & set(args.pred)
    if both:
        raise InputError(f"--pred {shorten(both)}: a rule of --rules has that name; write ./{shorten(both)}")
    return {name: folder_source(name, data, bg_threshold, args.allow_missing) for name in args.pred} | rules


def load_label_data(args, voc_root: Path) -> LabelData:
    names = ("background", *load_class_names(voc_root))
    ids, image_labels = load_ids(args.list), None
    source = args.single_class or args.image_labels
    beside = Path(args.list).with_name("cls_labels.npy")  # as in the README's tree
    if not source and args.kind == "labels" and beside.is_file():
        holds_scores = any(stems_in(folder, SUFFIXES[1:]).intersection(ids) for folder in args.pred)
        source = beside if holds_scores or args.saliency_dir or args.rules is not None else None
    if source:
        image_labels = load_image_labels(source, ids, names[1:])
    if args.single_class:
        chosen = np.flatnonzero(image_labels.sum(axis=1) == 1)
        if not chosen.size:
            raise InputError(f"{args.list} has no image with exactly one class by {args.single_class}")
        ids, image_labels = [ids[index] for index in chosen], image_labels[chosen]
    truth = files_of_ids(mask_folder(voc_root, args.gt) if args.gt else truth_folder(voc_root, ids), ids, ".png")
    return LabelData(ids, names, truth, image_labels)


def choose_selector(args, data: LabelData) -> ImageSelector | None:
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
    maps = files_of_ids(args.saliency_dir, data.ids, ".png")
    split_cams = files_of_ids(args.cam_dir, data.ids, ".npz") if splits else None
    return ImageSelector(thresholds, args.saliency_threshold, data.image_labels, maps, split_cams, data.truth)


def selector_note(name: str, statistics: dict, selector: ImageSelector) -> str:
    """What the thresholds of a selection in memory come from."""
    numbers = [f"{key} {statistics[key]:.2f}" for key in ("t0", "t1", "tau") if key in statistics]
    measured = "; thresholds measured on this list, with another they may differ"
    return f"{name} + selector: {', '.join(numbers)}{measured if selector.thresholds.depend_on_images else ''}"


def folder_source(folder: str, data: LabelData, bg_threshold: float | None, allow_missing: bool) -> LabelSource:
    """The files of a folder, all of which must be there unless `allow_missing`. Score dictionaries are made labels by a
    constant background; where it is None, the files are label maps."""
    only_label_maps = bg_threshold is None
    stems = stems_in(folder, (".png",) if only_label_maps else SUFFIXES)
    missing = [name for name in data.ids if name not in stems]
    if missing and not (allow_missing and len(missing) < len(data.ids)):
        raise MissingInputError(
            f"{folder} lacks the labels of {len(missing)} of {len(data.ids)} images ({shorten(missing)}): expected "
            f"<id>{'.png' if only_label_maps else ', <id>'.join(SUFFIXES)}; --allow_missing scores the others alone"
        )
    indices = [index for index, name in enumerate(data.ids) if name in stems]
    ids = [data.ids[index] for index in indices] if missing else data.ids
    paths = files_of_ids(folder, ids, ".png") if only_label_maps else find_baseline(folder, ids)
    if data.image_labels is None and any(path.suffix != ".png" for path in paths):
        raise InputError(f"{folder} holds score dictionaries: --image_labels must tell the classes of the images")
    read = partial(read_folder, dict(zip(indices, paths)) if missing else paths, data, bg_threshold)
    return LabelSource(read, indices, FileReport(missing=missing, extra=sorted(stems.difference(data.ids))))


def stems_in(folder: str, suffixes) -> set[str]:
    return {path.stem for path in existing_folder(folder).iterdir() if path.suffix in suffixes}


def read_folder(
    paths: Sequence[Path] | dict[int, Path], data: LabelData, bg_threshold, index: int, shape_hw
) -> np.ndarray:
    image_labels = np.zeros(len(data.names) - 1, bool) if data.image_labels is None else data.image_labels[index]
    return load_baseline(paths[index], image_labels, data.truth[index], shape_hw, bg_threshold)


def rule_sources(args, data: LabelData, voc_root: Path) -> dict[str, LabelSource]:
    """Rule → labels by that rule, from the maps of --cam_dir."""
    if args.rules is None:
        return {}
    if not args.cam_dir or data.image_labels is None:
        raise InputError("--rules needs --cam_dir and --image_labels")
    rules = args.rules or list(RULES)
    unfounded = [rule for rule in rules if "saliency" in evidence_of(rule) and not args.saliency_dir]
    if unfounded:
        raise InputError(f"--rules {shorten(unfounded)} need --saliency_dir")
    cams = files_of_ids(args.cam_dir, data.ids, ".npz")
    second_cams = files_of_ids(args.second_cam_dir or args.cam_dir, data.ids, ".npz")
    images = files_of_ids(voc_root / "JPEGImages", data.ids, ".jpg")
    maps = files_of_ids(args.saliency_dir, data.ids, ".png") if args.saliency_dir else [None] * len(data.ids)
    paths = list(zip(cams, second_cams, images, maps))
    everything = list(range(len(data.ids)))
    return {
        rule: LabelSource(partial(read_rule, rule, paths, data, args.bg_threshold), everything, FileReport())
        for rule in rules
    }


def read_rule(rule: str, paths: list[tuple], data: LabelData, bg_threshold: float, index: int, shape_hw) -> np.ndarray:
    evidence = load_evidence(evidence_of(rule), *paths[index], data.image_labels[index])
    check_size(paths[index][0], evidence["cams"].shape[1:], data.truth[index], shape_hw)
    return fuse(rule, evidence, {"bg_threshold": bg_threshold} if rule == "none" else {})


def evaluate_submission(args) -> Evaluation:
    """Checks an archive for VOC's test server; raises if anything is wrong. `scores`: {class: masks that hold it}"""
    ids = load_ids(args.list)
    photographs = files_of_ids(find_voc_root(args.data_dir) / "JPEGImages", ids, ".jpg")
    report = check_submission(args.archive, {name: image_size(path) for name, path in zip(ids, photographs)})
    if report.problems:
        raise InputError(f"--archive {args.archive} is no valid submission: {'; '.join(report.problems)}")
    masks_of_class = dict(zip(("background", *VOC_CLASSES), report.masks_of_label))
    rows = [[name, count] for name, count in masks_of_class.items()]
    table = Table("submission", ["class", "masks that hold it"], rows)
    return Evaluation(masks_of_class, [table], notes=[f"valid: {len(ids)} masks in {report.folder}"])


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
