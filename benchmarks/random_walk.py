"""Time of the random walk of pseudo_labels/random_walk.py, compared with the dense walk of IRN.

    python -m benchmarks.random_walk
    python -m benchmarks.random_walk --image_size 375 500 --num_classes 3

The dense walk is IRN's, in float32. Both run on the GPU if there is one; edges and maps are smooth noise. The dense
walk of the default size takes minutes on a CPU.
"""

import argparse
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.report import save_page
from metrics.tables import markdown_table
from pseudo_labels.affinities import affinities, view_path_pixel
from pseudo_labels.cams import normalise_cams
from pseudo_labels.random_walk import random_walk

BETA, DOUBLINGS, RADIUS = 10.0, 8, 5  # defaults of make_pseudo_labels.py and IRN
TINY_HW = (16, 16)  # size of the maps of the warm-up


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Time of the random walk, compared with a dense one.")
    parser.add_argument("--image_size", type=int, nargs=2, default=[375, 500], help="height and width in px")
    parser.add_argument("--num_classes", type=int, default=3, help="number of maps")
    args = parser.parse_args(argv)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    height, width = (-(-side // 4) for side in args.image_size)
    problem = draw_problem(args.num_classes, (height, width), device)
    dense_s, dense = run(dense_walk, *problem)
    ours_s, ours = run(random_walk, *problem)
    header = [f"{args.num_classes} maps of {height}×{width} px", "dense walk, s", "ours, s", "speed-up"]
    row = ["", f"{dense_s:.3f}", f"{ours_s:.3f}", f"{dense_s / ours_s:.1f} ×"]
    difference = f"Largest difference of the maps, which are in 0..1: {(dense - ours).abs().max():.1e}."
    save_page("random_walk", "random_walk", argv, [markdown_table(header, [row]), difference])


def run(walk: Callable[[Tensor, Tensor], Tensor], cams: Tensor, edge: Tensor) -> tuple[float, Tensor]:
    """Time of a walk in s, after a warm-up, and its maps."""
    walk(*draw_problem(1, TINY_HW, cams.device))
    started = time.perf_counter()
    walked = walk(cams, edge).cpu()  # waits for the device
    return time.perf_counter() - started, walked


def draw_problem(num_classes: int, size_hw: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor]:
    """Draw maps float32 [K, H, W] and edges float32 [H, W] in 0..1: smooth noise, edges mostly near 0."""
    generator = torch.Generator().manual_seed(0)
    cams, edge = (
        F.interpolate(torch.rand(shape, generator=generator), size_hw, mode="bilinear")[0]
        for shape in ((1, num_classes, 5, 6), (1, 1, 24, 32))
    )
    return cams.to(device), edge[0].pow(4).to(device)


def dense_walk(cams: Tensor, edge: Tensor) -> Tensor:
    """IRN's walk: cams [K, H, W], edge [H, W] → [K, H, W].

    The matrix of all pairs of pixels is raised to the power beta, normalised by columns, and squared 8 times.
    """
    pixels = torch.arange(edge.numel(), device=edge.device).view(edge.shape)
    matrix = torch.eye(edge.numel(), device=edge.device)  # [N, N]
    for offset, affinity in affinities(edge, RADIUS):
        first, second = (view_path_pixel(pixels, offset, pixel).flatten() for pixel in ((0, 0), offset))
        matrix[first, second] = matrix[second, first] = affinity.flatten()
    matrix.pow_(BETA)
    matrix.div_(matrix.sum(dim=0, keepdim=True))
    for _ in range(DOUBLINGS):
        matrix = matrix @ matrix
    return normalise_cams(((cams * (1 - edge)).flatten(1) @ matrix).view(cams.shape))


if __name__ == "__main__":
    main(sys.argv[1:])
