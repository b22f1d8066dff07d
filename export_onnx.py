"""A saliency network as an ONNX file, for use without PyTorch.

    pip install -r requirements-onnx.txt
    python export_onnx.py --load_path experiments/sod/last.pth --output sod.onnx

Input "images": uint8 [B, 3, S, S], RGB, resized to the network's size S; B is free. Output "saliency": float32
[B, 1, S, S] in 0..1. The normalisation is inside. The file is run by onnxruntime and kept only if its maps are those
of PyTorch.
"""

import sys

import options

if __name__ == "__main__":
    ARGS = options.export_onnx().parse_args()  # before the heavy imports, so that --help answers at once

import importlib.util
import logging

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from atomic_files import atomic_path
from input_errors import InputError, run_script
from models.saliency_net import SaliencyNet, build_saliency_net
from utils.checkpoint import load_checkpoint, rebuild

NEEDED = ("onnx", "onnxscript", "onnxruntime")
LARGEST_DIFFERENCE = 1e-4  # of probabilities
EXAMPLE_BATCH, TESTED_BATCHES = 2, (1, 3)


def main(args) -> None:
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise InputError(f"{', '.join(absent)} not installed: pip install -r requirements-onnx.txt")

    # model
    checkpoint = load_checkpoint(args.load_path)
    if checkpoint["stage"] != "saliency":
        raise InputError(f"{args.load_path} is a {checkpoint['stage']} checkpoint: only saliency networks are exported")
    maps_of = MapsOfImages(rebuild(build_saliency_net, checkpoint, args.load_path)).eval()
    side_px = checkpoint["settings"]["image_size"]

    # save
    with atomic_path(args.output) as temporary:
        write_onnx(maps_of, side_px, temporary)
        difference = max(difference_to_torch(maps_of, temporary, batch, side_px) for batch in TESTED_BATCHES)
        if difference > LARGEST_DIFFERENCE:
            raise RuntimeError(f"the exported network's maps differ from PyTorch's by up to {difference:.1e}")
    print(f"{args.output}: images uint8 [B, 3, {side_px}, {side_px}] → saliency float32 [B, 1, {side_px}, {side_px}]")
    print(f"largest difference to PyTorch, batches of {TESTED_BATCHES}: {difference:.1e}")


class MapsOfImages(nn.Module):
    """forward: images uint8 [B, 3, H, W], RGB → saliency float32 [B, 1, H, W] in 0..1."""

    def __init__(self, network: SaliencyNet):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        inputs = self.network.backbone.normalise(images)  # [B, 3, H, W]
        return self.network(inputs)["saliency"][0].sigmoid()  # [B, 1, H, W]


def write_onnx(maps_of: MapsOfImages, side_px: int, path) -> None:
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        maps_of,
        (example_images(EXAMPLE_BATCH, side_px),),
        dynamo=True,
        input_names=["images"],
        output_names=["saliency"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    program.save(path)


@torch.inference_mode()
def difference_to_torch(maps_of: MapsOfImages, path, batch: int, side_px: int) -> float:
    """The largest difference of two maps of the same images, by onnxruntime and by PyTorch."""
    import onnxruntime

    images = example_images(batch, side_px)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"images": images.numpy()})
    return float(np.abs(theirs - maps_of(images).numpy()).max())


def example_images(batch: int, side_px: int) -> Tensor:
    """Smooth random blobs, uint8 [B, 3, S, S]: on plain noise a trained network answers nearly the same everywhere."""
    coarse = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(batch))  # [B, 3, 6, 6]
    blobs = F.interpolate(coarse, size=(side_px, side_px), mode="bicubic")  # [B, 3, S, S]
    return (blobs.clamp(0, 1) * 255).to(torch.uint8)


if __name__ == "__main__":
    sys.exit(run_script(main, ARGS))
