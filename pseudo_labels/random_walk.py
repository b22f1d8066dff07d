"""Expansion of class activation maps by a random walk that edges hold back (IRN: Ahn et al., CVPR 2019).

A step T takes every pixel to a weighted mean of the pixels around it; the weights are affinities to the power beta.
"""

from math import comb

import torch
from torch import Tensor

from pseudo_labels.cams import normalised_cams
from pseudo_labels.pixel_paths import at_pairs, path_offsets, path_pixels

TOLERANCE = 1e-8  # share of the power series that is left out


def affinities(edge: Tensor, radius: int) -> Tensor:
    """Affinity of each pixel and its neighbours: 1 − the largest edge value on the path between them.

    edge float [H, W] in 0..1 → [len(path_offsets(radius)), H, W] in 0..1; 0 where the neighbour is beyond the border.
    """
    offsets = path_offsets(radius)
    result = edge.new_zeros(len(offsets), *edge.shape)
    for affinity, offset in zip(result, offsets):
        path = torch.stack([at_pairs(edge, offset, pixel) for pixel in path_pixels(*offset)])
        at_pairs(affinity, offset, (0, 0)).copy_(1 - path.amax(dim=0))
    return result


def random_walk(cams: Tensor, edge: Tensor, beta: float = 10.0, steps: int = 2**8, radius: int = 5) -> Tensor:
    """CAM · (1 − edge) after `steps` steps of the walk, each map divided by its own maximum.

    cams float [K, H, W] and edge float [H, W], both in 0..1 → float [K, H, W] in 0..1. Before that division, a constant
    start stays constant. Computed in float64: in float32 rounding would add up to 3e-4 over 256 steps.
    """
    if cams.shape[1:] != edge.shape:
        raise ValueError(f"maps are {list(cams.shape)}, edges {list(edge.shape)}: they must be of one size")
    edge = edge.double()
    degrees, links = symmetric_links(affinities(edge, radius) ** beta, path_offsets(radius))
    # T = D^-½ S D^½ with S symmetric, hence T^n = D^-½ S^n D^½
    start = (cams * (1 - edge)).flatten(1) * degrees.sqrt()  # [K, N]
    maps = power_of_step(start, degrees, links, steps) / degrees.sqrt()  # [K, N]
    maps = maps.clamp(min=0).view(cams.shape)  # the part left out may have taken zeros below zero
    return normalised_cams(maps).to(cams.dtype)


def symmetric_links(weights: Tensor, offsets: list[tuple[int, int]]) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """The weights W of all pairs (1 of a pixel with itself) as S = D^-½ W D^-½, D being the sums of its columns.

    weights [num_offsets, H, W], 0 beyond the border → D [N], N = H·W, and for each offset (s, S of the pixels
    i and i + s [N − s]). Such a pair may lie in two rows that do not meet; its weight is 0.
    """
    height, width = weights.shape[1:]
    shifts = [
        (dy * width + dx, weight.flatten())
        for (dy, dx), weight in zip(offsets, weights)
        if dy < height and abs(dx) < width
    ]
    degrees = weights.new_ones(height * width)
    for shift, weight in shifts:
        degrees += weight
        degrees[shift:] += weight[:-shift]
    root = degrees.rsqrt()
    return degrees, [(shift, weight[:-shift] * root[:-shift] * root[shift:]) for shift, weight in shifts]


def symmetric_step(maps: Tensor, degrees: Tensor, links: list[tuple[int, Tensor]]) -> Tensor:
    """S · maps, for maps [K, N]; memory grows with N, not with its square."""
    result = maps / degrees
    for shift, weight in links:
        result[:, shift:].addcmul_(weight, maps[:, :-shift])
        result[:, :-shift].addcmul_(weight, maps[:, shift:])
    return result


def power_of_step(maps: Tensor, degrees: Tensor, links: list[tuple[int, Tensor]], steps: int) -> Tensor:
    """S^steps · maps as a sum of Chebyshev polynomials of S: 90 products give what 256 would.

    The eigenvalues of S lie in −1..1, where no polynomial exceeds 1.
    """
    first, *others = chebyshev_weights(steps)
    result = first * maps
    before, now = None, maps
    for weight in others:
        product = symmetric_step(now, degrees, links)
        before, now = now, product if before is None else 2 * product - before
        result = result + weight * now
    return result


def chebyshev_weights(power: int) -> list[float]:
    """x^power = Σ_k weights[k] · T_k(x), without the last terms, as far as they sum up to less than `TOLERANCE`.

    weights[k] is the chance that `power` random steps of ±1 end at k or −k: hardly ever far above √power.
    """
    weights = [0.0] * (power + 1)
    for k in range(power, -1, -2):
        weights[k] = (2 if k else 1) * comb(power, (power - k) // 2) / 2**power
    left_out = 0.0
    while left_out + weights[-1] < TOLERANCE:
        left_out += weights.pop()
    return weights
