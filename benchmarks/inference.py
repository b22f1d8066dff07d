"""Class activation maps and multi-scale segmentations per second, beside a plain loop over images.

    python -m benchmarks.inference --input data/voc12/VOCdevkit/VOC2012/JPEGImages
    python -m benchmarks.inference --backbone resnest50 --images 8 --input data/voc12/VOCdevkit/VOC2012/JPEGImages

The plain loop, as IRN's and PuzzleCAM's code has it: one image and one scale at a time, maps of all classes enlarged
to the image, the result written before the next image is read (CAMs by np.save, not compressed), float32, TF32 off;
layers as published. Its mirror image passes beside an image, on CPUs after it, which is faster for this loop. Ours: the
functions of predict.py and make_pseudo_labels.py.
Random weights; scales 0.5, 1, 1.5, 2 and mirror images; from files to files. Each side has a process of its own; they
take turns, and the fastest counts.
"""

import argparse
import multiprocessing
import shlex
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import make_pseudo_labels
import options
import predict
from benchmarks.plain_networks import as_published
from benchmarks.report import device_kind, environment_line, save_page
from benchmarks.timing import milliseconds
from formats.images import image_stems, load_image
from formats.labels import save_label
from formats.voc_layout import VOC_CLASSES
from metrics.tables import markdown_table
from models.cam_classifier import build_cam_classifier
from models.deeplabv3plus import build_deeplabv3plus
from utils.distributed import World
from utils.inference_network import for_inference
from utils.memory import keep_freed_memory
from utils.precision import compute_deterministically, half_type

SCALES = (0.5, 1.0, 1.5, 2.0)
CLASSES_OF_AN_IMAGE = (0, 14)  # of which maps are kept
TURNS = 2
EPS = 1e-5


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Multi-scale inference beside a plain loop.")
    parser.add_argument("--backbone", default="resnest101", help="by the README's names, or any timm name")
    parser.add_argument("--input", required=True, metavar="DIR", help="photographs")
    parser.add_argument("--images", type=int, default=32, help="how many of them")
    parser.add_argument("--batch", type=int, default=0, help="--batch of the scripts")
    parser.add_argument("--amp", nargs="+", default=["True"], help="--amp of the scripts, each a row: True, False, cpu")
    args = parser.parse_args(argv)
    images = dict(list(image_stems(args.input).items())[: args.images])
    rows = []
    for kind in PLAIN:
        with ExitStack() as stack:
            ways = {way: in_a_process(stack, kind, way, args, images) for way in ("plain", *args.amp)}
            ms = milliseconds(ways, [range(len(images))], TURNS)
        rows += [[kind, amp, *(f"{ms[way]:.0f}" for way in ("plain", amp)), ratio(ms, amp)] for amp in args.amp]
    header = ["", "--amp", "plain loop, ms/image", "ours, ms/image", "speed-up"]
    title = f"{args.backbone}, {len(images)} photographs"
    command = f"python -m benchmarks.inference {shlex.join(argv)}"
    parts = [title, markdown_table(header, rows), environment_line()]
    save_page(f"inference_{args.backbone}_{device_kind()}", command, parts)


def in_a_process(stack: ExitStack, kind: str, way: str, args, images: dict[str, Path]):
    """A function that has a process, which lives as long as the stack, work once on the images in its way."""
    pool = stack.enter_context(ProcessPoolExecutor(1, multiprocessing.get_context("spawn")))
    return lambda _: pool.submit(work_on, kind, way, args.backbone, args.batch, images).result()


def work_on(kind: str, way: str, backbone: str, batch: int, images: dict[str, Path]) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        if way == "plain":
            torch.backends.cudnn.allow_tf32 = False
            PLAIN[kind](as_published(build(kind, backbone)).to(device).eval(), images, Path(folder), device)
        else:
            if device.type == "cpu":
                keep_freed_memory()  # as all scripts do there
            compute_deterministically(False)  # as scripts do by default
            amp = {"True": True, "False": False}.get(way, way)
            network = ready(kind, backbone, device, half_type(device, amp))
            OURS[kind](network, images, Path(folder), device, batch, way)


