"""Networks prepared for prediction: equal outputs with fewer batch norms, and unchanged where folding is wrong."""

import pytest
import torch
from timm.layers import StdConv2d
from torch import nn

from models.cam_classifier import build_cam_classifier
from models.deeplabv3plus import build_deeplabv3plus
from models.saliency_net import build_saliency_net
from utils.inference_network import find_tensors, fold_batch_norms, prepare_for_inference

SETTINGS = {"backbone_args": {}, "pixel_mean": None, "pixel_std": None, "classes": ["cat", "dog"]}
SETTINGS |= {"head_width": 16, "use_gn": False, "mode": "fix", "output_stride": 16}
SETTINGS |= {"image_size": 64, "decoder_width": 8}
SWIN = {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2), "window_size": 4}


def find_norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]


@torch.no_grad()
def randomise_norms(network: nn.Module) -> nn.Module:
    """Give norms other statistics, scales and shifts than the initial ones; eval mode."""
    torch.manual_seed(0)
    for norm in find_norms(network):
        norm.running_mean.normal_(0, 0.1)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.1)
    return network.eval()


@pytest.mark.parametrize(
    ("build", "backbone", "num_norms"),
    [
        (build_cam_classifier, "resnest14", 0),  # grouped convolutions
        (build_deeplabv3plus, "resnet18", 0),
        (build_deeplabv3plus, "mobilenetv2_035", 51),  # timm's norms with an activation are not folded
        (build_saliency_net, "swin_tiny_patch4_window7_224", 8),  # after transposed convolutions, and of a sum
    ],
)
def test_outputs_stay_equal(build, backbone, num_norms):
    args = SWIN if "swin" in backbone else {}
    network = randomise_norms(build(SETTINGS | {"backbone": backbone, "backbone_args": args}))
    before_norms = len(find_norms(network))
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    images = torch.rand(2, 3, 96, 64)
    with torch.inference_mode():
        before = find_tensors(network(images))
        prepared = prepare_for_inference(network, torch.device("cpu"))
        after = find_tensors(prepared(images))
    assert len(find_norms(prepared)) == num_norms < before_norms
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-3, atol=2e-5 * float(old.abs().max()))
    for name, value in network.state_dict().items():  # the network itself does not change
        assert torch.equal(value, weights[name])


class Shared(nn.Module):
    """A convolution used by a norm and without it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, kernel_size=3), nn.BatchNorm2d(4)

    def forward(self, x):
        result = self.conv(x)  # [B, 4, H − 2, W − 2]
        return self.norm(result) + result  # [B, 4, H − 2, W − 2]


class Reordered(nn.Module):
    """The norm is registered after the convolution, and applied before it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, kernel_size=3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.norm(x))  # [B, 3, H − 2, W − 2]


@pytest.mark.parametrize(
    "network",
    [
        Shared(),
        Reordered(),
        nn.Sequential(nn.Conv2d(3, 4, kernel_size=3), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(StdConv2d(3, 4, kernel_size=3), nn.BatchNorm2d(4)),
    ],
    ids=["shared convolution", "norm before", "activation between", "standardised weights"],
)
def test_other_norms_are_not_folded(network):
    network, images = randomise_norms(network), torch.rand(1, 3, 8, 8)
    folded = fold_batch_norms(network, side_px=8)
    assert len(find_norms(folded)) == len(find_norms(network))
    assert torch.equal(folded(images), network(images))
