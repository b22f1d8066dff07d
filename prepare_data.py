"""Prepare the data of every stage, and check it before work starts.

    python prepare_data.py voc12 --trainval VOCtrainval_11-May-2012.tar --aug SegmentationClassAug.zip
    python prepare_data.py check                                        the README's places
    python prepare_data.py check --train_root dataset --benchmark dataset/benchmark --csv faults.csv
    python prepare_data.py check --data_dir data/voc12 --label_name pslabel_ours --saliency_dir maps

`voc12` unpacks what the other scripts read to data/voc12/VOCdevkit/VOC2012, and writes train_id.txt, val_id.txt,
train_aug_id.txt and cls_labels.npy to voc12/. A .zip, a .tar, a .tar.gz and a folder that was unpacked before will all
do. Started again, it keeps each file that has the right size and adds what is missing. Lists and labels that say
something else are never replaced.

`check` reads every file as the other scripts read it. Errors make the data unusable: missing files, files that are
damaged or differ in size from their image, class ids that do not exist, repeated ids and stems, and saliency training
pictures that are also in test data, found by their content. Notes are allowed, but may be unexpected.
Exit status: 0 no findings or only notes, 1 errors, 2 a mistake in the flags.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.prepare_data().parse_args()

import io
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.archive_files import Archive, open_archive
from datasets.duplicates import find_duplicates
from datasets.layout_checks import check_image_labels, check_list, check_saliency_set, check_voc, is_test_list
from datasets.picture_checks import ERROR, NOTE, Finding, Picture, check_picture
from datasets.voc_archives import AUG, check_members, list_place, listed_ids, mask_members, train_aug_ids, voc_members
from formats.atomic_files import write_bytes, write_csv
from formats.errors import InputError, MissingInputError, existing_folder, shorten
from formats.image_labels import load_image_labels, save_image_labels
from formats.images import open_image
from formats.labels import check_labels, load_label
from formats.saliency_layout import data_sets_in, find_data_sets
from formats.voc_layout import find_voc_root, label_folder, list_path, load_class_names, load_ids, save_ids
from utils.folder_lock import hold_folder
from utils.interruption import run_script
from utils.processes import measure_all

TRAIN_ROOT, BENCHMARK, DATA_DIR = Path("dataset"), Path("dataset/benchmark"), Path("data/voc12")
SALIENCY_TRAINING, VOC_TRAINING, TEST = "saliency training", "VOC training", "test"
MAX_NAMES_SHOWN = 3
KNOWN_IMAGES = {"train": 1464, "train_aug": 10582, "val": 1449, "test": 1456}
KNOWN_SINGLE_CLASS = {"train": 933, "train_aug": 6249}
DECODED_MASKS = 100  # the header of every mask is looked at; this many, evenly spread, are decoded


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

    For pictures in VOC's training lists, the saliency network has been trained with more than image labels.
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
        files, masks = voc_members(trainval, "train"), mask_members(aug)
        ids = {name: listed_ids(trainval, files, name) for name in ("train", "val")}
        ids["train_aug"] = train_aug_ids(aug, masks, ids["val"])
        check_members(trainval, files, ids)
        check_lists(list_dir, ids)

        # save: photographs and masks, then lists and image labels
        unpack(trainval, files, voc_root)
        unpack(aug, masks, voc_root, check_mask_header)
    if args.test:
        ids["test"] = unpack_test(args.test, voc_root, list_dir)
    classes = load_class_names(voc_root)
    decode_some([voc_root / place for place in sorted(masks)], len(classes))
    labels = labels_of_images(voc_root, sorted({*ids["train"], *ids["train_aug"], *ids["val"]}), classes)
    save_lists(list_dir, ids)
    save_labels(list_dir / "cls_labels.npy", labels, classes)
    report(ids, labels)


def check_data_dir(data_dir, voc_root: Path) -> None:
    """The other scripts take the first tree that they find in `data_dir`: it must be the one made here."""
    try:
        found = find_voc_root(data_dir)
    except MissingInputError:
        return
    if found.resolve() != voc_root.resolve():
        raise InputError(
            f"--data_dir {data_dir} holds a VOC tree already, {found}: move it away or name another folder"
        )


def check_lists(list_dir: Path, ids: dict[str, list[str]]) -> None:
    for name, members in ids.items():
        path = list_dir / f"{name}_id.txt"
        if path.is_file() and set(load_ids(path)) != set(members):
            raise InputError(f"{path} names other images than the archives: move it away or name another --list_dir")


def unpack(archive: Archive, members: dict[str, str], voc_root: Path, check=None) -> None:
    """Writes each member to its place below `voc_root`, unless a file of its size is there."""
    absent = {place: name for place, name in members.items() if size_of(voc_root / place) != archive.sizes[name]}
    print(
        f"{archive.path}: {len(members)} files, {len(members) - len(absent)} of them already in {voc_root}", flush=True
    )
    if absent:
        hold_folder(voc_root)
    for place, name in tqdm(absent.items(), desc=archive.path.name, unit="file", mininterval=1, leave=False):
        content = archive.read(name)
        if check:
            check(content, f"{archive.path}: {name}")
        write_bytes(voc_root / place, content)


def size_of(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def check_mask_header(content: bytes, name: str) -> None:
    """A mask has one channel of at most 8 bits; the picture of one in colours has three."""
    with open_image(io.BytesIO(content), name, formats=("PNG",)) as image:
        mode = image.mode
    if mode not in ("P", "L", "1"):
        raise InputError(f"{name} has colours instead of class indices: this is not the usual {AUG}")


def unpack_test(path, voc_root: Path, list_dir: Path) -> list[str]:
    """Adds the photographs of the test archive; returns the ids of its list."""
    with open_archive(path) as archive:
        members = voc_members(archive, "test")
        ids = listed_ids(archive, members, "test")
        check_lists(list_dir, {"test": ids})
        photographs = {place: name for place, name in members.items() if place.startswith("JPEGImages/")}
        missing = [name for name in ids if f"JPEGImages/{name}.jpg" not in photographs]
        if missing:
            raise InputError(f"{path} lacks {len(missing)} of {len(ids)} photographs ({shorten(missing)})")
        unpack(archive, photographs | {list_place("test"): members[list_place("test")]}, voc_root)
    return ids


def decode_some(paths: list[Path], num_classes: int) -> None:
    """Raises `InputError` for the first of some masks that holds labels beyond the classes."""
    for path in paths[:: max(1, len(paths) // DECODED_MASKS)]:
        check_labels(load_label(path), num_classes + 1, path)


def labels_of_images(voc_root: Path, ids: list[str], classes: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Id → bool [C] by the annotation; by the mask for an image that has none."""
    annotated = {path.stem for path in (voc_root / "Annotations").glob("*.xml")}
    with_annotation = [name for name in ids if name in annotated]
    rows = load_image_labels(voc_root / "Annotations", with_annotation, classes)
    labels = dict(zip(with_annotation, rows))
    for name in ids:
        if name not in annotated:
            masks = [voc_root / folder / f"{name}.png" for folder in (AUG, "SegmentationClass")]
            label = load_label(masks[0] if masks[0].is_file() else masks[1])
            labels[name] = np.isin(np.arange(1, len(classes) + 1), label)
    print(f"image labels: {len(with_annotation)} from annotations, {len(ids) - len(with_annotation)} from masks")
    return labels


