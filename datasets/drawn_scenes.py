"""Synthetic scenes for running and testing every stage without a download.

A scene has a textured background with clutter, one to three objects of ten classes, and the context of their class
around most objects. Some objects are pale (weak saliency). A scene depends only on `seed` and `index`.

    write_saliency_scenes   <folder>/{Images/*.jpg, Masks/*.png}
    write_voc_scenes        the VOC tree of formats/voc_layout.py, with classes.txt
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from datasets.drawn_objects import CLASS_NAMES, CONTEXTS, draw_background, draw_clutter, draw_context, draw_object
from formats.atomic_files import write_text
from formats.image_labels import load_image_labels, save_image_labels
from formats.images import save_grey, save_image
from formats.labels import IGNORE_LABEL, save_label
from formats.voc_layout import load_ids, save_ids

SINGLE_CLASS_SHARE = 0.65  # VOC train_aug: 6249 of 10582
CONTEXT_SHARE = 0.65  # of objects with the context of their class
STRAY_CONTEXT_SHARE = 0.25  # of scenes with the context of an absent class
PALE_SHARE = {"lamp": 0.3, "cactus": 0.3}  # of objects with weak saliency
DEFAULT_PALE_SHARE = 0.05  # for the other classes
PICTURE_ROWS = 6  # scenes in the demo's picture


@dataclass(frozen=True)
class Scene:
    """An image with its ground truth."""

    image: np.ndarray  # RGB uint8 [H, W, 3]
    label: np.ndarray  # uint8 [H, W]: 0 background, 1..10 the classes, 255 a border of about 2 px around each object
    mask: np.ndarray  # uint8 [H, W]: 255 on objects, 0 elsewhere

    @property
    def image_labels(self) -> np.ndarray:
        """Image labels, float32 [10]: 1 for visible classes."""
        labels = np.arange(1, len(CLASS_NAMES) + 1)
        return np.isin(labels, self.label).astype(np.float32)


def draw_scene(seed: int, index: int, height: int = 128, width: int = 160) -> Scene:
    """Draw scene `index` of the series `seed`."""
    rng = np.random.default_rng([seed, index])
    image = draw_background(rng, height, width)
    names = choose_classes(rng)
    places = choose_places(rng, len(names), height, width)
    if rng.random() < STRAY_CONTEXT_SHARE:
        stray = rng.choice([kind for name, kind in CONTEXTS.items() if name not in names])
        draw_context(rng, image, stray, rng.uniform(0.2, 0.8, 2) * (width, height), 0.2 * min(height, width))
    for name, (centre_xy, radius_px) in zip(names, places):
        if rng.random() < CONTEXT_SHARE:
            draw_context(rng, image, CONTEXTS[name], centre_xy, radius_px)
    draw_clutter(rng, image, count=rng.integers(1, 4))

    label = np.zeros((height, width), np.uint8)
    border = np.zeros((height, width), bool)
    for name, (centre_xy, radius_px) in zip(names, places):
        colour, coverage = draw_object(rng, name, height, width, centre_xy, radius_px)
        visible = coverage > 0.5
        opacity = rng.uniform(0.4, 0.65) if rng.random() < PALE_SHARE.get(name, DEFAULT_PALE_SHARE) else 1.0
        image += (opacity * coverage)[..., None] * (colour - image)
        label[visible] = CLASS_NAMES.index(name) + 1
        border[visible] = False  # an object hides the borders of objects behind it
        border |= cv2.morphologyEx(visible.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
    mask = np.where(label > 0, 255, 0).astype(np.uint8)
    label[border] = IGNORE_LABEL
    image += rng.normal(0, 0.02, image.shape).astype(np.float32)
    return Scene(np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8), label, mask)


def choose_classes(rng: np.random.Generator) -> list[str]:
    """Choose the class of each object: one or two objects of one class, or two or three objects of two classes."""
    if rng.random() < SINGLE_CLASS_SHARE:
        return [str(rng.choice(CLASS_NAMES))] * int(rng.choice([1, 2], p=[0.8, 0.2]))
    names = [str(name) for name in rng.choice(CLASS_NAMES, 2, replace=False)]
    return names + ([names[int(rng.integers(2))]] if rng.random() < 0.3 else [])


def choose_places(rng: np.random.Generator, count: int, height: int, width: int):
    """Choose (centre in px, radius in px) for each object, far enough apart that each stays visible."""
    largest = {1: 0.46, 2: 0.33, 3: 0.27}[count]
    places: list[tuple[np.ndarray, float]] = []
    for _ in range(200):
        radius_px = rng.uniform(0.6, 1.0) * largest * min(height, width)
        centre_xy = rng.uniform(0.8 * radius_px, np.array([width, height]) - 0.8 * radius_px)
        if all(np.hypot(*(centre_xy - other)) > 0.8 * (radius_px + radius) for other, radius in places):
            places.append((centre_xy, radius_px))
        if len(places) == count:
            break
    return places


def write_saliency_scenes(folder, count: int, seed: int, height: int = 128, width: int = 160) -> None:
    """Write scenes 0 … count-1 of `seed` as a saliency data set with Images/ and Masks/."""
    folder = Path(folder)
    for index in range(count):
        scene = draw_scene(seed, index, height, width)
        save_image(folder / "Images" / f"{scene_id(seed, index)}.jpg", scene.image)
        save_grey(folder / "Masks" / f"{scene_id(seed, index)}.png", scene.mask)


def write_voc_scenes(
    voc_root, list_dir, num_train: int, num_val: int, seed: int, height: int = 128, width: int = 160
) -> None:
    """Write a VOC tree with scenes 0 … num_train-1 of `seed` for training and the next `num_val` for validation.

    As in VOC, SegmentationClassAug holds all masks, SegmentationClass those of train_id and val_id, and train_id is a
    subset of train_aug_id (its first half).
    """
    voc_root, list_dir = Path(voc_root), Path(list_dir)
    ids = [scene_id(seed, index) for index in range(num_train + num_val)]
    lists = {"train_aug": ids[:num_train], "train": ids[: (num_train + 1) // 2], "val": ids[num_train:]}
    image_labels = {}
    for index, name in enumerate(ids):
        scene = draw_scene(seed, index, height, width)
        save_image(voc_root / "JPEGImages" / f"{name}.jpg", scene.image)
        save_label(voc_root / "SegmentationClassAug" / f"{name}.png", scene.label)
        if name in lists["train"] or name in lists["val"]:
            save_label(voc_root / "SegmentationClass" / f"{name}.png", scene.label)
        image_labels[name] = scene.image_labels
    write_text(voc_root / "classes.txt", "".join(f"{name}\n" for name in CLASS_NAMES))
    save_image_labels(list_dir / "cls_labels.npy", image_labels)
    for list_name, members in lists.items():
        save_ids(list_dir / f"{list_name}_id.txt", members)


def write_demo_scenes(root, num_saliency: int, num_train: int, num_val: int, seed: int) -> None:
    """Draw the demo's data in the README's layout: dataset/, data/ and voc12/ below `root`. Existing data stay.

    voc12/ also has lists of the single-class training scenes, of the scenes in the demo's picture, and of those to
    segment.
    """
    root = Path(root)
    lists = root / "voc12"
    if (lists / "demo_id.txt").is_file():  # written last
        return
    write_saliency_scenes(root / "dataset/DRAWN-TR", num_saliency, 3 * seed)
    write_saliency_scenes(root / "dataset/benchmark/DRAWN-TE", num_val, 3 * seed + 1)
    write_voc_scenes(root / "data/voc12/VOCdevkit/VOC2012", lists, num_train, num_val, 3 * seed + 2)
    ids = load_ids(lists / "train_aug_id.txt")
    image_labels = load_image_labels(lists / "cls_labels.npy", ids, CLASS_NAMES)
    single = [name for name, row in zip(ids, image_labels) if row.sum() == 1]
    save_ids(lists / "single_class_id.txt", single)
    save_ids(lists / "picture_id.txt", single[:PICTURE_ROWS])
    save_ids(lists / "demo_id.txt", load_ids(lists / "val_id.txt") + single[:PICTURE_ROWS])


def scene_id(seed: int, index: int) -> str:
    return f"scene{seed}_{index:06d}"
