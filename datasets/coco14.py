"""COCO 2014 from train2014.zip, val2014.zip and annotations_trainval2014.zip, or the folders they unpack to.

    <data_dir>/{classes.txt, photographs.txt, SegmentationClass/{train2014, val2014}/*.png}
    <list_dir>/{cls_labels.npy, train_id.txt, val_id.txt}

Ids have the folder of the photograph: train2014/COCO_train2014_000000000009. The lists hold the images that have
annotations, as in papers on weakly supervised segmentation: 82,081 of 82,783 and 40,137 of 40,504. Labels are 1 to 80,
in the order of COCO's category ids, which have gaps. Image labels are the classes of all annotations, also of crowds.

Masks follow coco2voc (https://github.com/alicranck/coco2voc), which AFA, ToCo and other WSSS projects refer to: where
annotations overlap, the one with the smallest `area` wins, of equal ones the first. Crowds have the label of their
class, and no pixel is ignored (255). coco2voc fills polygons by pycocotools, which rounds their points first; with
`formats.coco.fill_polygon` outlines differ: 0.03 % of the pixels of drawn annotations.
"""

import os
import re
from contextlib import ExitStack
from functools import partial
from operator import itemgetter
from pathlib import Path, PurePosixPath

import numpy as np
from tqdm import tqdm

from datasets.voc_archives import (
    Archive,
    check_lists,
    check_tree_place,
    open_archive,
    save_labels_once,
    save_lists,
    unpack,
)
from formats.atomic_files import write_once
from formats.coco import explain_faults, paint_annotations, read_coco
from formats.errors import InputError, shorten
from formats.labels import save_label
from formats.voc_layout import MASK_FOLDERS, PHOTOGRAPHS_FILE
from utils.output_folder import hold_folder
from utils.processes import do_in_processes

SPLITS = ("train2014", "val2014")
NUM_IMAGES = {"train_id.txt": 82081, "val_id.txt": 40137}


def prepare_coco14(data_dir, list_dir, train_path, val_path, annotations_path, workers: int = 0) -> None:
    """Write the tree, lists and image labels of COCO 2014; files that exist are kept.

    Photographs of folders stay there, those of archives are unpacked to <data_dir>/photographs. `workers` processes
    paint the masks (0: one per core). Raises `InputError` before anything is written if an archive is a wrong one or
    lacks files, or if `data_dir` or `list_dir` has other content.
    """
    root, paths = Path(data_dir), dict(zip(SPLITS, map(Path, (train_path, val_path))))
    check_tree_place(root, root)
    photographs = find_photograph_folder(paths, root / "photographs")
    with ExitStack() as opened:
        # check what they hold
        archives = {split: opened.enter_context(open_archive(path)) for split, path in paths.items()}
        members = {split: find_photographs(archive, split) for split, archive in archives.items()}
        annotations = opened.enter_context(open_archive(annotations_path))
        files = {split: find_instances(annotations, split) for split in SPLITS}
        images, names = {}, {}  # split → annotated images; split → category id → name
        for split, file in files.items():
            found, names[split] = read_coco(annotations.read(file), file)
            found = [(image, entries) for image, entries in found if entries]
            with explain_faults(file):
                file_names = [image["file_name"] for image, _ in found]
                check_photographs(archives[split], members[split], file_names, file)
            images[split] = dict(zip((f"{split}/{Path(name).stem}" for name in file_names), found))
        classes = tuple(names[SPLITS[0]][number] for number in sorted(names[SPLITS[0]]))
        lists = {Path(list_dir) / f"{split.removesuffix('2014')}_id.txt": list(images[split]) for split in SPLITS}
        check_lists(lists, annotations.path)
        texts = {PHOTOGRAPHS_FILE: f"{photographs}\n", "classes.txt": "".join(f"{name}\n" for name in classes)}
        hold_folder(root)
        write_once(root, texts, f"COCO 2014 in {photographs}")

        # photographs
        for split, archive in archives.items():
            if not paths[split].is_dir():
                unpack(archive, {f"{split}/{name}": member for name, member in members[split].items()}, photographs)

    # masks, lists and image labels
    rows = []
    for split, its_images in images.items():
        labels = {number: classes.index(name) + 1 for number, name in names[split].items()}
        paint_masks(root / MASK_FOLDERS[0], its_images, labels, files[split], workers)
        for _, entries in its_images.values():
            rows.append(np.zeros(len(classes), bool))
            rows[-1][[labels[entry["category_id"]] - 1 for entry in entries]] = True
    save_lists(lists, NUM_IMAGES, "COCO 2014")
    ids = [image_id for its_ids in lists.values() for image_id in its_ids]
    save_labels_once(Path(list_dir) / "cls_labels.npy", ids, np.stack(rows), classes, annotations.path)


