r"""Stage 4: files → benchmark tables.

    python evaluate.py saliency --pred experiments/saliency/ours other_method --gt_root dataset/benchmark
    python evaluate.py labels --pred experiments/pseudo_labels/cam experiments/pseudo_labels/sos \
        --data_dir data/voc12 --list voc12/train_id.txt
    python evaluate.py labels --baseline_dir other_method/labels --saliency_dir experiments/saliency/ours/VOC2012 \
        --data_dir data/voc12 --list voc12/train_id.txt --image_labels voc12/cls_labels.npy --sweep --tables tables
    python evaluate.py segmentation --pred experiments/segmentations/val --data_dir data/voc12 --list voc12/val_id.txt
    python evaluate.py submission --archive results.tar.gz --data_dir data/voc12 --list voc12/test_id.txt

Maps of a method are METHOD_DIR/<data set>/<stem>.png, their ground truth GT_ROOT/<data set>/Masks/<stem>.png; labels
and segmentations are DIR/<id>.png. A missing prediction is an error. Folders whose paths differ only in a last part
seed<N> are runs of one setting: a table shows their mean ± standard deviation. With saliency maps, labels are scored
before and after the selector, which works in memory and writes no labels. `submission` checks an archive as the test
server of VOC does: files, sizes, palette, labels.
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
from pseudo_labels.selector import ImageSelector, build_thresholds
from utils.interruption import run_script
from utils.output_folder import current_commit, versions_of

PAPER_THRESHOLDS = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
RESERVED = {"image", "truth", "over_seeds"}  # keys of the results beside the names of --pred
PACKAGES = ("numpy", "opencv-python-headless")
LABEL_CONVENTIONS = [
    "a prediction of 255 counts as a miss; mIoU*: such pixels are dropped; coverage: share of pixels with a prediction",
    "pixels with truth 255 are not counted; means leave out classes that do not occur",
    "boundary IoU: within 2 % of the image diagonal from the outlines",
]
CONVENTIONS = {
    "saliency": [
        "maps: 8-bit, each stretched to 0..1; truth: above 128; 256 thresholds, on the truncated 8-bit value",
        "F: β² = 0.3; max and mean: of the mean curve over images; adp: at twice the mean of the map; wF: β² = 1",
        "max F of mean PR: F of the mean precision and the mean recall; mean of max F: best threshold of each image",
        "S: α = 0.5; E: divided by the number of pixels − 1, as in PySODMetrics",
        "masks of 0 and 1 are binary; the upper 8 bits of 16-bit masks are used",
        "IoU, Dice, BER: over the thresholds, as F; boundary IoU: at half of the range",
    ],
    "labels": LABEL_CONVENTIONS,
    "segmentation": LABEL_CONVENTIONS,
    "submission": ["8-bit palette PNGs of the photographs' sizes, VOC's palette, labels 0 to 20"],
}
DEFINED = "scores are at most 1 and always defined; --strict_reference returns what PySODMetrics returns"
STRICT_REFERENCE = "--strict_reference: as PySODMetrics, even if above 1 or undefined"
BOOTSTRAP_CONVENTION = "[ , ]: 95 % intervals over {} Poisson bootstrap resamples of the images"
COMPARISON_CONVENTION = "p: two-sided, of the hypothesis of no difference"
PICTURE_ORDER = {"saliency": "S", "labels": "mIoU", "segmentation": "mIoU"}  # worst first


@dataclass
class Evaluation:
    """Everything that an evaluation prints and writes.

    scores      content of the JSON file
    comparison  differences between the methods and the first one
    notes       remarks on the files
    failures    files that should have been scored and could not be
    pictures    of the page, drawn when they are written
    lower       measures that are better if lower
    """

    scores: dict
    tables: list[Table]
    plots: list[Plot] = field(default_factory=list)
    comparison: dict[str, dict] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    pictures: Iterable[Picture] = ()
    lower: tuple[str, ...] = ()

    def note_files(self, name: str, report: FileReport, allow_missing: bool) -> None:
        """Add notes on the files of one method, and a failure if some of them could not be scored."""
        self.notes.extend(f"{name}: {line}" for line in report.summarize())
        if report.unusable and not (allow_missing and report.scored):
            reasons = "; ".join(list(report.unusable.values())[:3])
            self.failures.append(f"{name}: {len(report.unusable)} images cannot be scored: {reasons}")

    def compare(self, pairs: dict[tuple, tuple], sampled: dict, images: dict) -> None:
        """Compare pairs of methods that were scored on the same images. pairs: name → (key of the first, key of the
        other).
        """
        for name, (first, other) in pairs.items():
            if images[first] == images[other]:
                self.comparison[name] = compare(sampled[first], sampled[other])
            else:
                self.notes.append(f"{' '.join(name)}: not compared: they were scored on different images")


def main(args) -> None:
    # evaluate
    check_outputs(args)
    kinds = {"saliency": evaluate_saliency, "submission": evaluate_submission}
    done = kinds.get(args.kind, evaluate_labels)(args)
    conventions = conventions_of(args) + ([COMPARISON_CONVENTION] if done.comparison else [])
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
        order = f"{PICTURE_ORDER[args.kind]}, mean over methods"
        write_page(args.report, f"Scores of {args.kind}", done.tables, plots, done.pictures, notes, done.lower, order)
    for written in (args.tables, args.json, getattr(args, "report", None)):
        if written:
            print(f"written: {written}")
    if done.failures:
        raise InputError(f"{'; '.join(done.failures)}: repair these files, or leave them out by --allow_missing")


def check_outputs(args) -> None:
    """Raise `InputError` for outputs that cannot be written, before the work starts."""
    for flag in ("json", "report"):
        path = getattr(args, flag, None)
        if path and Path(path).is_dir():
            raise InputError(f"--{flag} {path} is a folder: name a file")
    if args.tables and Path(args.tables).exists() and not Path(args.tables).is_dir():
        raise InputError(f"--tables {args.tables} is a file: name a folder")
    taken = RESERVED & set(getattr(args, "pred", ()))
    if taken:
        raise InputError(f"--pred {shorten(taken)}: this name is reserved in the results; write ./{min(taken)}")


def provenance(args) -> dict:
    """Conventions and versions, stored with each entry of the JSON file."""
    return {"conventions": conventions_of(args), "versions": versions_of(PACKAGES) | {"commit": current_commit()}}


def conventions_of(args) -> list[str]:
    lines = list(CONVENTIONS[args.kind])
    if args.kind == "saliency":
        lines.append(STRICT_REFERENCE if args.strict_reference else DEFINED)
    if args.kind != "submission" and args.bootstrap:
        lines.append(BOOTSTRAP_CONVENTION.format(args.bootstrap))
    return lines


def evaluate_saliency(args) -> Evaluation:
    """Score every data set that a method has maps of; `scores` is {method: {data set: scores}}."""
    gt_root, done, scored, entries = Path(args.gt_root), Evaluation({}, []), {}, {}
    work = {method: find_maps(Path(method), gt_root, args.allow_missing) for method in args.pred}
    settings = {"strict_reference": args.strict_reference, "num_replicates": args.bootstrap, "workers": args.workers}
    files = {(method, data_set): found for method, sets in work.items() for data_set, found in sets.items()}
    for key, found in files.items():
        name = " on ".join(key)
        maps = score_maps(found, **settings, progress=progress_bar(len(found.maps), name))
        if maps:
            scored[key] = maps
        done.note_files(name, found.report, args.allow_missing)
    if not scored:
        raise InputError("; ".join(done.failures))
    made_by, all_sets = provenance(args), sets_with_masks(gt_root)
    for method, found in work.items():
        lacking = all_sets - found.keys()
        if lacking:
            done.notes.append(f"{method} has no folder of {shorten(sorted(lacking))}: not scored")
    for (method, data_set), maps in scored.items():
        report = files[method, data_set].report
        curves = {name: maps.curves[name] for name in ("precision", "recall", "F", "E")}
        details = {"images": report.scored, "resized": len(report.resized), "files": asdict(report), "curves": curves}
        intervals = {"intervals": maps.sampled.intervals()} if maps.sampled else {}
        entries[method, data_set] = to_json(maps.scores | details | intervals) | made_by
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


def to_json(value):
    """Convert scores, or nested dicts and lists of them, for JSON: NaN becomes None."""
    if isinstance(value, dict):
        return {key: to_json(each) for key, each in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [to_json(each) for each in value]
    return None if value != value else value


def progress_bar(total: int, title: str) -> Callable:
    return partial(tqdm, total=total, desc=title, mininterval=1, leave=False)


def evaluate_labels(args) -> Evaluation:
    """Score label maps and, if saliency maps are given, the same labels after the selector.

    `scores` is {folder or rule: scores}, with a key "over_seeds" if a setting has several seeds.
    """
    voc_root = find_voc_root(args.data_dir)
    data, done, scored = load_label_data(args, voc_root), Evaluation({}, []), {}
    selector, bg_threshold, sweep = None, None, ()
    if args.kind == "labels":
        selector, bg_threshold = choose_selector(args, data), args.bg_threshold
        sweep = () if args.sweep is None else sorted(args.sweep) or PAPER_THRESHOLDS
    sources = label_sources(args, data, voc_root, bg_threshold)
    made_by = provenance(args)
    for name, source in sources.items():
        labels = score_labels(name, source, data, selector, sweep, args.bootstrap, args.workers, progress_bar)
        if labels:
            scored[name] = labels
            done.scores[name] = labels.scores | {"files": asdict(source.report)} | made_by
            for version, found in labels.sampled.items():
                entry = done.scores[name] if version == name else done.scores[name]["selected"]
                entry["intervals"] = to_json(found.intervals())
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
    """The label maps to score, by name; raises `InputError` for missing files."""
    rules = rule_sources(args, data, voc_root) if args.kind == "labels" else {}
    if not args.pred and not rules:
        raise InputError("nothing to score: name folders by --pred, or --rules and --cam_dir")
    both = rules.keys() & set(args.pred)
    if both:
        raise InputError(
            f"--pred {shorten(both)}: --rules makes labels of the same name; write the folder as ./{min(both)}"
        )
    return {name: folder_source(name, data, bg_threshold, args.allow_missing) for name in args.pred} | rules


def load_label_data(args, voc_root: Path) -> LabelData:
    names = ("background", *load_class_names(voc_root))
    ids, image_labels = load_ids(args.list), None
    source = args.single_class or args.image_labels
    beside = Path(args.list).with_name("cls_labels.npy")  # as in the tree of the README
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
    truth = files_of_ids(truth_folder(voc_root, ids), ids, ".png")
    return LabelData(ids, names, truth, image_labels)


def choose_selector(args, data: LabelData) -> ImageSelector | None:
    """Build the selector from the flags; None if it is off or has no maps. Raises `InputError` for missing inputs."""
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
    """Describe the thresholds of a selection."""
    numbers = [f"{key} {statistics[key]:.2f}" for key in ("t0", "t1", "tau") if key in statistics]
    measured = "; thresholds are measured on this list and differ on others"
    return f"{name} + selector: {', '.join(numbers)}{measured if selector.thresholds.depend_on_images else ''}"


def folder_source(folder: str, data: LabelData, bg_threshold: float | None, allow_missing: bool) -> LabelSource:
    """The label maps, or score dictionaries, of a folder; a missing file is an error unless `allow_missing`.

    Score dictionaries become labels by the constant background `bg_threshold`; if it is None, only label maps are read.
    """
    only_label_maps = bg_threshold is None
    stems = stems_in(folder, (".png",) if only_label_maps else SUFFIXES)
    missing = [name for name in data.ids if name not in stems]
    if missing and not (allow_missing and len(missing) < len(data.ids)):
        raise MissingInputError(
            f"{folder} lacks the labels of {len(missing)} of {len(data.ids)} images ({shorten(missing)}): expected "
            f"<id>{'.png' if only_label_maps else ', <id>'.join(SUFFIXES)}; --allow_missing scores only the others"
        )
    indices = [index for index, name in enumerate(data.ids) if name in stems]
    ids = [data.ids[index] for index in indices] if missing else data.ids
    paths = files_of_ids(folder, ids, ".png") if only_label_maps else find_baseline(folder, ids)
    if data.image_labels is None and any(path.suffix != ".png" for path in paths):
        raise InputError(f"{folder} holds score dictionaries: name the classes of the images by --image_labels")
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
    """Labels made by each fusion rule from the maps of --cam_dir, by the name of the rule."""
    if args.rules is None:
        return {}
    if not args.cam_dir or data.image_labels is None:
        raise InputError("--rules needs --cam_dir and --image_labels")
    rules = args.rules or list(RULES)
    without_maps = [rule for rule in rules if "saliency" in evidence_of(rule) and not args.saliency_dir]
    if without_maps:
        raise InputError(f"--rules {shorten(without_maps)} need --saliency_dir")
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
    """Check an archive for the test server of VOC; `scores` is {class: number of masks that hold it}.

    Raises `InputError` with all problems of an archive that the server would refuse.
    """
    ids = load_ids(args.list)
    photographs = files_of_ids(find_voc_root(args.data_dir) / "JPEGImages", ids, ".jpg")
    report = check_submission(args.archive, {name: image_size(path) for name, path in zip(ids, photographs)})
    if report.problems:
        raise InputError(f"--archive {args.archive} is not a valid submission: {'; '.join(report.problems)}")
    masks_of_class = dict(zip(("background", *VOC_CLASSES), report.masks_of_label))
    rows = [[name, count] for name, count in masks_of_class.items()]
    table = Table("submission", ["class", "masks that hold it"], rows)
    return Evaluation(masks_of_class, [table], notes=[f"valid: {len(ids)} masks in {report.folder}"])


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
