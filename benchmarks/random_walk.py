"""The random walk of pseudo_labels/random_walk.py beside plain walks: time, peak memory, largest difference.

    python -m benchmarks.random_walk
    python -m benchmarks.random_walk --image_size 375 500 --num_classes 3

The dense walk is that of IRN, in float32: the matrix of all pairs of pixels at a quarter of the image size, its entries
to the power beta, its columns normalised, squared 8 times, then applied to the maps. Two cheaper walks apply a dense or
sparse matrix 256 times. Each walk runs in its own process, on the GPU if there is one; edges and maps are smooth noise.
"""

import argparse
import multiprocessing
import shlex
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.memory import peak_mb, reset_peak, resident_mb
from benchmarks.report import environment_line, save_page
from metrics.tables import markdown_table
from pseudo_labels.affinities import affinities, view_path_pixel
from pseudo_labels.cams import normalise_cams
from pseudo_labels.random_walk import random_walk

BETA, DOUBLINGS, RADIUS = 10.0, 8, 5  # defaults of make_pseudo_labels.py and IRN
TINY_HW = (16, 16)  # of a warm-up walk
SMALLEST_MB = 0.1  # resolution of the measurement


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Time and memory of the random walk beside a dense one.")
    parser.add_argument("--image_size", type=int, nargs=2, default=[375, 500], help="height and width in px")
    parser.add_argument("--num_classes", type=int, default=3, help="number of maps")
    parser.add_argument("--repeat", type=int, default=5, help="runs of our walk, of which the mean counts")
    args = parser.parse_args(argv)
    size_hw = [-(-side // 4) for side in args.image_size]
    found = {name: in_own_process(name, args.num_classes, size_hw, args.repeat) for name in WAYS}
    ours_s, ours_mb, ours = found["ours"]
    rows = []
    for name, (seconds, memory_mb, walked) in found.items():
        costs = [f"{seconds:.3f}", f"{seconds / ours_s:.1f} ×", f"{memory_mb:.1f}", f"{ours_mb / memory_mb:.3f}"]
        rows.append([name, *costs, f"{(walked - ours).abs().max():.1e}"])
    height, width = size_hw
    title = f"{args.num_classes} maps of {height}×{width} px, {height * width} pixels"
    header = [title, "s", "of ours", "peak memory, MB", "ours / this", "largest difference from ours"]
    command = f"python -m benchmarks.random_walk {shlex.join(argv)}".rstrip()
    save_page("random_walk", command, [markdown_table(header, rows), environment_line()])


def in_own_process(name: str, num_classes: int, size_hw: list[int], repeat: int) -> tuple[float, float, Tensor]:
    """`measure` in a new process, for the memory of one walk alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, name, num_classes, size_hw, repeat if name == "ours" else 1).result()


def measure(name: str, num_classes: int, size_hw: list[int], repeat: int) -> tuple[float, float, Tensor]:
    """Seconds and peak memory (MB) of a walk, and its maps float32 [K, H, W]."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    walk = WAYS[name]
    walk(*draw_problem(num_classes, TINY_HW, device))
    cams, edge = draw_problem(num_classes, size_hw, device)
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    else:
        reset_peak()
    before_mb = torch.cuda.memory_allocated() / 1e6 if on_gpu else resident_mb()
    started = time.perf_counter()
    for _ in range(repeat):
        walked = walk(cams, edge).cpu()  # waits for the device
    seconds = (time.perf_counter() - started) / repeat
    highest_mb = torch.cuda.max_memory_allocated() / 1e6 if on_gpu else peak_mb()
    return seconds, max(highest_mb - before_mb, SMALLEST_MB), walked


def draw_problem(num_classes: int, size_hw, device: torch.device) -> tuple[Tensor, Tensor]:
    """Maps float32 [K, H, W] and edges float32 [H, W] in 0..1: smooth noise, edges mostly near 0."""
    generator = torch.Generator().manual_seed(0)
    cams, edge = (
        F.interpolate(torch.rand(shape, generator=generator), tuple(size_hw), mode="bilinear")[0]
        for shape in ((1, num_classes, 5, 6), (1, 1, 24, 32))
    )
    return cams.to(device), edge[0].pow(4).to(device)


def dense_walk(cams: Tensor, edge: Tensor) -> Tensor:
    """IRN's walk: cams [K, H, W], edge [H, W] → [K, H, W]."""
    transitions = transition_matrix(edge)
    for _ in range(DOUBLINGS):
        transitions = transitions @ transitions
    return normalise_cams(((cams * (1 - edge)).flatten(1) @ transitions).view(cams.shape))


def dense_products(cams: Tensor, edge: Tensor) -> Tensor:
    """The dense matrix applied 256 times."""
    transitions = transition_matrix(edge)
    return step_by_step(cams, edge, lambda maps: maps @ transitions)


def sparse_products(cams: Tensor, edge: Tensor) -> Tensor:
    """A sparse matrix applied 256 times."""
    pixels = torch.arange(edge.numel(), device=edge.device)
    rows, columns, values = zip((pixels, pixels, torch.ones_like(edge).flatten()), *list_pairs(edge))
    weights = torch.cat(values) ** BETA
    sums = torch.zeros_like(edge).flatten().index_add_(0, torch.cat(rows), weights)
    indices = torch.stack([torch.cat(columns), torch.cat(rows)])  # transposed
    matrix = torch.sparse_coo_tensor(indices, weights / sums[indices[0]], check_invariants=False)
    transposed = matrix.to_sparse_csr()
    return step_by_step(cams, edge, lambda maps: (transposed @ maps.T).T)


def step_by_step(cams: Tensor, edge: Tensor, step: Callable[[Tensor], Tensor]) -> Tensor:
    maps = (cams * (1 - edge)).flatten(1)  # [K, N]
    for _ in range(2**DOUBLINGS):
        maps = step(maps)
    return normalise_cams(maps.reshape(cams.shape))


def transition_matrix(edge: Tensor) -> Tensor:
    """The dense matrix T, float32 [N, N], with columns of sum 1. Computed in place: less memory than IRN's code."""
    matrix = torch.eye(edge.numel(), device=edge.device)
    for rows, columns, values in list_pairs(edge):
        matrix[rows, columns] = values
    matrix.pow_(BETA)
    return matrix.div_(matrix.sum(dim=0, keepdim=True))


def list_pairs(edge: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Pixels, neighbours and affinities [M] of all pairs inside the image, in both orders."""
    pixels, found = torch.arange(edge.numel(), device=edge.device).view(edge.shape), []
    for offset, affinity in affinities(edge, RADIUS):
        first, second = (view_path_pixel(pixels, offset, pixel).flatten() for pixel in ((0, 0), offset))
        values = affinity.flatten()
        found += [(first, second, values), (second, first, values)]
    return found


WAYS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "ours": random_walk,
    "sparse matrix, 256 products": sparse_products,
    "dense matrix, 256 products": dense_products,
    "dense matrix, squared 8 times (IRN)": dense_walk,
}


if __name__ == "__main__":
    main(sys.argv[1:])
