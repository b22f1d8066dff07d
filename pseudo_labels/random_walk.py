"""Random walk that spreads class activation maps and stops at edges (IRN: Ahn et al., CVPR 2019).

The transition matrix T averages each pixel's neighbours, weighted by their affinities to the power beta.
"""

from math import comb

import numpy as np
import torch
from torch import Tensor

from pseudo_labels.affinities import affinities, view_path_pixel
from pseudo_labels.cams import image_to_tensor, normalise_cams
from utils.multi_scale import resize
from utils.precision import autocast, require_finite

TOLERANCE = 1e-8  # omitted share of the power series


@torch.inference_mode()
def expand_cams(
    network, image: np.ndarray, cams: np.ndarray, device: torch.device, beta: float, steps: int, radius: int, amp
) -> np.ndarray:
    """Expand the maps of an image by a random walk at a quarter of its size.

    network: `AffinityNet` in eval mode; image uint8 [H, W, 3]; cams float32 [K, H, W] in 0..1, K > 0; amp: see
    `half_type`. → float32 [K, H, W] in 0..1. Raises `InputError` for edges that are not finite.
    """
    pixels = network.backbone.normalise(image_to_tensor(image, device))
    with autocast(device, amp):
        straight, mirrored = require_finite(network(torch.cat([pixels, pixels.flip(3)])).float()).chunk(2)
    edge = (straight + mirrored.flip(3)).div(2).sigmoid()[0, 0]  # [H / 4, W / 4]
    maps = torch.from_numpy(cams).to(device)[None]  # [1, K, H, W]
    walked = random_walk(resize(maps, edge.shape)[0], edge, beta, steps, radius)
    return normalise_cams(resize(walked[None], maps.shape[-2:])[0]).cpu().numpy()


def random_walk(cams: Tensor, edge: Tensor, beta: float = 10.0, steps: int = 2**8, radius: int = 5) -> Tensor:
    """CAM · (1 − edge) after `steps` transitions, each map divided by its maximum.

    cams float [K, H, W] and edge float [H, W], both in 0..1 → float [K, H, W] in 0..1. Computed in float64: float32
    accumulates errors of 3e-4 over 256 steps.
    """
    edge = edge.double()
    degrees, links = symmetric_links(edge, beta, radius)
    # T = D^-½ S D^½ with S symmetric, hence T^n = D^-½ S^n D^½
    start = (cams * (1 - edge)).flatten(1) * degrees.sqrt()  # [K, N]
    maps = apply_power(start, degrees, links, steps) / degrees.sqrt()  # [K, N]
    maps = maps.clamp(min=0).view(cams.shape)  # the omitted terms may leave zeros slightly negative
    return normalise_cams(maps).to(cams.dtype)


def symmetric_links(edge: Tensor, beta: float, radius: int) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """The weights W = affinities^beta of all pairs (1 on the diagonal) as S = D^-½ W D^-½, D the column sums of W.

    edge [H, W] in 0..1 → D [N] with N = H·W, and one pair (s, weights) per offset: s is the offset in the flattened
    image, weights [N − s] holds S[i, i + s]. Pairs that would wrap around to another row have weight 0.
    """
    degrees, weights = edge.new_ones(edge.numel()), []
    for (dy, dx), affinity in affinities(edge, radius):
        if not affinity.numel():
            continue
        weight = torch.zeros_like(edge)
        view_path_pixel(weight, (dy, dx), (0, 0)).copy_(affinity**beta)
        shift, weight = dy * edge.shape[1] + dx, weight.flatten()
        degrees += weight
        degrees[shift:] += weight[:-shift]
        weights.append((shift, weight))
    root = degrees.rsqrt()
    return degrees, [(shift, weight[:-shift] * root[:-shift] * root[shift:]) for shift, weight in weights]


def apply_power(maps: Tensor, degrees: Tensor, links: list[tuple[int, Tensor]], steps: int) -> Tensor:
    """S^steps · maps [K, N] as a sum of Chebyshev polynomials of S: 90 products replace 256.

    The eigenvalues of S lie in −1..1, where the polynomials are at most 1 in magnitude.
    """
    first, *others = chebyshev_weights(steps)
    result = first * maps
    before, now = None, maps
    for weight in others:
        product = now / degrees  # S · now
        for shift, link in links:
            product[:, shift:].addcmul_(link, now[:, :-shift])
            product[:, :-shift].addcmul_(link, now[:, shift:])
        before, now = now, product if before is None else 2 * product - before
        result = result + weight * now
    return result


def chebyshev_weights(power: int) -> list[float]:
    """Weights of x^power = Σ_k weights[k] · T_k(x), without the last terms that sum to less than `TOLERANCE`.

    weights[k] is the probability that `power` random steps of ±1 end at k or −k, which vanishes far above √power.
    """
    weights = [0.0] * (power + 1)
    for k in range(power, -1, -2):
        weights[k] = (2 if k else 1) * comb(power, (power - k) // 2) / 2**power
    omitted = 0.0
    while omitted + weights[-1] < TOLERANCE:
        omitted += weights.pop()
    return weights
