"""Schedules and optimizers, sizes of batches, precision: against values computed by hand."""

import pytest
import torch
from torch import nn

from utils.memory import batch_by_size
from utils.precision import compute_deterministically, fastest_convolutions
from utils.schedules import build_optimizer, parameter_groups, polynomial_decay, set_lr, step_decay

CPU = torch.device("cpu")


def test_schedules():
    assert [step_decay(epoch, [15], 0.5) for epoch in (0, 14, 15, 29, 30)] == [1, 1, 0.5, 0.5, 0.25]
    assert [step_decay(epoch, [3, 5], 0.1) for epoch in (0, 2, 3, 4, 5, 9)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert polynomial_decay(0, 10, 0.9) == 1
    assert polynomial_decay(5, 10, 0.9) == pytest.approx(0.5**0.9)
    assert polynomial_decay(9, 10, 1.0) == pytest.approx(0.1)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.head = nn.Linear(2, 2)


def test_parameter_groups_of_the_segmentation_recipe():
    """lr 0.007, head ×10, biases ×2 and without weight decay."""
    network = Network()
    groups = parameter_groups(network, head_factor=10, bias_factor=2)
    optimizer = build_optimizer(groups, "sgd", lr=0.007, momentum=0.9, weight_decay=4e-5)
    found = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    expected = {
        network.backbone.weight: (0.007, 4e-5),
        network.backbone.bias: (0.014, 0),
        network.head.weight: (0.07, 4e-5),
        network.head.bias: (0.14, 0),
    }
    for parameter, (lr, decay) in expected.items():
        assert found[id(parameter)] == pytest.approx((lr, decay))
    assert all(group["momentum"] == 0.9 and group["nesterov"] for group in optimizer.param_groups)
    set_lr(optimizer, 0.5)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0035)


def test_no_nesterov_without_momentum():
    optimizer = build_optimizer([{"params": [nn.Parameter(torch.zeros(1))]}], "sgd", 0.1, 0.0, 1e-4)
    assert optimizer.param_groups[0]["momentum"] == 0
    assert not optimizer.param_groups[0]["nesterov"]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_fused_steps_are_those_of_the_plain_loop(name, device):
    torch.manual_seed(0)
    plain, fused = Network().to(device), Network().to(device)
    fused.load_state_dict(plain.state_dict())
    optimizers = []
    for network in (plain, fused):
        groups = parameter_groups(network, head_factor=10, bias_factor=2)
        optimizers.append(build_optimizer(groups, name, lr=0.01, momentum=0.9, weight_decay=1e-2))
    for group in optimizers[0].param_groups:
        group |= {"fused": False, "foreach": False}
    for _ in range(20):
        gradients = [torch.randn_like(weight) for weight in plain.parameters()]
        for network, optimizer in zip((plain, fused), optimizers):
            for weight, gradient in zip(network.parameters(), gradients):
                weight.grad = gradient.clone()
            optimizer.step()
    for one, other in zip(plain.parameters(), fused.parameters()):
        assert torch.allclose(one, other, rtol=0, atol=1e-5)  # of weights up to 9; without decay they are 0.015 off


def test_first_gradients_that_overflow_leave_no_momentum():
    weight = nn.Parameter(torch.zeros(1000))
    optimizer = build_optimizer([{"params": [weight]}], "sgd", lr=0.1, momentum=0.9)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale((weight * torch.inf).sum()).backward()
    scaler.step(optimizer)
    assert not weight.any()
    assert not optimizer.state[weight]["momentum_buffer"].any()


def test_large_images_make_small_batches():
    assert batch_by_size([(375, 500)] * 9, 8, largest_scale=2) == [[*range(8)], [8]]
    assert batch_by_size([(1000, 2000)] * 9, 8) == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]
    assert batch_by_size([(1000, 2000), (9, 9), (1000, 2000), (9, 9)], 8, largest_scale=2) == [[0], [1, 3], [2]]


def test_deterministic_algorithms_use_neither_tf32_nor_trials():
    try:
        for wanted in (True, False):
            compute_deterministically(wanted)
            assert torch.are_deterministic_algorithms_enabled() is wanted
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is (not wanted)
            with fastest_convolutions():
                assert torch.backends.cudnn.benchmark is (not wanted)
            assert not torch.backends.cudnn.benchmark
    finally:
        compute_deterministically(False)
