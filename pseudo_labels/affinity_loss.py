"""The loss of the affinity network: pixels of one label are to be alike, pixels of two labels are not."""

import torch
import torch.nn.functional as F
from torch import Tensor

from formats.labels import IGNORE_LABEL
from pseudo_labels.pixel_paths import at_pairs, path_offsets, path_pixels

EPS = 1e-5
KIND_WEIGHTS = (0.25, 0.25, 0.5)  # both background, both of one class, different labels


def pair_losses(edge_logits: Tensor, labels: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """−log of the affinity of equal pixels and of 1 − the affinity of different ones, summed over the pairs of a batch.

    edge_logits [B, 1, h, w]; labels int [B, H, W], sampled at h × w by nearest neighbour, 255 takes part in no pair;
    pairs are nearer than `radius` px at h × w. Affinity is 1 − the largest edge value on the path.
    → sums [3] and numbers of pairs [3]: both background, both of one class, different labels.
    """
    edge = edge_logits[:, 0].float().sigmoid()  # [B, h, w]
    labels = F.interpolate(labels[:, None].float(), size=edge.shape[-2:], mode="nearest-exact")[:, 0]  # [B, h, w]
    sums, counts = edge.new_zeros(3), torch.zeros(3, dtype=torch.int64, device=edge.device)
    for offset in path_offsets(radius):
        path = torch.stack([at_pairs(edge, offset, pixel) for pixel in path_pixels(*offset)])
        affinity = 1 - path.max(dim=0).values  # unlike amax, keeps indices alone for the backward pass
        first, second = at_pairs(labels, offset, (0, 0)), at_pairs(labels, offset, offset)
        known = (first != IGNORE_LABEL) & (second != IGNORE_LABEL)
        same = known & (first == second)
        loss = -torch.log(torch.where(same, affinity, 1 - affinity) + EPS)
        kinds = torch.stack([same & (first == 0), same & (first > 0), known & ~same]).flatten(1)  # [3, pairs]
        sums = sums + (kinds * loss.flatten()).sum(dim=1)
        counts += kinds.sum(dim=1)
    return sums, counts


def affinity_loss(sums: Tensor, counts: Tensor) -> Tensor:
    """(bg⁺/2 + fg⁺/2 + neg)/2, each the mean over its pairs; a kind without pairs counts 0. `pair_losses` → scalar."""
    means = sums / counts.clamp(min=1)  # [3]
    return sum(weight * mean for weight, mean in zip(KIND_WEIGHTS, means))  # numbers: a tensor would have to be sent
