"""Gaussian filtering of scattered points on the permutohedral lattice (Adams et al., Eurographics 2010)."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class PermutohedralLattice:
    """Gaussian filter over N points in D dimensions, in time linear in N: splat to lattice vertices, blur, slice.

    features float32 [D, N], in standard deviations. Symmetric normalisation: the kernel K becomes K / √(K1 · (K1)ᵀ).
    """

    def __init__(self, features: Tensor):
        # pydensecrf pads the points with zeros to a multiple of four, which creates the vertices of the zeros.
        filled = F.pad(features, (0, -features.shape[1] % 4))  # [D, N'], N' ≤ N + 3
        corners, weights, steps = find_simplices(filled)  # [N', D + 1], [N', D + 1], [D + 1]
        num_points, size = features.shape[1], corners.shape[1]
        weights[num_points:] = 0
        # The stable sort keeps the order of the points of a vertex, so that sums in `filter` are reproducible.
        corners, order = corners.flatten().sort(stable=True)
        keys, vertex, counts = torch.unique_consecutive(corners, return_inverse=True, return_counts=True)
        self.vertices = torch.empty_like(order).scatter_(0, order, vertex).view(-1, size)[:num_points].int()
        self.points = (order // size).clamp(max=num_points - 1).int()
        self.starts = (counts.cumsum(0) - counts).int()  # first point of each vertex
        self.neighbours = [
            torch.stack([find_places(keys, keys + s), find_places(keys, keys - s)], dim=1).int() for s in steps
        ]
        self.splat_weights = weights.flatten()[order]
        self.slice_weights = weights[:num_points] / (1 + 2.0 ** (1 - size))  # gain of the blur
        norm = (self.filter(weights.new_ones(num_points, 1)) + 1e-20).rsqrt()  # [N, 1]
        self.splat_weights *= norm[self.points, 0]
        self.slice_weights *= norm

    def filter(self, values: Tensor) -> Tensor:
        """Filter L values per point, float32 [N, L] → [N, L]. `F.embedding_bag` multiplies by a sparse matrix."""
        lattice = F.embedding_bag(self.points, values, self.starts, mode="sum", per_sample_weights=self.splat_weights)
        lattice = F.pad(lattice, (0, 0, 0, 1))  # [V + 1, L], the last row stands for absent vertices
        for pairs in self.neighbours:
            lattice[:-1] += 0.5 * F.embedding_bag(pairs, lattice, mode="sum")
        return F.embedding_bag(self.vertices, lattice, mode="sum", per_sample_weights=self.slice_weights)


def find_simplices(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The D + 1 lattice vertices around each point of [D, N], and the barycentric weights of the point.

    → keys int64 [N, D + 1]: coordinates encoded as one number in mixed radix; weights float32 [N, D + 1]; steps int64
    [D + 1]: the difference of neighbouring keys along each axis of the blur.
    """
    dims, size = len(features), len(features) + 1
    elevated = elevate(features)
    # The nearest remainder-zero vertex: round, then move the extreme coordinates until the sum is zero.
    nearest = (elevated * (1 / size)).round()
    rank = descending_rank(elevated - nearest * size) + nearest.sum(dim=0)
    wrap = (rank < 0).float() - (rank >= size).float()
    corner = (nearest + wrap) * size
    turn = (dims - rank - wrap * size).long()  # step of the walk through the simplex at which each coordinate decreases
    rest = (elevated - corner) * (1 / size)
    rest = torch.empty_like(rest).scatter_(0, turn, rest)
    weights = torch.cat([rest[:1] + (1 - rest[-1:]), rest[1:] - rest[:-1]])

    corner = (corner - corner.amin(dim=1, keepdim=True))[:-1].long()  # the last coordinate follows from the others
    spans = [top + 1 + 4 * dims for top in corner.amax(dim=1).tolist()]  # vertices and their neighbours
    assert math.prod(spans) < 2**62, "the keys overflow: use a larger sxy or srgb"
    radix = corner.new_tensor([math.prod(spans[:d]) for d in range(dims)] + [0])  # [D + 1]
    # Vertex k of the walk: all coordinates + k, and − (D + 1) for those whose turn has passed.
    down = torch.empty_like(turn).scatter_(0, turn, radix[:, None].expand_as(turn))
    keys = (corner * radix[:-1, None]).sum(dim=0) + radix.sum() * torch.arange(size, device=turn.device)[:, None]
    keys[1:] -= size * down[:-1].cumsum(dim=0)
    return keys.T, weights.T.contiguous(), size * radix - radix.sum()


def elevate(features: Tensor) -> Tensor:
    """Map points [D, N] to [D + 1, N] in the plane of coordinate sum zero, scaled to the width of the blur."""
    # One factor is rounded to float32 as in pydensecrf: pixels of a regular grid lie on faces of the lattice, where the
    # last bit decides which vertices exist.
    spread = float(np.float32(math.sqrt(2 / 3) * (len(features) + 1)))
    elevated, total = [], torch.zeros_like(features[0])
    for d in range(len(features), 0, -1):
        scaled = features[d - 1] * (spread / math.sqrt(d * (d + 1)))
        elevated.append(total - d * scaled)
        total = total + scaled
    return torch.stack([total, *reversed(elevated)])


def descending_rank(values: Tensor) -> Tensor:
    """Rank of each value within its column of [R, N]: 0 for the largest; equal values in order of their rows."""
    rank = torch.zeros_like(values)
    for i in range(len(values)):
        for j in range(i + 1, len(values)):
            lower = values[i] < values[j]
            rank[i] += lower
            rank[j] += ~lower
    return rank


def find_places(keys: Tensor, wanted: Tensor) -> Tensor:
    """Indices of `wanted` in the sorted `keys`; len(keys) for absent keys."""
    places = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    return torch.where(keys[places] == wanted, places, len(keys))
