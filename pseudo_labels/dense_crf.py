"""Fully connected CRF (Krähenbühl & Koltun, NIPS 2011), which aligns labels and probabilities with image edges.

Mean field with a Gaussian and a bilateral kernel, Potts compatibility and symmetric normalisation, as in pydensecrf.
The kernels are applied on permutohedral lattices (Adams et al. 2010), which depend only on the image: build one
`DenseCrf` per image and use it for any number of unaries.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from formats.labels import IGNORE_LABEL
from pseudo_labels.permutohedral_lattice import PermutohedralLattice


@dataclass(frozen=True)
class CrfSettings:
    """Standard deviations in px (sxy) and 8-bit colour values (srgb), and weights of the two kernels."""

    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float


LABELS = CrfSettings(3, 3, 50, 5, 10)  # hard labels from CAMs
PROBABILITIES = CrfSettings(3, 3, 80, 13, 10)  # class probabilities
DEEPLAB = CrfSettings(1, 3, 67, 3, 4)  # probabilities of a segmentation network
GT_PROB = 0.7  # of the labels before refinement, as in IRN
MIN_PROB = 1e-5  # as in pydensecrf; keeps the energies finite


class DenseCrf:
    """The kernels of one image: raw RGB uint8 [H, W, 3], no mean subtracted."""

    def __init__(self, image: np.ndarray, settings: CrfSettings):
        assert image.dtype == np.uint8, f"{image.dtype}: the CRF takes the raw image, no mean subtracted"
        self.settings = settings
        self.hw = image.shape[:2]
        colour = torch.tensor(np.ascontiguousarray(image)).flatten(0, 1).T.float()  # [3, N]
        rows, columns = (torch.arange(length).float() for length in self.hw)
        place = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).flatten(1)  # [2, N]
        scaled = torch.cat([place / settings.bilateral_sxy, colour / settings.bilateral_srgb])
        self.gaussian = PermutohedralLattice(place / settings.gaussian_sxy)
        self.bilateral = PermutohedralLattice(scaled)

    @torch.no_grad()
    def mean_field(self, unary: Tensor, iterations: int = 10) -> Tensor:
        """Energies (−log probabilities) [L, H, W] → posteriors float32 [L, H, W] on the CPU."""
        unary = unary.to(self.gaussian.splat_weights).flatten(1).T.contiguous()  # [N, L]
        probs = F.softmax(-unary, dim=1)
        for _ in range(iterations):
            support = self.settings.gaussian_weight * self.gaussian.filter(probs)
            support += self.settings.bilateral_weight * self.bilateral.filter(probs)
            probs = F.softmax(support - unary, dim=1)
        return probs.T.reshape(-1, *self.hw)


def refine_label(crf: DenseCrf, label: np.ndarray, iterations: int = 10) -> np.ndarray:
    """Refine a label map, uint8 [H, W], whose labels are right with probability `GT_PROB` → uint8 [H, W].

    Pixels of 255 have uniform probabilities and get one of the labels. If there is only one label, all pixels get it;
    if there is none, all stay 255.
    """
    present = np.setdiff1d(label, [IGNORE_LABEL]).astype(np.uint8)
    if len(present) < 2:
        return np.full_like(label, present[0] if len(present) else IGNORE_LABEL)
    right = torch.from_numpy(label == present[:, None, None])  # [L, H, W]
    probs = torch.where(right, GT_PROB, (1 - GT_PROB) / (len(present) - 1))
    probs[:, torch.from_numpy(label == IGNORE_LABEL)] = 1 / len(present)
    return present[crf.mean_field(-probs.log(), iterations).argmax(dim=0).numpy()]


def refine_probs(crf: DenseCrf, probs: Tensor, iterations: int = 10) -> Tensor:
    """Refine probabilities [L, H, W] → posteriors float32 [L, H, W]."""
    return crf.mean_field(-probs.clamp(MIN_PROB, 1).log(), iterations)


def refine_to_label(crf: DenseCrf, probs: Tensor, labels: np.ndarray, iterations: int = 10) -> np.ndarray:
    """Refine probabilities [K, H, W] of `labels`, uint8 [K], and take the most probable: → uint8 [H, W].

    Pass only labels that are most probable at some pixel: the time grows with the number of labels, and others almost
    never win.
    """
    if len(labels) == 1:
        return np.full(crf.hw, labels[0], np.uint8)
    return labels[refine_probs(crf, probs, iterations).argmax(dim=0).numpy()]
