"""Networks for predictions: the same results, with fewer batch norms; where that cannot be, as they were."""

import copy

import pytest
import torch
from timm.layers import StdConv2d
from torch import nn

from models.cam_classifier import build_cam_classifier
from models.deeplabv3plus import build_deeplabv3plus
from models.saliency_net import build_saliency_net
from utils.inference_network import fold_batch_norms, for_inference, round_weights, tensors_in

SETTINGS = {"backbone_args": {}, "pixel_mean": None, "pixel_std": None, "classes": ["cat", "dog"]}
SETTINGS |= {"head_width": 16, "use_gn": False, "mode": "fix", "output_stride": 16}
SETTINGS |= {"image_size": 64, "decoder_width": 8}
SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}


def norms_in(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def trained(network: nn.Module) -> nn.Module:
    """With norms that have seen something."""
    torch.manual_seed(0)
    for norm in norms_in(network):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize(
    ("build", "backbone", "left"),
    [
        (build_cam_classifier, "mobilenetv2_035", 0),
        (build_deeplabv3plus, "mobilenetv2_035", 0),
        (build_deeplabv3plus, "resnest14", 0),  # grouped convolutions
        (
            build_saliency_net,
            "swin_tiny_patch4_window7_224",
            1,
        ),  # the edge head's norm of a sum; transposed convolutions
    ],
)
def test_predictions_stay(build, backbone, left):
    args = SWIN if "swin" in backbone else {}
    network = trained(build(SETTINGS | {"backbone": backbone, "backbone_args": args}))
    held, weights = len(norms_in(network)), {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        before = tensors_in(network(images))
        folded = for_inference(network, torch.device("cpu"))
        after = tensors_in(folded(images))
    assert len(norms_in(folded)) == left < held
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-3, atol=2e-5 * float(old.abs().max()))
    for name, value in network.state_dict().items():  # the network itself is left alone
        assert torch.equal(value, weights[name])


@pytest.mark.parametrize(
    ("build", "backbone"),
    [(build_deeplabv3plus, "resnest14"), (build_saliency_net, "swin_tiny_patch4_window7_224")],
)
def test_rounding_weights_once_changes_nothing(build, backbone):
    args = SWIN if "swin" in backbone else {}
    network = trained(build(SETTINGS | {"backbone": backbone, "backbone_args": args}))
    images, kept = torch.rand(2, 3, 64, 64), copy.deepcopy(network)
    rounded = round_weights(network, torch.bfloat16)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        before, after = (tensors_in(each(images)) for each in (network, rounded))
    assert all(torch.equal(new, old) for old, new in zip(before, after, strict=True))
    half = [module for module in rounded.modules() if getattr(module, "weight", None) is not None]
    assert {module.weight.dtype for module in half if isinstance(module, nn.Linear)} <= {torch.bfloat16}
    assert sum(module.weight.dtype == torch.bfloat16 for module in half) > 10
    for name, value in kept.state_dict().items():  # the network itself is left alone
        assert torch.equal(network.state_dict()[name], value)


class Shared(nn.Module):
    """One convolution whose result goes to two norms, or to a norm and past it."""

    def __init__(self, past: bool):
        super().__init__()
        self.conv, self.norm, self.past = nn.Conv2d(3, 4, kernel_size=3), nn.BatchNorm2d(4), past
        self.other = nn.Identity() if past else nn.BatchNorm2d(4)

    def forward(self, x):
        result = self.conv(x)  # [B, 4, H − 2, W − 2]
        return self.norm(result) + self.other(result)  # [B, 4, H − 2, W − 2]


@pytest.mark.parametrize(
    "network",
    [
        Shared(past=False),
        Shared(past=True),
        nn.Sequential(nn.Conv2d(3, 4, kernel_size=3), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(StdConv2d(3, 4, kernel_size=3), nn.BatchNorm2d(4)),  # weights that are standardised at each call
        nn.Sequential(nn.Conv2d(3, 4, kernel_size=3), nn.BatchNorm2d(4, track_running_stats=False)),
    ],
    ids=["two norms", "past the norm", "an activation between", "standardised weights", "no statistics"],
)
def test_what_cannot_be_folded_stays(network):
    network = trained(network) if all(norm.running_var is not None for norm in norms_in(network)) else network.eval()
    images = torch.rand(1, 3, 8, 8)
    folded = fold_batch_norms(network, side_px=8)
    assert len(norms_in(folded)) == len(norms_in(network))
    assert torch.equal(folded(images), network(images))


def test_norms_without_scale_and_convolutions_with_bias():
    network = nn.Sequential(nn.Conv2d(3, 4, kernel_size=3), nn.BatchNorm2d(4, affine=False), nn.ReLU())
    network[1].running_mean.normal_(generator=torch.Generator().manual_seed(0))
    network[1].running_var.fill_(3.0)
    folded = fold_batch_norms(network.eval(), side_px=8)
    assert isinstance(folded[1], nn.Identity)
    images = torch.rand(1, 3, 8, 8)
    torch.testing.assert_close(folded(images), network(images))
