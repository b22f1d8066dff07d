"""Prepare the data of every stage, and check it before work starts.

    python prepare_data.py voc12 --trainval VOCtrainval_11-May-2012.tar --aug SegmentationClassAug.zip
    python prepare_data.py check                                        the README's places
    python prepare_data.py check --train_root dataset --benchmark dataset/benchmark --csv faults.csv
    python prepare_data.py check --data_dir data/voc12 --label_name pslabel_ours --saliency_dir maps

`voc12` unpacks the files that the other scripts read to data/voc12/VOCdevkit/VOC2012, and writes train_id.txt,
val_id.txt, train_aug_id.txt and cls_labels.npy to voc12/. An archive is a .zip, a .tar, a .tar.gz, or a folder that was
unpacked before. A second run keeps files of the right size and adds missing ones. Existing lists and labels with other
content are never replaced.

`check` reads every file as the other scripts read it. Errors make the data unusable: missing files, files that are
damaged or differ in size from their image, class ids that do not exist, repeated ids and stems, and saliency training
pictures that are also in test data, found by their content. Notes are allowed, but may be unexpected.
Exit status: 0 no findings or only notes, 1 errors, 2 a mistake in the flags.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.prepare_data().parse_args()

from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.duplicates import find_duplicates
from datasets.layout_checks import check_image_labels, check_list, check_saliency_set, check_voc, is_test_list
from datasets.picture_checks import ERROR, NOTE, Finding, Picture, check_picture
from datasets.voc_archives import (
    check_data_dir,
    check_lists,
    check_members,
    find_image_labels,
    find_mask_members,
    find_train_aug_ids,
    find_voc_members,
    open_archive,
    read_ids,
    report_counts,
    save_labels,
    save_lists,
    unpack,
    unpack_test,
)
from formats.atomic_files import write_csv
from formats.errors import InputError, MissingInputError, existing_folder, shorten
from formats.saliency_layout import data_sets_in, find_data_sets
from formats.voc_layout import find_voc_root, label_folder, list_path, load_class_names
from utils.interruption import run_script
from utils.processes import measure_all

TRAIN_ROOT, BENCHMARK, DATA_DIR = Path("dataset"), Path("dataset/benchmark"), Path("data/voc12")
SALIENCY_TRAINING, VOC_TRAINING, TEST = "saliency training", "VOC training", "test"
MAX_NAMES_SHOWN = 3


@dataclass(frozen=True)
class Part:
    """Pictures of one data set with the same use."""

    name: Path
    use: str  # SALIENCY_TRAINING, VOC_TRAINING or TEST
    pictures: list[Picture]


def main(args) -> int | None:
    return {"check": check, "voc12": voc12}[args.command](args)


def check(args) -> int:
    # data
    train_roots, benchmarks, data_dir = find_data(args)
    parts, findings = check_saliency_sets(train_roots, benchmarks)
    if not data_dir and (args.label_name or args.saliency_dir or args.cam_dir):
        raise InputError("--label_name, --saliency_dir and --cam_dir belong to a VOC tree: set --data_dir")
    if data_dir:
        voc_parts, found = check_voc_tree(args, find_voc_root(data_dir))
        parts, findings = parts + voc_parts, findings + found
    for part in parts:
        print(f"{part.name}: {len(part.pictures)} pictures for {part.use}", flush=True)

    # evaluate: files, then pictures that training and test data share
    pictures = list(dict.fromkeys(picture for part in parts for picture in part.pictures))
    results = measure_all(check_picture, pictures, args.workers)
    bar = tqdm(results, total=len(pictures), unit="picture", mininterval=1, leave=False)
    signatures = {}
    for picture, (found, signature) in zip(pictures, bar):
        findings += found
        if signature is not None:
            signatures[picture.image] = signature
    findings += find_shared_pictures(parts, signatures)

    # save
    findings = list(dict.fromkeys(findings))
    print_table(findings)
    if args.csv:
        rows = [[escape_undecodable(cell) for cell in astuple(found)] for found in findings]
        write_csv(args.csv, [("severity", "what", "file", "detail"), *rows])
    errors = sum(found.severity == ERROR for found in findings)
    print(f"{errors} errors and {len(findings) - errors} notes on {len(pictures)} pictures")
    return int(errors > 0)


def find_data(args) -> tuple[list[Path], list[Path], Path | None]:
    """Return roots of training sets, roots of test sets and a VOC tree: from the flags, or the README's that exist."""
    if args.train_root or args.benchmark or args.data_dir:
        return list(map(Path, args.train_root)), list(map(Path, args.benchmark)), args.data_dir and Path(args.data_dir)
    finders = {TRAIN_ROOT: find_data_sets, BENCHMARK: data_sets_in, DATA_DIR: find_voc_root}
    found = []
    for place, find in finders.items():
        with suppress(MissingInputError):
            find(place)
            found.append(place)
        print(f"{place}: {'is checked' if place in found else 'no data found'}", flush=True)
    if not found:
        raise InputError("no data found: set --train_root, --benchmark or --data_dir")
    train_roots, benchmarks = ([place] if place in found else [] for place in (TRAIN_ROOT, BENCHMARK))
    return train_roots, benchmarks, DATA_DIR if DATA_DIR in found else None


