"""The README's tree of VOC 2012, from the archives as one downloads them.

    python prepare_voc12.py --trainval VOCtrainval_11-May-2012.tar --aug SegmentationClassAug.zip

Unpacks what the other scripts read to data/voc12/VOCdevkit/VOC2012, and writes train_id.txt, val_id.txt,
train_aug_id.txt and cls_labels.npy to voc12/. A .zip, a .tar, a .tar.gz and a folder that was unpacked before will all
do. Started again, it keeps each file that has the right size and adds what is missing. Lists and labels that say
something else are never replaced.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.prepare_voc12().parse_args()

from pathlib import Path

import numpy as np
from tqdm import tqdm

from atomic_files import write_bytes
from datasets.archive_files import Archive, open_archive
from datasets.voc_archives import AUG, check_members, list_place, listed_ids, mask_members, train_aug_ids, voc_members
from image_headers import GREY, PALETTE, png_chunks, png_format
from image_labels import load_image_labels, save_image_labels
from input_errors import InputError, MissingInputError, run_script, shorten
from label_files import check_labels, load_label
from utils.folder_lock import hold_folder
from voc_layout import find_voc_root, load_class_names, load_ids, save_ids

KNOWN_IMAGES = {"train": 1464, "train_aug": 10582, "val": 1449, "test": 1456}
KNOWN_SINGLE_CLASS = {"train": 933, "train_aug": 6249}
DECODED_MASKS = 100  # the header of every mask is looked at; this many, evenly spread, are decoded


def main(args) -> None:
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
        unpack(aug, masks, voc_root, check_header)
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


def check_header(content: bytes, name: str) -> None:
    """A mask has one channel of at most 8 bits; the picture of one in colours has three."""
    form = png_format(png_chunks(content, name))
    if form.colour_type not in (GREY, PALETTE) or form.depth > 8:
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
