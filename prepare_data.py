"""Prepare the data of every stage, and check it before work starts.

    python prepare_data.py voc12 --trainval VOCtrainval_11-May-2012.tar --aug SegmentationClassAug.zip
    python prepare_data.py coco14 --train2014 train2014.zip --val2014 val2014.zip --annotations annotations
    python prepare_data.py check                                        the README's places
    python prepare_data.py check --data_dir data/voc12 --label_name pslabel_ours --saliency_dir maps --csv faults.csv
    python prepare_data.py own --images photographs --tags tags.csv --output experiments/own

`voc12` unpacks the files that the other scripts read, and writes lists of ids and cls_labels.npy. A second run adds
missing files; existing lists and labels with other content are never replaced.

`coco14` does the same for COCO 2014, and paints its masks (datasets/coco14.py says how); photographs that are unpacked
already stay where they are.

`check` reads every file as the other scripts read it (docs/inputs.md), and finds saliency training pictures that are
also in test data. Errors make the data unusable; notes are about things that are allowed but may be unintended.

`own` reads the tags of photographs, which stay where they are; formats/image_tags.py lists what the tags may be. The id
of a photograph is its path below --images without suffix. Written are classes.txt, all_id.txt and labels.csv (tagged
photographs), and untagged_id.txt (the others, if any).
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.prepare_data().parse_args()

from collections import Counter
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path

from tqdm import tqdm

from datasets import checks
from datasets.checks import ERROR, SALIENCY_TRAINING, TEST, Finding, Picture
from datasets.coco14 import prepare_coco14
from datasets.voc_archives import unpack_voc12
from formats.atomic_files import check_output_file, format_csv, write_csv, write_once
from formats.errors import InputError, MissingInputError, require_folder, shorten
from formats.image_tags import load_image_tags
from formats.images import IMAGE_SUFFIXES, images_below
from formats.saliency_layout import find_data_sets, find_training_sets
from formats.voc_layout import (
    PHOTOGRAPHS_FILE,
    find_voc_root,
    label_folder,
    list_path,
    load_class_names,
    parse_ids,
    photograph_folder,
)
from utils.interruption import run_script
from utils.processes import measure_all

README_PLACES = {"dataset": find_training_sets, "dataset/benchmark": find_data_sets, "data/voc12": find_voc_root}


def main(args) -> int | None:
    if args.command == "check":
        return check(args)
    if args.command == "own":
        return own(args)
    if args.command == "coco14":
        archives = args.train2014, args.val2014, args.annotations
        return prepare_coco14(args.data_dir, args.list_dir, *archives, args.workers)
    unpack_voc12(args.data_dir, args.list_dir, args.trainval, args.aug, args.test)


def check(args) -> int:
    # data
    check_output_file("--csv", args.csv)
    train_roots, benchmarks, voc_trees = find_data(args)
    if not voc_trees and (args.label_name or args.saliency_dir or args.cam_dir):
        raise InputError("--label_name, --saliency_dir and --cam_dir belong to a VOC tree: set --data_dir")
    findings: list[Finding] = []
    data_sets = [(data_set, SALIENCY_TRAINING) for root in train_roots for data_set in find_training_sets(root)]
    data_sets += [(data_set, TEST) for root in benchmarks for data_set in find_data_sets(root)]
    pictures: list[Picture] = []
    for data_set, use in data_sets:
        pictures += checks.check_saliency_set(data_set, use, findings)
    for data_dir in voc_trees:
        pictures += check_voc_tree(args, find_voc_root(data_dir), findings)
    parts = Counter((picture.image.parent.parent, picture.use) for picture in pictures)
    for (data_set, use), count in parts.items():
        print(f"{data_set}: {count} pictures for {use}", flush=True)

    # evaluate: files, then pictures that training and test data share
    results = measure_all(checks.check_picture, pictures, args.workers)
    bar = tqdm(results, total=len(pictures), unit="picture", mininterval=1, leave=False)
    signatures = {use: {} for use in checks.USES}
    for picture, (found, signature) in zip(pictures, bar):
        findings += found
        if signature is not None:
            signatures[picture.use][picture.image] = signature
    findings += checks.find_shared_pictures(signatures)

    # save
    findings = list(dict.fromkeys(findings))
    print_table(findings)
    if args.csv:
        write_csv(args.csv, [("severity", "what", "file", "detail"), *map(astuple, findings)])
    errors = sum(found.severity == ERROR for found in findings)
    print(f"{errors} errors and {len(findings) - errors} notes on {len(pictures)} pictures")
    return int(errors > 0)


def find_data(args) -> list[list[Path]]:
    """Return roots of training sets, roots of test sets, and VOC trees: from the flags, or the README's that exist."""
    given = [args.train_root, args.benchmark, [args.data_dir] if args.data_dir else []]
    if any(given):
        return [list(map(Path, places)) for places in given]
    found = []
    for place, find in README_PLACES.items():
        found.append([])
        with suppress(MissingInputError):
            find(Path(place))
            found[-1].append(Path(place))
        print(f"{place}: {'is checked' if found[-1] else 'no data found'}", flush=True)
    if not any(found):
        raise InputError("no data found: set --train_root, --benchmark or --data_dir")
    return found


