"""Affinities of pixel pairs from an edge map, and the loss that trains it (IRN: Ahn et al., CVPR 2019).

The affinity of two pixels is 1 − the largest edge value on the straight path between them. An offset (dy, dx) in px
points downwards, or to the right in the same row, so that each pair of pixels occurs once.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from formats.labels import IGNORE_LABEL

EPS = 1e-5
KIND_WEIGHTS = (0.25, 0.25, 0.5)  # both background, both of one class, different labels


def path_offsets(radius: int) -> list[tuple[int, int]]:
    """Offsets (dy, dx) of all neighbours closer than `radius` px, one of each opposite pair."""
    half_plane = [(dy, dx) for dy in range(radius) for dx in range(1 - radius, radius) if (dy, dx) > (0, 0)]
    return [(dy, dx) for dy, dx in half_plane if dy**2 + dx**2 < radius**2]


def path_pixels(dy: int, dx: int) -> list[tuple[int, int]]:
    """Pixels (y, x) between (0, 0) and (dy, dx), inclusive, closer than 1 px to the line, as in IRN.

    A narrower path would slip through a diagonal row of edge pixels.
    """
    columns = range(min(0, dx), max(0, dx) + 1)
    return [(y, x) for y in range(dy + 1) for x in columns if (dy * x - dx * y) ** 2 < dy**2 + dx**2]


def view_path_pixel(image: Tensor, offset: tuple[int, int], pixel: tuple[int, int]) -> Tensor:
    """View of an image [..., H, W] shifted by `pixel`: the value at p + pixel for all pairs (p, p + offset) inside the
    image.

    → [..., H − dy, W − |dx|], in the order of p; empty if the offset does not fit. Pixel (0, 0) is p itself.
    """
    (dy, dx), (y, x) = offset, pixel
    height, width = max(0, image.shape[-2] - dy), max(0, image.shape[-1] - abs(dx))
    left = max(0, -dx) + x
    return image[..., y : y + height, left : left + width]


def affinities(edge: Tensor, radius: int) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """Yield each offset below `radius` px and the affinities of its pairs. edge: [..., H, W] in 0..1.

    → ((dy, dx), affinities [..., H − dy, W − |dx|] in 0..1), in the order of the first pixels.
    """
    for offset in path_offsets(radius):
        path = torch.stack([view_path_pixel(edge, offset, pixel) for pixel in path_pixels(*offset)])
        yield offset, 1 - path.max(dim=0).values  # max saves only indices for the backward pass, amax the values


def pair_losses(edge_logits: Tensor, labels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Sum −log(affinity) over pairs of equal labels and −log(1 − affinity) over pairs of different labels.

    edge_logits [B, 1, h, w]; labels int [B, H, W], resized to h × w by nearest neighbour, pixels of 255 are left out;
    pairs are closer than `radius` px at h × w.
    → sums [3] and numbers of pairs int64 [3]: both background, both of one class, different labels.
    """
    edge = edge_logits[:, 0].float().sigmoid()  # [B, h, w]
    labels = F.interpolate(labels[:, None].float(), size=edge.shape[-2:], mode="nearest-exact")[:, 0]  # [B, h, w]
    sums, counts = edge.new_zeros(3), torch.zeros(3, dtype=torch.int64, device=edge.device)
    for offset, affinity in affinities(edge, radius):
        first, second = view_path_pixel(labels, offset, (0, 0)), view_path_pixel(labels, offset, offset)
        known = (first != IGNORE_LABEL) & (second != IGNORE_LABEL)
        same = known & (first == second)
        loss = -torch.log(torch.where(same, affinity, 1 - affinity) + EPS)
        kinds = torch.stack([same & (first == 0), same & (first > 0), known & ~same]).flatten(1)  # [3, pairs]
        sums = sums + (kinds * loss.flatten()).sum(dim=1)
        counts += kinds.sum(dim=1)
    return sums, counts


def affinity_loss(sums: Tensor, counts: Tensor) -> Tensor:
    """(bg⁺/2 + fg⁺/2 + neg)/2, each the mean over its pairs, 0 without pairs. Results of `pair_losses` → scalar."""
    means = sums / counts.clamp(min=1)  # [3]
    return sum(weight * mean for weight, mean in zip(KIND_WEIGHTS, means))  # a weight tensor would be a device copy