def check_saliency_sets(train_roots: list[Path], benchmarks: list[Path]) -> tuple[list[Part], list[Finding]]:
    """Check the layout of all training and test sets in these roots."""
    training = [(data_set, SALIENCY_TRAINING, "mask") for root in train_roots for data_set in find_data_sets(root)]
    tests = [(data_set, TEST, "test mask") for root in benchmarks for data_set in data_sets_in(root)]
    parts, findings = [], []
    for data_set, use, kind in training + tests:
        pictures, found = check_saliency_set(data_set, kind)
        parts.append(Part(data_set, use, pictures))
        findings += found
    return parts, findings


def check_voc_tree(args, voc_root: Path) -> tuple[list[Part], list[Finding]]:
    """Check the layout of a VOC tree; its parts are the pictures for training and those for testing."""
    list_dir, classes = Path(args.list_dir), load_class_names(voc_root)
    paths = [list_path(list_dir, name) for name in args.list or []] or sorted(list_dir.glob("*_id.txt"))
    if not paths:
        raise MissingInputError(
            f"--list_dir: no *_id.txt in {list_dir}: run prepare_data.py voc12, or write lists of one id per line"
        )
    folders = [("label", label_folder(name, voc_root)) for name in args.label_name]
    folders += [("saliency map", existing_folder(folder)) for folder in args.saliency_dir]
    folders += [("CAM", existing_folder(folder)) for folder in args.cam_dir]

    lists, findings = {}, []
    for path in paths:
        lists[path], found = check_list(path)
        findings += found
    findings += check_image_labels(list_path(list_dir, args.image_labels or "cls_labels.npy"), lists, classes)
    pictures, found = check_voc(voc_root, lists, folders, len(classes) + 1)

    tested = {name for path, ids in lists.items() if is_test_list(path) for name in ids}
    parts = [
        Part(voc_root, use, [picture for name, picture in pictures.items() if (name in tested) == (use == TEST)])
        for use in (VOC_TRAINING, TEST)
    ]
    return parts, findings + found


def find_shared_pictures(parts: list[Part], signatures: dict[Path, np.ndarray]) -> list[Finding]:
    """Find saliency training pictures in test data (an error) and in VOC's training lists (a note).

    A saliency network trained on them has seen object masks of VOC images, so the results no longer use image labels
    only.
    """
    paths: dict[str, list[Path]] = {use: [] for use in (SALIENCY_TRAINING, VOC_TRAINING, TEST)}
    for part in parts:
        paths[part.use] += [picture.image for picture in part.pictures if picture.image in signatures]
    rows = {use: [signatures[path] for path in its_paths] for use, its_paths in paths.items()}
    findings = []
    for use, severity in ((TEST, ERROR), (VOC_TRAINING, NOTE)):
        for index, place, similarity in find_duplicates(rows[SALIENCY_TRAINING], rows[use]):
            detail = f"{paths[use][place]} shows the same ({similarity:.3f})"
            what = f"{SALIENCY_TRAINING} picture in {use} data"
            findings.append(Finding(severity, what, paths[SALIENCY_TRAINING][index], detail))
    return findings


def escape_undecodable(text) -> str:
    """Escape bytes of a Linux file name that are not valid UTF-8."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def print_table(findings: list[Finding]) -> None:
    """Print one line for each kind of fault, errors first: the count and the first names."""
    kinds: dict[tuple[str, str], list[Path]] = {}
    for found in sorted(findings, key=lambda found: found.severity):
        kinds.setdefault((found.severity, found.what), []).append(found.path)
    width = max((len(what) for _, what in kinds), default=0)
    for (severity, what), paths in kinds.items():
        print(f"{severity:5}  {len(paths):6}  {what:{width}}  {shorten(paths, MAX_NAMES_SHOWN)}")


def voc12(args) -> None:
    voc_root, list_dir = Path(args.data_dir) / "VOCdevkit/VOC2012", Path(args.list_dir)
    check_data_dir(args.data_dir, voc_root)

    # data: what the archives hold, before anything is written
    with open_archive(args.trainval) as trainval, open_archive(args.aug) as aug:
        files, masks = find_voc_members(trainval, "train"), find_mask_members(aug)
        ids = {name: read_ids(trainval, files, name) for name in ("train", "val")}
        ids["train_aug"] = find_train_aug_ids(aug, masks, ids["val"])
        check_members(trainval, files, ids)
        check_lists(list_dir, ids)

        # save: photographs and masks, then lists and image labels
        unpack(trainval, files, voc_root)
        classes = load_class_names(voc_root)
        unpack(aug, masks, voc_root, num_labels=len(classes) + 1)
    if args.test:
        ids["test"] = unpack_test(args.test, voc_root, list_dir)
    labels = find_image_labels(voc_root, sorted({*ids["train"], *ids["train_aug"], *ids["val"]}), classes)
    save_lists(list_dir, ids)
    save_labels(list_dir / "cls_labels.npy", labels, classes)
    report_counts(ids, labels)


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
