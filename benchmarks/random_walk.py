"""The random walk of pseudo_labels/random_walk.py beside plain ones: time, peak memory, and whether they agree.

    python -m benchmarks.random_walk
    python -m benchmarks.random_walk --image_size 375 500 --num_classes 3

The dense way is what IRN's code and its descendants do, held here in float32 as there: the matrix of all pairs of
pixels of a quarter of the image's size, its entries to the power beta, its columns normalised, the matrix squared 8
times, then applied to the maps. Two cheaper plain ways apply a matrix 256 times instead. Each way works in a process of
its own, on the GPU if there is one; edges and maps are smooth noise.
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
from pseudo_labels.pixel_paths import path_offsets
from torch import Tensor

from benchmarks.memory import peak_mb, reset_peak, resident_mb
from benchmarks.report import environment_line, save_page
from metrics.tables import markdown_table
from pseudo_labels.cams import normalise_cams
from pseudo_labels.random_walk import affinities, random_walk

BETA, DOUBLINGS, RADIUS = 10.0, 8, 5  # the defaults of make_pseudo_labels.py, and IRN's
TINY_HW = (16, 16)  # of a walk that does not count, which sets up PyTorch
SMALLEST_MB = 0.1  # less is what the process holds anyway


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Time and memory of the random walk beside a dense one.")
    parser.add_argument("--image_size", type=int, nargs=2, default=[375, 500], help="height and width, px")
    parser.add_argument("--num_classes", type=int, default=3, help="of the image")
    parser.add_argument("--repeat", type=int, default=5, help="walks of ours, the mean of which counts; others: one")
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
    """`measure` in a new process, so that memory is that of one way alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, name, num_classes, size_hw, repeat if name == "ours" else 1).result()


def measure(name: str, num_classes: int, size_hw: list[int], repeat: int) -> tuple[float, float, Tensor]:
    """Seconds of a walk, the memory it took at most in MB, and the maps float32 [K, H, W] after it."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    walk = WAYS[name]
    walk(*problem(num_classes, TINY_HW, device))
    cams, edge = problem(num_classes, size_hw, device)
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


def problem(num_classes: int, size_hw, device: torch.device) -> tuple[Tensor, Tensor]:
    """Maps float32 [K, H, W] and edges float32 [H, W], 0..1: smooth noise, the edges mostly near 0."""
    generator = torch.Generator().manual_seed(0)
    cams, edge = (
        F.interpolate(torch.rand(shape, generator=generator), tuple(size_hw), mode="bilinear")[0]
        for shape in ((1, num_classes, 5, 6), (1, 1, 24, 32))
    )
    return cams.to(device), edge[0].pow(4).to(device)


def dense_walk(cams: Tensor, edge: Tensor) -> Tensor:
    """IRN's: cams [K, H, W], edge [H, W] → [K, H, W]."""
    transitions = transition_matrix(edge)
    for _ in range(DOUBLINGS):
        transitions = transitions @ transitions
    return normalise_cams(((cams * (1 - edge)).flatten(1) @ transitions).view(cams.shape))


def dense_products(cams: Tensor, edge: Tensor) -> Tensor:
    """The same matrix, applied step by step instead of squared."""
    transitions = transition_matrix(edge)
    return step_by_step(cams, edge, lambda maps: maps @ transitions)


def sparse_products(cams: Tensor, edge: Tensor) -> Tensor:
    """The same, of a sparse matrix, which is built without the dense one."""
    pixels = torch.arange(edge.numel(), device=edge.device)
    rows, columns, values = zip((pixels, pixels, torch.ones_like(edge).flatten()), *pairs(edge))
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
    """The dense T, float32 [N, N]: the affinities of all pairs of pixels to the power beta, columns of sum 1. Made in
    place, which takes less memory than in IRN's code."""
    matrix = torch.eye(edge.numel(), device=edge.device)
    for rows, columns, values in pairs(edge):
        matrix[rows, columns] = values
    matrix.pow_(BETA)
    return matrix.div_(matrix.sum(dim=0, keepdim=True))


def pairs(edge: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Pixels, neighbours and affinities [M] of all pairs inside the image, in both orders."""
    height, width = edge.shape
    pixels, found = torch.arange(edge.numel(), device=edge.device).view(edge.shape), []
    for (dy, dx), affinity in zip(path_offsets(RADIUS), affinities(edge, RADIUS)):
        inside = (slice(0, height - dy), slice(max(0, -dx), width - max(0, dx)))
        first, values = pixels[inside].flatten(), affinity[inside].flatten()
        second = first + dy * width + dx
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