def find_photograph_folder(paths: dict[str, Path], unpacked: Path) -> Path:
    """Return the absolute path of the folder above train2014/ and val2014/; that of archives is `unpacked`."""
    parents = set()
    for split, path in paths.items():
        folder = Path(os.path.abspath(path))
        if path.is_dir() and folder.name != split:
            raise InputError(f"--{split} {path}: name the folder {split} that {split}.zip unpacks to")
        parents.add(folder.parent if path.is_dir() else Path(os.path.abspath(unpacked)))
    if len(parents) > 1:
        found = f"--train2014 and --val2014 should be two archives, or lie in one folder, not in {shorten(parents)}"
        raise InputError(f"{found}: move or link them")
    return parents.pop()


def find_photographs(archive: Archive, split: str) -> dict[str, str]:
    """Map the file name of each photograph to its name in the archive."""
    pattern = re.compile(rf"(.*/)?COCO_{split}_\d+\.jpg")
    found = {PurePosixPath(name).name: name for name in archive.sizes if pattern.fullmatch(name)}
    if not found:
        raise InputError(f"{archive.path} holds no COCO_{split}_*.jpg: pass {split}.zip, or the folder it unpacks to")
    return found


def find_instances(archive: Archive, split: str) -> str:
    """Return the name of instances_<split>.json in the archive."""
    found = [name for name in archive.sizes if f"/{name}".endswith(f"/instances_{split}.json")]
    if len(found) != 1:
        there = shorten([name for name in archive.sizes if name.endswith(".json")], 3) or "no JSON"
        expected = f"should hold one instances_{split}.json, there is {there}"
        raise InputError(f"{archive.path} {expected}: pass annotations_trainval2014.zip")
    return found[0]


def check_photographs(archive: Archive, members: dict[str, str], file_names: list[str], file: str) -> None:
    """Raise `InputError` unless the archive has the photographs of all annotations in `file`."""
    missing = [name for name in file_names if name not in members]
    print(f"{file}: {len(file_names)} images with annotations", flush=True)
    if missing or not file_names:
        lacks = f"{archive.path} lacks {len(missing)} of {len(file_names)} photographs that {file} describes"
        raise InputError(f"{lacks} ({shorten(missing, 3)}): fetch the archives of COCO 2014 again")


def paint_masks(folder: Path, images: dict[str, tuple], labels: dict[int, int], file: str, workers: int) -> None:
    """Write the mask of each image, id → (image, annotations) of COCO, that is not in `folder`."""
    tasks = [(path, *images[name]) for name in images if not (path := folder / f"{name}.png").is_file()]
    print(f"{file}: {len(images)} masks, {len(images) - len(tasks)} of them already in {folder}", flush=True)
    bar = tqdm(tasks, desc=file, unit="mask", mininterval=1, leave=False)
    do_in_processes(partial(save_mask, labels, file), bar, len(tasks), workers, num_callers=1)


def save_mask(labels: dict[int, int], file: str, task: tuple[Path, dict, list[dict]]) -> None:
    """Paint the annotations of one image, the smallest last; `labels`: category id → label."""
    path, image, entries = task
    order = sorted(entries, key=itemgetter("area"))[::-1]  # reversed: of equal ones the first of the file is last
    save_label(path, paint_annotations(image, order, labels, file))
