"""What labels are made from, drawn or given, and as often repeated as a benchmark wants images."""

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.drawn_scenes import write_voc_scenes
from formats.atomic_files import make_folder, write_text
from formats.cams import save_cams
from formats.image_labels import load_image_labels, save_image_labels
from formats.images import save_grey
from formats.labels import load_label
from formats.voc_layout import files_of_ids, find_voc_root, load_class_names, load_ids, save_ids, truth_folder


@dataclass(frozen=True)
class LabelTree:
    """Where the photographs and masks of a VOC tree, its list, image labels, saliency maps and CAMs lie."""

    data_dir: Path
    list: Path
    image_labels: Path
    saliency_dir: Path
    cam_dir: Path

    def flags(self, *names: str) -> list[str]:
        """`--name value` for the scripts."""
        return [part for name in names for part in (f"--{name}", str(getattr(self, name)))]


def add_tree_flags(parser, needs_cams: bool) -> None:
    """Flags of photographs of one's own, and the size of drawn ones."""
    for flag in ("--data_dir", "--list", "--image_labels", "--saliency_dir", *(["--cam_dir"] if needs_cams else [])):
        parser.add_argument(flag, metavar="PATH", help="as for make_pseudo_labels.py; all of them, or scenes are drawn")
    parser.add_argument("--image_size", type=int, nargs=2, default=[375, 500], help="of drawn scenes, px")
    parser.add_argument("--files", type=int, default=50, help="images that are drawn, or taken from the list")


def source_tree(args, folder: Path) -> LabelTree:
    """The tree that the flags name; one of drawn scenes in `folder` where they name none."""
    if args.data_dir:
        cams = getattr(args, "cam_dir", None) or folder
        return LabelTree(*map(Path, (args.data_dir, args.list, args.image_labels, args.saliency_dir, cams)))
    return drawn_tree(folder, args.files, *args.image_size)


def drawn_tree(folder: Path, count: int, height: int, width: int) -> LabelTree:
    """Drawn scenes; their saliency maps and CAMs are blurred truth, so that the selector replaces some labels."""
    voc_root = folder / "VOC2012"
    write_voc_scenes(voc_root, folder / "voc12", count, 0, 0, height, width)
    for name in load_ids(folder / "voc12/train_aug_id.txt"):
        truth = load_label(voc_root / "SegmentationClassAug" / f"{name}.png")
        classes = np.setdiff1d(truth, (0, 255))
        near = np.stack([blurred(truth == label, height / 12) for label in classes])  # [K, H, W]
        save_cams(folder / "cams" / f"{name}.npz", near / near.max(axis=(1, 2), keepdims=True), classes)
        objects = blurred(np.isin(truth, classes), height / 60)
        save_grey(folder / "saliency" / f"{name}.png", (255 * objects).astype(np.uint8))
    lists = folder / "voc12"
    return LabelTree(folder, lists / "train_aug_id.txt", lists / "cls_labels.npy", folder / "saliency", folder / "cams")


def blurred(mask: np.ndarray, sigma_px: float) -> np.ndarray:
    return cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma_px)


def repeated_tree(source: LabelTree, folder: Path, num_files: int, count: int, with_cams: bool) -> LabelTree:
    """`count` images in `folder`: the first `num_files` of the source, over and over under new ids, as links."""
    voc_root, ids = find_voc_root(source.data_dir), load_ids(source.list)[:num_files]
    classes = load_class_names(voc_root)
    rows = load_image_labels(source.image_labels, ids, classes)
    new_ids = [f"{place:08d}" for place in range(count)]
    tree = LabelTree(folder, folder / "list_id.txt", folder / "cls_labels.npy", folder / "saliency", folder / "cams")
    parts = [
        (voc_root / "JPEGImages", folder / "VOC2012/JPEGImages", ".jpg"),
        (truth_folder(voc_root, ids), folder / "VOC2012/SegmentationClass", ".png"),
        (source.saliency_dir, tree.saliency_dir, ".png"),
    ]
    for old, new, suffix in parts + ([(source.cam_dir, tree.cam_dir, ".npz")] if with_cams else []):
        link_repeatedly(files_of_ids(old, ids, suffix), new, new_ids, suffix)
    write_text(folder / "VOC2012/classes.txt", "".join(f"{name}\n" for name in classes))
    save_ids(tree.list, new_ids)
    save_image_labels(tree.image_labels, {name: rows[place % len(ids)] for place, name in enumerate(new_ids)})
    return tree


def link_repeatedly(files: list[Path], folder: Path, new_ids: list[str], suffix: str) -> None:
    make_folder(folder)
    for place, name in enumerate(new_ids):
        os.symlink(files[place % len(files)].resolve(), folder / f"{name}{suffix}")