def save_lists(list_dir: Path, ids: dict[str, list[str]]) -> None:
    for name, members in ids.items():
        if not (list_dir / f"{name}_id.txt").is_file():
            save_ids(list_dir / f"{name}_id.txt", members)


def save_labels(path: Path, labels: dict[str, np.ndarray], classes: tuple[str, ...]) -> None:
    if not path.is_file():
        save_image_labels(path, labels)
    elif not np.array_equal(load_image_labels(path, list(labels), classes), list(labels.values())):
        raise InputError(f"{path} holds other labels than the annotations: move it away or name another --list_dir")


def report(ids: dict[str, list[str]], labels: dict[str, np.ndarray]) -> None:
    """Prints how many images there are, and how many of one class, against what VOC 2012 is known to have."""
    lacking = set(ids["train"]) - set(ids["train_aug"])
    if lacking:
        print(f"warning: {AUG} lacks {len(lacking)} masks of train ({shorten(sorted(lacking))})")
    for name, members in ids.items():
        counts = {"images": (len(members), KNOWN_IMAGES[name])}
        if name in KNOWN_SINGLE_CLASS:
            single = sum(int(labels[member].sum() == 1) for member in members)
            counts["images of one class"] = (single, KNOWN_SINGLE_CLASS[name])
        for what, (count, known) in counts.items():
            differs = "" if count == known else f"; warning: VOC 2012 has {known}"
            print(f"{name}_id.txt: {count} {what}{differs}")


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
