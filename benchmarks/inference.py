"""Time of class activation maps and multi-scale segmentations, compared with a plain loop over images.

    python -m benchmarks.inference --input data/voc12/VOCdevkit/VOC2012/JPEGImages
    OMP_NUM_THREADS=1 python -m benchmarks.inference --backbone resnest50 --images 8 --onnx --input JPEGImages

The plain loop, as in the code of IRN and Puzzle-CAM: the same network on one image and one scale at a time, maps of all
classes resized to the image, results written before the next image is read (CAMs by np.save), float32 without TF32. Its
mirror images are in the batch of the image on GPUs, and separate on CPUs, where that is faster. Ours: the functions of
predict.py and make_pseudo_labels.py. Random weights; scales 0.5, 1, 1.5, 2 and mirror images; from files to files. With
--onnx, on CPUs: our network in torch and its ONNX file, with as many threads; scale 1, image by image, in memory. See
benchmarks/timing.py.
"""

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import make_pseudo_labels
import options
import predict
from benchmarks.report import device_kind, save_page, time_cells
from benchmarks.timing import milliseconds
from formats.images import image_stems, load_image
from formats.labels import save_label
from formats.voc_layout import VOC_CLASSES
from metrics.tables import markdown_table
from models.builders import BUILDERS
from models.onnx_export import ExportedNetwork, export_onnx
from pseudo_labels.cams import image_to_tensor
from utils.distributed import World
from utils.inference_network import prepare_for_inference
from utils.memory import keep_freed_memory
from utils.precision import allow_tf32

SCALES = (0.5, 1.0, 1.5, 2.0)
CLASSES = [0, 14]  # of every image
TURNS = 2


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Multi-scale inference beside a plain loop.")
    parser.add_argument("--backbone", default="resnest101", help="a README name, or any timm name")
    parser.add_argument("--input", required=True, metavar="DIR", help="photographs")
    parser.add_argument("--images", type=int, default=32, help="number of photographs")
    parser.add_argument("--batch", default="0", help="--batch of the scripts")
    parser.add_argument("--onnx", action="store_true", help="compare with ONNX Runtime")
    parser.add_argument("--amp", default="True", help="--amp of the scripts: True, False or cpu")
    args = parser.parse_args(argv)
    rows = measure(args)
    names = ("torch", "ONNX") if args.onnx else ("plain loop", "ours")
    header = ["", *(f"{name}, ms/image" for name in names), "speed-up"]
    parts = [f"{rows[0]['images']} photographs", markdown_table(header, list(map(time_cells, rows)))]
    save_page(f"{'onnx' if args.onnx else 'inference'}_{args.backbone}_{device_kind()}", "inference", argv, parts)


def measure(args) -> list[dict]:
    """Measure both sides for each kind of results: name and ms per image of each."""
    images = dict(list(image_stems(args.input).items())[: args.images])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_freed_memory()  # as in all scripts on CPUs
    rows, settings = [], {"backbone": args.backbone, "backbone_args": {}, "pixel_mean": None, "pixel_std": None}
    settings |= {"classes": list(VOC_CLASSES), "head_width": 256, "use_gn": True, "mode": "fix", "output_stride": 16}
    for kind, stage, *sides in KINDS:
        network = BUILDERS[stage](settings).to(device).eval()
        if args.onnx:
            ways = build_onnx_ways(network, stage, settings, images)
        else:
            ways = {"plain loop": partial(process, sides[0], network, False, args, images, device)}
            ways["ours"] = partial(
                process, sides[1], prepare_for_inference(network, device), True, args, images, device
            )
        chunks = [[index] for index in range(len(images))] if args.onnx else [range(len(images))]
        before, after = milliseconds(ways, chunks, TURNS).values()
        rows.append({"name": f"{kind}, {args.backbone}", "images": len(images), "plain_ms": before, "ours_ms": after})
    return rows


def process(side, network, tf32: bool, args, images: dict[str, Path], device: torch.device, _) -> None:
    """Write the results of all images to a temporary folder by `side`, one of the functions below."""
    allow_tf32(tf32)
    flags = f"--batch {args.batch} --amp {args.amp} --scales {' '.join(map(str, SCALES))} --flip".split()
    with tempfile.TemporaryDirectory() as folder:
        side(network, images, Path(folder), device, flags)