@cache
def build(kind: str, backbone: str) -> torch.nn.Module:
    settings = {"backbone": backbone, "backbone_args": {}, "pixel_mean": None, "pixel_std": None}
    settings |= {"classes": list(VOC_CLASSES)}
    if kind == "CAMs":
        return build_cam_classifier(settings)
    return build_deeplabv3plus(settings | {"head_width": 256, "use_gn": True, "mode": "fix", "output_stride": 16})


@cache
def ready(kind: str, backbone: str, device: torch.device, half: torch.dtype | None) -> torch.nn.Module:
    """As the scripts have it, once they have started."""
    return for_inference(build(kind, backbone), device, half)


def ratio(ms: dict, way: str) -> str:
    return f"{ms['plain'] / ms[way]:.1f} ×"


@torch.inference_mode()
def plain_cams(network, images: dict[str, Path], folder: Path, device) -> None:
    for stem, path in images.items():
        maps = plain_maps(network, load_image(path), device, lambda output: F.relu(output["class_maps"]))
        kept = maps[list(CLASSES_OF_AN_IMAGE)]  # [K, H, W]
        kept = kept / (kept.amax(dim=(1, 2), keepdim=True) + EPS)
        np.save(folder / f"{stem}.npy", {"keys": np.array(CLASSES_OF_AN_IMAGE) + 1, "high_res": kept.cpu().numpy()})


@torch.inference_mode()
def plain_segmentations(network, images: dict[str, Path], folder: Path, device) -> None:
    for stem, path in images.items():
        logits = plain_maps(network, load_image(path), device, lambda output: output)  # [L, H, W]
        save_label(folder / f"{stem}.png", logits.argmax(dim=0).cpu().numpy().astype(np.uint8))


def plain_maps(network, image: np.ndarray, device, maps_of) -> torch.Tensor:
    """The sum of maps [C, H, W] over scales and mirror images of an image, uint8 [H, W, 3], scale after scale."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)  # [1, 3, H, W]
    pixels, total = network.backbone.normalise(pixels), 0
    for scale in SCALES:
        size_hw = [round(side * scale) for side in image.shape[:2]]
        scaled = F.interpolate(pixels, size=size_hw, mode="bilinear", align_corners=False)  # [1, 3, h, w]
        straight_and_mirrored = torch.cat([scaled, scaled.flip(3)])  # [2, 3, h, w]
        at_once = 2 if device.type == "cuda" else 1
        maps = torch.cat([maps_of(network(some)) for some in straight_and_mirrored.split(at_once)])  # [2, C, h', w']
        maps = F.interpolate(maps, size=image.shape[:2], mode="bilinear", align_corners=False)  # [2, C, H, W]
        total = total + maps[0] + maps[1].flip(2)
    return total


def our_cams(network, images: dict[str, Path], folder: Path, device, batch: int, amp: str) -> None:
    flags = f"--label_name benchmark --batch {batch} --amp {amp} --scales {' '.join(map(str, SCALES))} --flip".split()
    args = options.make_pseudo_labels().parse_args([*flags, "--cam_dir", str(folder / "ours")])
    labels = np.tile(np.isin(np.arange(len(VOC_CLASSES)), CLASSES_OF_AN_IMAGE), (len(images), 1))  # [N, C]
    files = make_pseudo_labels.Images(list(images), VOC_CLASSES, list(images.values()), labels, None, None)
    world = World(0, 1, device, is_main=True)
    make_pseudo_labels.write_cams(network, files, set(range(len(images))), args, world)


def our_segmentations(network, images: dict[str, Path], folder: Path, device, batch: int, amp: str) -> None:
    flags = f"--load_path none --input none --batch {batch} --amp {amp} --scales {' '.join(map(str, SCALES))} --flip"
    args = options.predict().parse_args([*flags.split(), "--output", str(folder / "ours")])
    batches, unreadable = predict.find_batches("segmentation", images, args, device)
    results = predict.predictions("segmentation", network, {}, images, batches, unreadable, args, device)
    predict.save_results(results, len(images), "segmentation", folder / "ours", args, sharing=1)


PLAIN = {"CAMs": plain_cams, "segmentations": plain_segmentations}
OURS = {"CAMs": our_cams, "segmentations": our_segmentations}

if __name__ == "__main__":
    main(sys.argv[1:])
