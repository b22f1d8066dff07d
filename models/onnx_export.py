"""Export saliency networks to ONNX and measure how far their maps differ from those of PyTorch."""

import logging

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.saliency_net import SaliencyNet

EXAMPLE_BATCH, TESTED_BATCH = 2, 3  # images; the batch of the exported network is free


class SaliencyMaps(nn.Module):
    """forward: images uint8 [B, 3, H, W], RGB → saliency float32 [B, 1, H, W] in 0..1."""

    def __init__(self, network: SaliencyNet):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        inputs = self.network.backbone.normalise(images)  # [B, 3, H, W]
        return self.network(inputs)["saliency"][0].sigmoid()  # [B, 1, H, W]


def export_onnx(network: SaliencyNet, side_px: int, path) -> float:
    """Write a network for images [B, 3, side_px, side_px] of any B to an ONNX file.

    Returns the largest difference between the maps of ONNX Runtime and PyTorch for the same images.
    """
    import onnxruntime

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    model = SaliencyMaps(network).eval()
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
    images = draw_images(TESTED_BATCH, side_px)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"images": images.numpy()})
    with torch.inference_mode():
        return (torch.from_numpy(theirs) - model(images)).abs().max().item()


def draw_images(batch: int, side_px: int) -> Tensor:
    """Smooth random blobs, uint8 [B, 3, S, S]; for plain noise a trained network gives nearly constant maps."""
    coarse = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(batch))  # [B, 3, 6, 6]
    blobs = F.interpolate(coarse, size=(side_px, side_px), mode="bicubic")  # [B, 3, S, S]
    return (blobs.clamp(0, 1) * 255).to(torch.uint8)
