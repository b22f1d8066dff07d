r"""Stage 4: files → benchmark tables.

    python evaluate.py saliency --pred experiments/saliency/ours other_method --gt_root dataset/benchmark
    python evaluate.py labels --baseline_dir other_method/labels --saliency_dir experiments/saliency/ours/VOC2012 \
        --data_dir data/voc12 --list voc12/train_id.txt --image_labels voc12/cls_labels.npy --sweep --tables tables
    python evaluate.py segmentation --pred experiments/segmentations/val --data_dir data/voc12 --list voc12/val_id.txt
    python evaluate.py submission --archive results.tar.gz --data_dir data/voc12 --list voc12/test_id.txt
    python evaluate.py doubt --pred experiments/pseudo_labels/own --predictions segmentations --data_dir data/own \
        --list lists/all_id.txt --csv doubt.csv --report doubt.html

A missing prediction is an error without --allow_missing. Folders whose paths differ only in a last part seed<N> are
runs of one setting: a table shows their mean ± standard deviation. With saliency maps, labels are scored before and
after the selector, which works in memory. `submission` checks an archive as the test server of VOC does. `doubt` says
without any truth which labels to correct first: those that a network trained on all of them contradicts.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.evaluate().parse_args()

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from datasets.voc_submission import SUBMISSION_FOLDER, check_submission
from formats import voc_layout
from formats.atomic_files import check_output_file, write_csv, write_json
from formats.errors import InputError, shorten
from formats.image_labels import load_image_labels
from formats.images import image_size, load_mask, scale_maps
from metrics.bootstrap import MethodScores, comparison_table, interval_table
from metrics.label_doubt import DOUBT_NOTES, doubt_pictures, doubt_table, find_label_files, rank_labels
from metrics.label_folders import LabelData, LabelSource, Selectors, label_pictures, score_labels
from metrics.label_tables import label_tables
from metrics.page import Picture, write_page
from metrics.plots import Plot, save_plot
from metrics.saliency_folders import find_maps, map_pictures, score_maps
from metrics.saliency_tables import saliency_plots, saliency_tables
from metrics.scored_files import FileReport
from metrics.tables import Table, four_digits, percent, save_tables
from pseudo_labels.external_labels import LABEL_SUFFIXES, find_baseline, load_baseline
from pseudo_labels.fusion_inputs import fuse_files
from pseudo_labels.fusion_rules import RULES, list_inputs
from pseudo_labels.selector import ImageSelector, ThresholdRule
from utils.interruption import run_script
from utils.output_folder import current_commit, find_versions

PAPER_THRESHOLDS = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
SALIENCY_CONVENTIONS = [
    "maps: 8-bit, each stretched to 0..1; truth: above 128, or masks of 0 and 1; S: α = 0.5",
    "F: β² = 0.3; max and mean: of the mean curve over 256 thresholds; adp: at twice the mean of the map",
    "max F of mean PR: F of the mean precision and the mean recall; mean of max F: best threshold of each image",
]
LABEL_CONVENTIONS = [
    "a prediction of 255 counts as a miss; mIoU*: such pixels are dropped; coverage: share of pixels with a prediction",
    "pixels with truth 255 are not counted; means leave out classes that do not occur",
]


@dataclass
class Evaluation:
    """Everything that an evaluation prints and writes.

    scores: content of the JSON file. failures: files that could not be scored. pictures: shown on the page.
    """

    scores: dict = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    pictures: Iterable[Picture] = ()

    def add_report(self, name: str, report: FileReport, allow_missing: bool) -> None:
        """Add notes on the files of one method, and a failure if some of them could not be scored."""
        self.notes.extend(f"{name}: {line}" for line in report.summarize())
        if report.unusable and not (allow_missing and report.scored):
            names, first = shorten(report.unusable), next(iter(report.unusable.values()))
            self.failures.append(f"{name}: {len(report.unusable)} images cannot be scored ({names}): {first}")

    def add_statistics(self, columns: list[str], methods: dict[tuple, MethodScores], show) -> None:
        """Add tables of intervals and of differences from the first method. Arguments: see `interval_table`."""
        comparison, notes = comparison_table(columns, methods, show)
        self.tables += [interval_table(columns, methods, show), *([comparison] if comparison.rows else [])]
        self.notes += notes


def main(args) -> None:
    # evaluate
    check_outputs(args)
    done = KINDS[args.kind](args)
    for table in done.tables:
        if table.on_screen:
            print(f"{table.name}\n{table.markdown()}\n")
    print("\n".join(done.notes))

    # save
    if args.tables:
        save_tables(args.tables, done.tables)
        for plot in done.plots:
            save_plot(Path(args.tables) / f"{plot.name}.png", plot)
    if args.json:
        write_json(args.json, done.scores)
    if args.report:
        notes = [f"{args.kind}: {', '.join(args.pred)}", *done.notes]
        title = "Labels to correct first" if args.kind == "doubt" else f"Scores of {args.kind}"
        write_page(args.report, title, done.tables, done.plots, done.pictures, notes)
    for written in (args.tables, args.json, args.report):
        if written:
            print(f"written: {written}")
    if done.failures:
        raise InputError(f"{shorten(done.failures, 1)}; --allow_missing leaves them out")


def check_outputs(args) -> None:
    """Raise `InputError` for outputs that cannot be written, before the work starts."""
    for flag, path in (("json", args.json), ("report", args.report)):
        check_output_file(f"--{flag}", path)
    if args.tables and Path(args.tables).is_file():
        raise InputError(f"--tables {args.tables} is a file: name a folder")


def describe_scoring(args) -> dict:
    """Return the conventions and versions, which are stored with each entry of the JSON file."""
    conventions = list(SALIENCY_CONVENTIONS if args.kind == "saliency" else LABEL_CONVENTIONS)
    if args.kind == "saliency" and args.strict_reference:
        conventions.append("--strict_reference: as PySODMetrics, even if above 1 or undefined")
    if args.bootstrap:
        conventions.append(f"[ , ]: 95 % intervals over {args.bootstrap} Poisson bootstrap resamples of the images")
    versions = find_versions(("numpy", "opencv-python-headless")) | {"commit": current_commit()}
    return {"conventions": conventions, "versions": versions}


def evaluate_saliency(args) -> Evaluation:
    """Score every data set that a method has maps of; `scores` is {method: {data set: scores}}."""
    done, gt_root, scoring = Evaluation(), Path(args.gt_root), describe_scoring(args)
    found = {method: find_maps(Path(method), gt_root, args.allow_missing) for method in args.pred}
    files = {(method, data_set): maps for method, sets in found.items() for data_set, maps in sets.items()}
    scored, entries = {}, {}
    for (method, data_set), maps in files.items():
        key, name = (method, data_set), f"{method} on {data_set}"
        scores, scored_maps = score_maps(name, maps, args.strict_reference, args.bootstrap, args.workers)
        done.add_report(name, maps.report, args.allow_missing)
        if scores:
            scored[key], entries[key] = scored_maps, scores | {"files": asdict(maps.report)} | scoring
            done.scores.setdefault(method, {})[data_set] = entries[key]
            if not any(load_mask(maps.truth[stem]).any() for stem in scored_maps.images):
                done.notes.append(f"{name}: no mask of the truth holds an object: most scores mean nothing")
    if not scored:
        raise InputError(shorten(done.failures, 1))
    done.tables += saliency_tables(entries)
    if args.bootstrap:
        done.add_statistics(["method", "data set"], scored, four_digits)
    done.notes += scoring["conventions"]
    done.plots, done.pictures = saliency_plots(entries), map_pictures(files, scored, gt_root, args.report_images)
    return done


def evaluate_labels(args) -> Evaluation:
    """Score label maps and, if saliency maps are given, the same labels after the selector.

    `scores` is {folder or rule: scores}.
    """
    voc_root = voc_layout.find_voc_root(args.data_dir)
    data, done, scored, scoring = load_label_data(args, voc_root), Evaluation(), {}, describe_scoring(args)
    selectors = build_selectors(args, data, voc_root)
    sweep = PAPER_THRESHOLDS if args.sweep == [] else sorted(args.sweep or [])
    sources = {name: find_labels(name, data, args) for name in args.pred} | list_rules(args, data, voc_root)
    if not sources:
        raise InputError("nothing to score: name folders by --pred, or --rules and --cam_dir")
    which = "images with exactly one class" if args.single_class else "images"
    done.notes.append(f"{len(data.ids)} {which} in the list, truth {data.truth[0].parent}, %")
    for name, source in sources.items():
        scores, versions = score_labels(name, source, data, selectors, sweep, args.bootstrap, args.workers)
        done.add_report(name, source.report, args.allow_missing)
        if not scores:
            continue
        scored |= versions
        done.scores[name] = scores | {"files": asdict(source.report)} | scoring
        if selectors.threshold:
            numbers = ", ".join(f"{key} {value:.2f}" for key, value in scores["selector"].items() if key != "classes")
            depends = selectors.evidence or selectors.threshold.threshold_rule.depend_on_images
            measured = "; measured on this list, other lists give other numbers" if depends else ""
            done.notes.append(f"{name} + selector: {numbers}{measured}")
    if not scored:
        raise InputError(shorten(done.failures, 1))
    done.tables, done.plots = label_tables(args.kind, data.names, done.scores)
    if args.bootstrap:
        done.add_statistics([args.kind], {(name,): scores for name, scores in scored.items()}, percent)
    done.notes += scoring["conventions"]
    done.pictures = label_pictures(sources, scored, data, voc_layout.photograph_folder(voc_root), args.report_images)
    return done


def load_label_data(args, voc_root: Path) -> LabelData:
    names = ("background", *voc_layout.load_class_names(voc_root))
    ids, image_labels = voc_layout.load_ids(args.list, voc_layout.photograph_folder(voc_root)), None
    source = args.single_class or args.image_labels
    beside = Path(args.list).with_name("cls_labels.npy")  # as in the tree of the README
    if not source and args.kind == "labels" and beside.is_file():
        holds_scores = any(next(Path(folder).glob("*.np[yz]"), None) for folder in args.pred)
        source = beside if holds_scores or args.saliency_dir or args.rules is not None else None
    if source:
        image_labels = load_image_labels(source, ids, names[1:])
    if args.single_class:
        chosen = np.flatnonzero(image_labels.sum(axis=1) == 1)
        if not chosen.size:
            raise InputError(f"{args.list} has no single-class image: check --single_class {args.single_class}")
        ids, image_labels = [ids[index] for index in chosen], image_labels[chosen]
    truth = voc_layout.files_of_ids(voc_layout.truth_folder(voc_root, ids), ids, ".png")
    return LabelData(ids, names, truth, image_labels)


def build_selectors(args, data: LabelData, voc_root: Path) -> Selectors:
    """Build the selectors from the flags; None if off or without maps. Raises `InputError` for missing inputs."""
    if args.selector == "none" or not args.saliency_dir:
        if args.sweep is not None or args.selector == "evidence":
            raise InputError("--sweep and --selector evidence need --saliency_dir, and --sweep needs a --selector")
        return Selectors(None, None)
    if data.image_labels is None:
        raise InputError("the selector needs --image_labels (or --single_class): cls_labels.npy, a table or XML")
    threshold_rule = ThresholdRule(data.names[1:], **options.selector_settings(args))
    maps = scale_maps(voc_layout.files_of_ids(args.saliency_dir, data.ids, ".png"))
    selector = ImageSelector(threshold_rule, args.saliency_threshold, data.image_labels, maps, data.truth)
    if args.selector == "sos":
        return Selectors(selector, None)
    if not args.features:
        raise InputError("--selector evidence needs --features: a backbone, or a checkpoint of this project")
    from models.backbones import load_feature_network  # here, because only this selector needs torch
    from pseudo_labels.evidence import EvidenceSelector

    images = voc_layout.find_photographs(voc_root, data.ids)
    network = load_feature_network(args.features, args.pretrained, "cpu")
    inputs = data.ids, images, data.image_labels, selector.load_mask, data.truth
    return Selectors(selector, EvidenceSelector(network, "cpu", *inputs))


def find_labels(folder: str, data: LabelData, args) -> LabelSource:
    """The label maps, or score dictionaries, of a folder. Missing files are an error without --allow_missing."""
    suffixes = LABEL_SUFFIXES if args.kind == "labels" else (".png",)
    files = find_baseline(folder, data.ids, suffixes, args.allow_missing)
    if data.image_labels is None and any(path.suffix != ".png" for path in files.values()):
        raise InputError(f"{folder} holds score dictionaries: name the classes of the images by --image_labels")
    classes = np.zeros((len(data.ids), len(data.names) - 1)) if data.image_labels is None else data.image_labels
    rows = enumerate(zip(data.ids, classes, data.truth))
    inputs = {index: (files[name], of_image, truth) for index, (name, of_image, truth) in rows if name in files}
    missing = [name for name in data.ids if name not in files]
    stems = {path.stem for path in Path(folder).iterdir() if path.suffix in suffixes}
    report = FileReport(missing=missing, extra=sorted(stems.difference(data.ids)))
    return LabelSource(partial(load_baseline, bg_threshold=args.bg_threshold), inputs, report)


def list_rules(args, data: LabelData, voc_root: Path) -> dict[str, LabelSource]:
    """Labels made by each fusion rule from the maps of --cam_dir, by the name of the rule."""
    if args.rules is None:
        return {}
    if not args.cam_dir or data.image_labels is None:
        raise InputError("--rules needs --cam_dir and --image_labels")
    rules = args.rules or list(RULES)
    without_maps = [rule for rule in rules if "saliency" in list_inputs(rule) and not args.saliency_dir]
    if without_maps:
        raise InputError(f"--rules {shorten(without_maps)} need --saliency_dir")
    cam_dirs = args.cam_dir, args.second_cam_dir or args.cam_dir
    cams, second_cams = (voc_layout.files_of_ids(folder, data.ids, ".npz") for folder in cam_dirs)
    images = voc_layout.find_photographs(voc_root, data.ids)
    maps = args.saliency_dir and voc_layout.files_of_ids(args.saliency_dir, data.ids, ".png")
    maps = scale_maps(maps, warns=False) if maps else [None] * len(images)
    inputs = dict(enumerate(zip(data.image_labels, images, cams, second_cams, maps)))
    parameters = {rule: {"bg_threshold": args.bg_threshold} if rule == "none" else {} for rule in rules}
    return {rule: LabelSource(partial(fuse_inputs, rule, parameters[rule]), inputs, FileReport()) for rule in rules}


def fuse_inputs(rule: str, parameters: dict, *inputs) -> np.ndarray:
    *files, _ = inputs  # without the size of the truth
    return fuse_files(rule, parameters, 0, *files)


def evaluate_submission(args) -> Evaluation:
    """Check an archive for the test server of VOC; `scores` is {class: number of masks that hold it}.

    Raises `InputError` with the first two problems of an archive that the server would refuse.
    """
    folder = voc_layout.find_voc_root(args.data_dir) / "JPEGImages"
    ids = voc_layout.load_ids(args.list, folder)
    photographs = voc_layout.files_of_ids(folder, ids, ".jpg")
    sizes = {name: image_size(path) for name, path in zip(ids, photographs)}
    problems, masks_of_label = check_submission(args.archive, sizes)
    if problems:
        raise InputError(f"--archive {args.archive} is not a valid submission: {'; '.join(problems[:2])}")
    masks_of_class = dict(zip(("background", *voc_layout.VOC_CLASSES), masks_of_label))
    table = Table("submission", ["class", "masks that hold it"], [list(row) for row in masks_of_class.items()])
    return Evaluation(masks_of_class, [table], notes=[f"valid: {len(ids)} masks in {SUBMISSION_FOLDER}"])


def evaluate_doubt(args) -> Evaluation:
    """Rank labels by doubt, and write all of them to --csv; `scores` is empty."""
    check_output_file("--csv", args.csv)
    voc_root = voc_layout.find_voc_root(args.data_dir)
    names = ("background", *voc_layout.load_class_names(voc_root))
    ids = voc_layout.load_ids(args.list, voc_layout.photograph_folder(voc_root))
    files = find_label_files(voc_root, ids, *args.pred, args.predictions, args.saliency_dir)
    ranked = rank_labels(files, names, args.workers)
    table, pictures = doubt_table(ranked), doubt_pictures(files, ranked, names, args.report_images)
    if args.csv:
        write_csv(args.csv, [table.header, *table.rows])
        print(f"written: {args.csv}")
    first = Table("most doubtful labels", table.header, table.rows[:10])
    return Evaluation(tables=[first], notes=DOUBT_NOTES, pictures=pictures)


KINDS = {"saliency": evaluate_saliency, "labels": evaluate_labels}
KINDS |= {"segmentation": evaluate_labels, "submission": evaluate_submission, "doubt": evaluate_doubt}

if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
