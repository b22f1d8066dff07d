"""Decoder widths of the saliency network side by side: parameters, training step, prediction.

    python -m benchmarks.decoder_speed --backbone mobilenetv2_035
    python -m benchmarks.decoder_speed --backbone swin-base-224 --widths 64 paper

Random weights, the GPU if there is one. The widths take turns, and the fastest of their turns counts.
"""

import argparse
import sys

import torch

from benchmarks.report import device_kind, environment_line, keep
from benchmarks.timing import milliseconds
from metrics.tables import markdown_table
from models.saliency_losses import saliency_objective
from models.saliency_net import build_saliency_net
from options import PAPER_WIDTH
from utils.precision import autocast

TURNS = 3


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Speed and size of decoder widths.")
    parser.add_argument("--backbone", default="mobilenetv2_035", help="by the README's names, or any timm name")
    parser.add_argument("--widths", nargs="+", default=["64", "128", "256", "paper"], help="channels of the decoder")
    parser.add_argument("--image_size", type=int, default=224, help="px")
    parser.add_argument("--batch", type=int, default=4, help="images at a time")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = {width: build(args.backbone, width, args.image_size, device) for width in args.widths}
    batch = random_batch(args, device)
    ways = {
        (width, does): does(network, *batch, device) for width, network in networks.items() for does in (train, predict)
    }
    ms = milliseconds(ways, [range(args.batch)], TURNS)
    slowest = {does: max(ms[width, does] for width in args.widths) for does in (train, predict)}
    rows = [
        [width, f"{millions(networks[width]):.2f}"]
        + [f"{ms[width, does]:.1f} ({slow / ms[width, does]:.1f} ×)" for does, slow in slowest.items()]
        for width in args.widths
    ]
    header = ["decoder", "parameters, M", "training step, ms/image (speed-up)", "prediction, ms/image (speed-up)"]
    command = f"python -m benchmarks.decoder_speed {' '.join(argv)}".rstrip()
    keep(f"decoder_speed_{args.backbone}_{device_kind()}", command, [markdown_table(header, rows), environment_line()])


def build(backbone: str, width: str, image_size: int, device: torch.device):
    settings = {"backbone": backbone, "backbone_args": {}, "pixel_mean": None, "pixel_std": None}
    settings |= {"decoder_width": PAPER_WIDTH if width == "paper" else int(width), "image_size": image_size}
    return build_saliency_net(settings).to(device, memory_format=torch.channels_last)


def millions(network) -> float:
    return sum(parameter.numel() for parameter in network.parameters()) / 1e6


def train(network, images, masks, device: torch.device):
    """A function that does forward pass, losses, backward pass and Adam."""
    optimizer = torch.optim.Adam(network.parameters())

    def step(_):
        network.train().zero_grad(set_to_none=True)
        with autocast(device, enabled=True):
            outputs = network(images)
        saliency_objective(outputs, masks, edge_weight=1.0)["loss"].backward()
        optimizer.step()
        wait(device)

    return step


def predict(network, images, masks, device: torch.device):
    """A function that does the forward pass alone."""

    @torch.inference_mode()
    def step(_):
        network.eval()
        with autocast(device, enabled=True):
            network(images)
        wait(device)

    return step


def random_batch(args, device: torch.device):
    shape = (args.batch, 1, args.image_size, args.image_size)
    images = torch.randn(shape, device=device).expand(-1, 3, -1, -1)
    return images.contiguous(memory_format=torch.channels_last), (torch.rand(shape, device=device) > 0.5).float()


def wait(device: torch.device) -> None:
    """For what the device has yet to do."""
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