def build_onnx_ways(network, stage: str, settings: dict, images: dict[str, Path]) -> dict:
    """Both sides of --onnx: functions of the indices of images."""
    from onnxruntime import InferenceSession, SessionOptions

    ours, options = ExportedNetwork(prepare_for_inference(network, torch.device("cpu")), stage, None), SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        export_onnx(network, stage, settings, f"{folder}/a.onnx")
        session = InferenceSession(f"{folder}/a.onnx", options)
    pixels = [image_to_tensor(load_image(path), "cpu").contiguous() for path in images.values()]
    run_torch = torch.inference_mode()(lambda chunk: [ours(pixels[index]) for index in chunk])
    return {"torch": run_torch, "ONNX": lambda chunk: [session.run(None, {"images": pixels[i].numpy()}) for i in chunk]}


@torch.inference_mode()
def plain_cams(network, images: dict[str, Path], folder: Path, device, _) -> None:
    for stem, path in images.items():
        maps = plain_maps(network, load_image(path), device, lambda output: F.relu(output["class_maps"]))[CLASSES]
        maps = maps / (maps.amax(dim=(1, 2), keepdim=True) + 1e-5)  # [K, H, W]
        np.save(folder / f"{stem}.npy", {"keys": np.array(CLASSES) + 1, "high_res": maps.cpu().numpy()})


@torch.inference_mode()
def plain_segmentations(network, images: dict[str, Path], folder: Path, device, _) -> None:
    for stem, path in images.items():
        logits = plain_maps(network, load_image(path), device, lambda output: output)  # [L, H, W]
        save_label(folder / f"{stem}.png", logits.argmax(dim=0).cpu().numpy().astype(np.uint8))


def plain_maps(network, image: np.ndarray, device, get_maps) -> torch.Tensor:
    """Sum of maps [C, H, W] over scales and mirror images of an image, uint8 [H, W, 3]."""
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].to(device)  # [1, 3, H, W]
    pixels, total = network.backbone.normalise(pixels), 0
    for scale in SCALES:
        size_hw = [round(side * scale) for side in image.shape[:2]]
        scaled = F.interpolate(pixels, size=size_hw, mode="bilinear", align_corners=False)  # [1, 3, h, w]
        both = torch.cat([scaled, scaled.flip(3)])  # [2, 3, h, w]
        parts = both.split(2 if device.type == "cuda" else 1)
        maps = torch.cat([get_maps(network(part)) for part in parts])  # [2, C, h', w']
        maps = F.interpolate(maps, size=image.shape[:2], mode="bilinear", align_corners=False)  # [2, C, H, W]
        total = total + maps[0] + maps[1].flip(2)
    return total


def our_cams(network, images: dict[str, Path], folder: Path, device, flags: list[str]) -> None:
    args = options.make_pseudo_labels().parse_args([*flags, "--label_name", "benchmark", "--cam_dir", str(folder)])
    labels = np.tile(np.isin(np.arange(len(VOC_CLASSES)), CLASSES), (len(images), 1))  # [N, C]
    files = make_pseudo_labels.Images(
        list(images), list(images), VOC_CLASSES, list(images.values()), labels, None, None
    )
    world = World(0, 1, device)
    make_pseudo_labels.write_cams(network, files, set(range(len(images))), args, world)


def our_segmentations(network, images: dict[str, Path], folder: Path, device, flags: list[str]) -> None:
    args = options.predict().parse_args([*flags, *f"--load_path none --input none --output {folder}".split()])
    batches = predict.find_batches("segmentation", images, args, World(0, 1, device))
    results = predict.predict_images("segmentation", network, {}, images, batches, {}, args, device)
    predict.save_results(results, len(images), "segmentation", folder, args, num_callers=1)


KINDS = [  # results, the stage of their network, and both sides
    ("CAMs", "classification", plain_cams, our_cams),
    ("segmentations", "segmentation", plain_segmentations, our_segmentations),
]

if __name__ == "__main__":
    main(sys.argv[1:])
