"""Export networks to ONNX and measure how far their outputs differ from those of PyTorch.

Input "images" of all stages: uint8 [B, 3, H, W], RGB, of any B, H and W; the network normalises them. The outputs are
in `DESCRIPTIONS`, which the file holds too.
"""

import importlib.util
import json
import logging
from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.saliency_prediction import resize_antialiased

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
EXAMPLE_SHAPE = (2, 90, 109)  # images, height and width in px
TESTED_SHAPES = ((1, 97, 131), (3, 160, 211), (2, 257, 301))
DESCRIPTIONS = {  # of the outputs, by stage
    "saliency": {
        "saliency": "float32 [B, 1, H, W] in 0..1; the network resizes images to its own square size, and the map back"
    },
    "classification": {
        "probs": "float32 [B, C] in 0..1, each class by itself",
        "cams": "float32 [B, C, h, w], at least 0: class activation maps after ReLU, not normalised; "
        "resize a map to the image, then divide it by its maximum + 1e-5",
    },
    "segmentation": {"probs": "float32 [B, L, H, W] in 0..1, sum 1 over the labels"},
}


class ExportedNetwork(nn.Module):
    """A network as it leaves: images uint8 [B, 3, H, W] → the outputs of `DESCRIPTIONS[stage]`.

    A saliency network gets the images resized to side_px × side_px, and its logits are resized back, both antialiased,
    as in `predict_saliency`.
    """

    def __init__(self, network: nn.Module, stage: str, side_px: int | None):
        super().__init__()
        self.network, self.stage, self.side_px = network, stage, side_px

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pixels = images.float()
        if self.stage == "saliency":
            pixels = resize_antialiased(pixels, (self.side_px, self.side_px))  # [B, 3, S, S]
        output = self.network(self.network.backbone.normalise(pixels))
        if self.stage == "saliency":
            logits = resize_antialiased(output["saliency"][0], images.shape[-2:])  # [B, 1, H, W]
            return (logits.sigmoid(),)  # [B, 1, H, W]
        if self.stage == "classification":
            return output["logits"].sigmoid(), F.relu(output["class_maps"])  # [B, C], [B, C, H / s, W / s]
        powers = (output - output.amax(dim=1, keepdim=True)).exp()  # [B, L, H, W]
        return (powers / powers.sum(dim=1, keepdim=True),)  # the softmax; Softmax of ONNX Runtime takes 5 times as long


def list_missing_packages() -> list[str]:
    """List the packages that the export needs and that are not installed."""
    return [name for name in PACKAGES if importlib.util.find_spec(name) is None]


def export_onnx(network: nn.Module, stage: str, settings: dict, path) -> float:
    """Write the network of a checkpoint to an ONNX file, whose metadata are stage, classes (JSON; those of a
    segmentation begin with "background"), and a description of each input and output.

    Returns the largest difference between the outputs of ONNX Runtime and PyTorch: of probabilities, or of maps
    relative to the largest value.
    """
    model, outputs = ExportedNetwork(network, stage, settings.get("image_size")).eval(), DESCRIPTIONS[stage]
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with patch("timm.layers.padding.get_same_padding", same_padding):
        program = torch.onnx.export(
            model,
            (draw_images(*EXAMPLE_SHAPE),),
            dynamo=True,
            input_names=["images"],
            output_names=list(outputs),
            dynamic_shapes={"images": {0: "batch", 2: "height", 3: "width"}},
            verbose=False,
        )
    for node in program.model.graph:
        node.metadata_props.clear()  # the stack that made it, with paths of this machine
    background = ["background"] if stage == "segmentation" else []
    classes = json.dumps(background + settings.get("classes", []))
    images = "uint8 [B, 3, H, W], RGB; any B, H and W; normalised by the network"
    program.model.metadata_props.update({"stage": stage, "classes": classes, "images": images, **outputs})
    program.save(path)
    return measure_difference(model, path)


def same_padding(side_px: int, kernel: int, stride: int, dilation: int) -> int:
    """timm's padding without division of floats, which torch simplifies for minutes in tf_efficientnet_lite0."""
    return max(dilation * (kernel - 1) + 1 - stride + -side_px % stride, 0)


def measure_difference(model: nn.Module, path) -> float:
    """The difference that `export_onnx` returns, over images of `TESTED_SHAPES`; NaN if an output has one."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    differences = []
    for shape in TESTED_SHAPES:
        images = draw_images(*shape)
        with torch.inference_mode():
            expected = model(images)
        for ours, theirs in zip(expected, session.run(None, {"images": images.numpy()})):
            differences.append((torch.from_numpy(theirs) - ours).abs().max() / ours.max().clamp(min=1))
    return torch.stack(differences).max().item()


def draw_images(batch: int, height: int, width: int) -> Tensor:
    """Smooth random blobs, uint8 [B, 3, H, W]; for plain noise a trained network gives nearly constant maps."""
    coarse = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(batch))  # [B, 3, 6, 6]
    blobs = F.interpolate(coarse, size=(height, width), mode="bicubic")  # [B, 3, H, W]
    return (blobs.clamp(0, 1) * 255).to(torch.uint8)