def check_voc_tree(args, voc_root: Path, findings: list[Finding]) -> list[Picture]:
    """Check the layout of a VOC tree with its lists, image labels, and files of other stages; return its pictures."""
    list_dir, classes = Path(args.list_dir), load_class_names(voc_root)
    paths = [list_path(list_dir, name) for name in args.list or []] or sorted(list_dir.glob("*_id.txt"))
    if not paths:
        raise MissingInputError(f"no *_id.txt in --list_dir {list_dir}: run prepare_data.py voc12, or write lists")
    folders = [("label", label_folder(name, voc_root)) for name in args.label_name]
    folders += [("saliency map", require_folder(folder)) for folder in args.saliency_dir]
    folders += [("CAM", require_folder(folder)) for folder in args.cam_dir]
    lists = checks.check_lists(paths, photograph_folder(voc_root), findings)
    checks.check_image_labels(list_path(list_dir, args.image_labels or "cls_labels.npy"), lists, classes, findings)
    return checks.check_voc(voc_root, lists, folders, len(classes) + 1, findings)


def own(args) -> None:
    images, output = require_folder(args.images, "--images"), Path(args.output)
    if output.resolve().is_relative_to(images.resolve()):
        raise InputError(f"--output {output} lies in --images {images}: choose a folder elsewhere")
    photographs = images_below(images)
    if not photographs:
        raise MissingInputError(f"--images {images} holds no images ({' '.join(IMAGE_SUFFIXES)})")
    tags = load_image_tags(args.tags, photographs)
    tagged = {name: sorted(tags.classes_of[name]) for name in photographs if tags.classes_of.get(name)}
    untagged = [name for name in photographs if name not in tagged]

    # save
    lines = {name: f"{path.relative_to(images).as_posix()}\n" for name, path in photographs.items()}
    parse_ids("".join(lines.values()).encode(), "--images", lines)  # raises for names that lists cannot hold
    rows = [(name, ";".join(its)) for name, its in tagged.items()]
    contents = {
        PHOTOGRAPHS_FILE: f"{images.resolve()}\n",
        "classes.txt": "".join(f"{name}\n" for name in tags.classes),
        "all_id.txt": "".join(lines[name] for name in tagged),
        "untagged_id.txt": "".join(lines[name] for name in untagged),
        "labels.csv": format_csv([("id", "classes"), *rows]),
    }
    write_once(output, contents, "--images and --tags")

    # report
    print(f"{images}: {len(photographs)} photographs")
    print(f"{args.tags} ({tags.kind}): {len(tags.classes)} classes of {len(tagged)} photographs")
    counts = Counter(name for its in tagged.values() for name in its)
    for name in tags.classes:
        print(f"{counts[name]:8}  {name}")
    if untagged:
        print(f"note: {len(untagged)} photographs have no tag ({shorten(untagged)}); see {output / 'untagged_id.txt'}")
    if tags.unknown:
        print(f"note: {len(tags.unknown)} images of {args.tags} are not in {images}: {shorten(tags.unknown)}")


def print_table(findings: list[Finding]) -> None:
    """Print each kind of fault, errors first: the count, the first names, and what is known of the first."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for found in sorted(findings, key=lambda found: found.severity):
        kinds.setdefault((found.severity, found.what), []).append(found)
    width = max((len(what) for _, what in kinds), default=0)
    for (severity, what), each in kinds.items():
        print(f"{severity:5}  {len(each):6}  {what:{width}}  {shorten([found.path for found in each], 3)}")
        if each[0].detail:
            print(f"{'':15}{each[0].detail}")


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
