"""Export saliency networks to ONNX and measure how far their maps differ from those of PyTorch."""

import logging

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.saliency_net import SaliencyNet

EXAMPLE_BATCH = 2


class SaliencyMaps(nn.Module):
    """forward: images uint8 [B, 3, H, W], RGB → saliency float32 [B, 1, H, W] in 0..1."""

    def __init__(self, network: SaliencyNet):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        inputs = self.network.backbone.normalise(images)  # [B, 3, H, W]
        return self.network(inputs)["saliency"][0].sigmoid()  # [B, 1, H, W]


def write_onnx(model: SaliencyMaps, side_px: int, path) -> None:
    """Write a network for images [B, 3, side_px, side_px] of any B to an ONNX file."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    program = torch.onnx.export(
        model,
        (draw_images(EXAMPLE_BATCH, side_px),),
        dynamo=True,
        input_names=["images"],
        output_names=["saliency"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    program.save(path)


@torch.inference_mode()
def measure_difference(model: SaliencyMaps, path, batch: int, side_px: int) -> float:
    """Largest difference between the maps of ONNX Runtime and PyTorch for the same images."""
    import onnxruntime

    images = draw_images(batch, side_px)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"images": images.numpy()})
    return float(np.abs(theirs - model(images).numpy()).max())


def draw_images(batch: int, side_px: int) -> Tensor:
    """Smooth random blobs, uint8 [B, 3, S, S]; for plain noise a trained network gives nearly constant maps."""
    coarse = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(batch))  # [B, 3, 6, 6]
    blobs = F.interpolate(coarse, size=(side_px, side_px), mode="bicubic")  # [B, 3, S, S]
    return (blobs.clamp(0, 1) * 255).to(torch.uint8)
