"""Saliency losses against hand-computed cases; the weights of the structure loss affect the gradient."""

import pytest
import torch
import torch.nn.functional as F

from models.edge_head import edge_target
from models.saliency_and_edge_losses import boundary_weight, edge_loss, saliency_objective, structure_loss


def half_mask(size: int = 64) -> torch.Tensor:
    mask = torch.zeros(1, 1, size, size)
    mask[..., size // 2 :] = 1
    return mask


def test_weight_is_the_plain_31x31_mean():
    mask = (torch.rand(2, 1, 40, 50, generator=torch.Generator().manual_seed(0)) > 0.7).float()
    plain = 1 + 5 * (F.avg_pool2d(mask, kernel_size=31, stride=1, padding=15) - mask).abs()
    assert torch.allclose(boundary_weight(mask), plain, atol=1e-6)
    weight = boundary_weight(half_mask())
    assert weight[0, 0, 32, 0] == 1  # far from the boundary
    assert weight[0, 0, 32, 32] == pytest.approx(1 + 5 * 15 / 31)


def test_structure_loss_by_hand():
    """One row of two pixels: BCE and IoU written out."""
    logits, mask = torch.tensor([[[[0.0, 2.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
    weight = torch.tensor([[[[3.0, 1.0]]]])
    p = torch.tensor([0.5, 1 / (1 + torch.e**-2)])
    bce = (3 * -torch.log(1 - p[0]) + 1 * -torch.log(p[1])) / 4
    intersection, total = p[1], 3 * p[0] + (p[1] + 1)
    iou = 1 - (intersection + 1) / (total - intersection + 1)
    assert structure_loss(logits, mask, weight) == pytest.approx((bce + iou).item(), abs=1e-6)


def test_the_weight_of_the_bce_reaches_the_gradient():
    """Equal errors have larger gradients at the boundary; weights on the mean BCE would cancel."""
    mask = half_mask()
    logits = torch.zeros_like(mask, requires_grad=True)
    weight = boundary_weight(mask)
    bce_only = structure_loss(logits, mask, weight) - structure_loss(logits, mask, weight).detach()
    bce_only.backward()
    at_boundary, far = logits.grad[0, 0, 32, 31].abs(), logits.grad[0, 0, 32, 0].abs()
    assert at_boundary > 2 * far


def test_perfect_maps_cost_nothing():
    mask = half_mask()
    logits = (mask * 2 - 1) * 50
    assert structure_loss(logits, mask, boundary_weight(mask)) < 1e-4
    edge = (edge_target(mask) > 0.5).float()
    assert edge_loss((edge * 2 - 1) * 50, edge) < 1e-4


def test_edge_target_is_a_band_of_five_pixels():
    edge = edge_target(half_mask())[0, 0, 32]
    assert (edge > 0).sum() == 6
    assert edge.max() == 1
    assert torch.equal(edge[29:35] > 0, torch.ones(6, dtype=torch.bool))
    assert edge_target(torch.zeros(1, 1, 20, 20)).sum() == 0
    assert edge_target(torch.ones(1, 1, 20, 20)).sum() == 0


def test_objective_weighs_its_parts():
    mask = half_mask()
    logits = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    one = structure_loss(logits, mask, boundary_weight(mask))
    outputs = {"saliency": [logits] * 4, "edge": logits}
    losses = saliency_objective(outputs, mask, edge_weight=0.5)
    assert losses["saliency_loss"] == pytest.approx(4 * one.item(), rel=1e-5)
    assert losses["loss"] == pytest.approx((4 * one + 0.5 * losses["edge_loss"]).item(), rel=1e-5)


@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_empty_and_full_masks_are_finite(fill):
    mask = torch.full((2, 1, 32, 32), fill)
    logits = torch.randn(2, 1, 32, 32, requires_grad=True)
    saliency_objective({"saliency": [logits] * 4, "edge": logits}, mask, 1.0)["loss"].backward()
    assert logits.grad.isfinite().all()
