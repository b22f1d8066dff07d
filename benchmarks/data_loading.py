"""Time per training image of one loader process, compared with a plain loader.

    python -m benchmarks.data_loading --data_dir data/voc12 --train_root dataset/ECSSD

The plain loader uses PIL and torchvision as most public code does. Segmentation: decode, resize the whole image to a
random scale, flip, crop. Saliency: crop, rotate and change the colours of the whole image, then resize to 224 px. It
returns normalised float tensors. Ours: the data sets of the training scripts, which return 8-bit tensors that are
normalised on the device. One core, from files, with batches collated on both sides; see benchmarks/timing.py.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.utils.data import Dataset, default_collate
from torchvision.transforms import functional as TF

from benchmarks.report import save_page
from benchmarks.timing import milliseconds
from datasets.distributed_batch_sampler import DistributedBatchSampler
from datasets.saliency_folder import SaliencyTraining
from datasets.transforms import MEAN_COLOUR
from datasets.voc12 import SegmentationTraining
from formats.labels import IGNORE_LABEL
from formats.saliency_layout import training_pairs
from formats.voc_layout import files_of_ids, find_voc_root, list_path, load_class_names, load_ids, truth_folder
from metrics.tables import markdown_table

BATCH, BATCHES, TURNS = 16, 5, 3  # images per batch, batches per turn, turns
CROP_PX, SALIENCY_PX = 512, 224
LONG_SIDES_PX = ((256, 1024), (320, 640))  # of the segmentation network and of the classifier
MEAN_STD = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # of ImageNet


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Time per training image of one loader process.")
    parser.add_argument("--data_dir", required=True, help="VOC tree, as in train_segmentation.py")
    parser.add_argument("--list_dir", default="voc12", help="folder of the lists")
    parser.add_argument("--list", default="train_id.txt", help="ids of images with masks")
    parser.add_argument("--train_root", required=True, help="saliency data set, as in SOD_train.py")
    parser.add_argument("--images", type=int, default=320, help="largest number of images per data set")
    args = parser.parse_args(argv)
    cv2.setNumThreads(0)  # as in a loader process
    torch.set_num_threads(1)
    voc_root = find_voc_root(args.data_dir)
    ids = load_ids(list_path(args.list_dir, args.list))
    paths = files_of_ids(voc_root / "JPEGImages", ids, ".jpg"), files_of_ids(truth_folder(voc_root, ids), ids, ".png")
    num_labels = len(load_class_names(voc_root)) + 1
    pairs = list(zip(*paths))[: args.images]
    rows = [segmentation_row(pairs, num_labels, sides) for sides in LONG_SIDES_PX]
    pairs = training_pairs([args.train_root])[: args.images]
    sides = PlainImages(pairs, plain_saliency), SaliencyTraining(pairs, seed=0)
    rows.append([f"saliency, {SALIENCY_PX} px", *compare(*sides, len(pairs), [SALIENCY_PX])])
    header = ["", "plain, ms/image", "ours, ms/image", "speed-up"]
    save_page("data_loading", "data_loading", argv, [markdown_table(header, rows)])


class PlainImages(Dataset):
    """Items `make(image, label, rng)` by key (epoch, index, …), with the same random numbers for equal keys."""

    def __init__(self, pairs: list[tuple[Path, Path]], make):
        self.pairs, self.make = pairs, make

    def __getitem__(self, key):
        image, label = map(Image.open, self.pairs[key[1]])
        return self.make(image.convert("RGB"), label, np.random.default_rng(key[:2]))


def segmentation_row(pairs: list, num_labels: int, long_side: tuple[int, int]) -> list[str]:
    plain = PlainImages(pairs, partial(plain_segmentation, long_side_px=long_side))
    ours = SegmentationTraining(*zip(*pairs), num_labels, CROP_PX, long_side, seed=0)
    title = f"segmentation, crop {CROP_PX}, longer side {long_side[0]}–{long_side[1]} px"
    return [title, *compare(plain, ours, len(pairs))]


def compare(plain: Dataset, ours: Dataset, num_images: int, sides_px=()) -> list[str]:
    """Cells of a row: ms per image of both sides, and their ratio."""
    keys = [key for batch in DistributedBatchSampler(num_images, BATCH, seed=0, sides_px=sides_px) for key in batch]
    ways = {"plain": partial(collate_batches, plain), "ours": partial(collate_batches, ours)}
    ms = milliseconds(ways, list(split_chunks(keys, BATCH * BATCHES)), TURNS)
    return [f"{ms['plain']:.2f}", f"{ms['ours']:.2f}", f"{ms['plain'] / ms['ours']:.1f} ×"]


def collate_batches(pictures: Dataset, keys: list[tuple]) -> None:
    for batch in split_chunks(keys, BATCH):
        default_collate([pictures[key] for key in batch])


def split_chunks(items: list, length: int) -> Iterator[list]:
    return (items[first : first + length] for first in range(0, len(items), length))


def plain_segmentation(image: Image.Image, label: Image.Image, rng, long_side_px: tuple[int, int]):
    """Resize, flip, crop and normalise the whole image. Returns float32 [3, S, S], int64 [S, S]."""
    scale = rng.uniform(*long_side_px) / max(image.size)
    size = [max(1, round(side * scale)) for side in image.size]
    image, label = image.resize(size, Image.Resampling.BICUBIC), label.resize(size, Image.Resampling.NEAREST)
    if rng.random() < 0.5:
        image, label = TF.hflip(image), TF.hflip(label)
    spare = [side - CROP_PX for side in size]
    left, top = (int(rng.integers(min(0, px), max(0, px) + 1)) for px in spare)
    window = max(0, left), max(0, top), min(size[0], left + CROP_PX), min(size[1], top + CROP_PX)
    place, square = (max(0, -left), max(0, -top)), (CROP_PX, CROP_PX)
    canvas, label_canvas = Image.new("RGB", square, MEAN_COLOUR), Image.new("L", square, IGNORE_LABEL)
    canvas.paste(image.crop(window), place)
    label_canvas.paste(Image.fromarray(np.asarray(label.crop(window))), place)  # the indices, not the colours
    return TF.normalize(TF.to_tensor(canvas), *MEAN_STD), torch.from_numpy(np.array(label_canvas)).long()


def plain_saliency(image: Image.Image, mask: Image.Image, rng):
    """Flip, crop, rotate and change the colours of the whole image, then resize it. Returns float32 [3, S, S] and
    [1, S, S]."""
    if rng.random() < 0.5:
        image, mask = TF.hflip(image), TF.hflip(mask)
    width, height = image.size
    size_hw = int(height * rng.uniform(0.9, 1)), int(width * rng.uniform(0.9, 1))
    top, left = int(rng.integers(height - size_hw[0] + 1)), int(rng.integers(width - size_hw[1] + 1))
    image, mask = (TF.crop(picture, top, left, *size_hw) for picture in (image, mask.convert("L")))
    if rng.random() < 0.2:
        angle = rng.uniform(-15, 15)
        image, mask = image.rotate(angle, Image.Resampling.BICUBIC), mask.rotate(angle)
    for enhancer, low, high in (
        (ImageEnhance.Brightness, 0.5, 1.5),
        (ImageEnhance.Contrast, 0.5, 1.5),
        (ImageEnhance.Color, 0, 2),
        (ImageEnhance.Sharpness, 0, 3),
    ):
        image = enhancer(image).enhance(rng.uniform(low, high))
    size = (SALIENCY_PX, SALIENCY_PX)
    image, mask = image.resize(size, Image.Resampling.BILINEAR), mask.resize(size, Image.Resampling.NEAREST)
    return TF.normalize(TF.to_tensor(image), *MEAN_STD), TF.to_tensor(mask)


if __name__ == "__main__":
    main(sys.argv[1:])
