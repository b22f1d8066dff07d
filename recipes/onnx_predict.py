"""Predict with a file of `export.py onnx`. Needs onnxruntime, numpy and OpenCV alone; copy it anywhere.

    python onnx_predict.py --model segmentation.onnx --input photo.jpg folder --output results

Writes DIR/<path below the folder>.png: of a saliency network the grey map, 0..255; of a segmentation network the class
id of each pixel, 0 = background; of a classifier the image with the maps of the classes above 0.5, or else of the most
probable one. EXIF rotation is ignored. The results are those of predict.py at scale 1.
"""

import argparse
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import onnxruntime

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Predict with a file of `export.py onnx`.")
    parser.add_argument("--model", required=True, metavar="FILE.onnx")
    parser.add_argument("--input", required=True, nargs="+", type=Path, metavar="PATH", help="image files and folders")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the PNG files")
    args = parser.parse_args(argv)
    session = onnxruntime.InferenceSession(args.model)
    metadata = session.get_modelmeta().custom_metadata_map
    classes = json.loads(metadata["classes"])
    for path, target in find_images(args.input, args.output).items():
        image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)  # BGR [H, W, 3]
        if image is None:
            print(f"left out: {path} cannot be read as an image", file=sys.stderr)
            continue
        images = np.ascontiguousarray(image[None, :, :, ::-1].transpose(0, 3, 1, 2))  # RGB [1, 3, H, W]
        outputs = [output[0] for output in session.run(None, {"images": images})]
        if metadata["stage"] == "saliency":
            result = np.rint(outputs[0][0] * 255).astype(np.uint8)  # [H, W]
        elif metadata["stage"] == "segmentation":
            result = outputs[0].argmax(axis=0).astype(np.uint8)  # [H, W]
        else:
            result = overlay_cams(image, *outputs)
            print(path, ", ".join(f"{name} {prob:.2f}" for name, prob in zip(classes, outputs[0])))
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), result)


def find_images(paths: list[Path], output: Path) -> dict[Path, Path]:
    """Image files → files to write, without two of one name."""
    found = {}
    for path in paths:
        inside = sorted(path.rglob("*")) if path.is_dir() else [path]
        parent = path if path.is_dir() else path.parent
        images = [image for image in inside if image.suffix.lower() in SUFFIXES]
        found |= {image: output / image.relative_to(parent).with_suffix(".png") for image in images}
    if not found or len({*found.values()}) < len(found):
        sys.exit("--input: no image found" if not found else "--input: images of one name would overwrite each other")
    return found


def overlay_cams(image: np.ndarray, probs: np.ndarray, cams: np.ndarray) -> np.ndarray:
    """BGR uint8 [H, W, 3] with the strongest of the maps [C, h, w] of the classes that are present, blue to red."""
    present = probs > 0.5 if (probs > 0.5).any() else probs == probs.max()  # [C]
    maps = np.stack([cv2.resize(cam, image.shape[1::-1]) for cam in cams[present]])  # [K, H, W]
    heat = (maps / (maps.max(axis=(1, 2), keepdims=True) + 1e-5)).max(axis=0)  # [H, W] in 0..1
    return cv2.addWeighted(image, 0.5, cv2.applyColorMap((heat * 255).astype(np.uint8), cv2.COLORMAP_JET), 0.5, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
