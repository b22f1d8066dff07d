"""Trained networks prepared for prediction."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3  # relative to the largest value of an output
SIDE_PX = 64


def prepare_for_inference(network: nn.Module, device: torch.device, side_px: int = SIDE_PX) -> nn.Module:
    """Copy of a network on the device, in eval mode, with batch norms folded; its outputs are equal up to rounding.

    side_px: height and width of the test image in `fold_batch_norms`; the network must accept it.
    """
    network = fold_batch_norms(network.eval(), side_px).to(device, memory_format=torch.channels_last)
    if device.type == "cpu":  # the sums of timm's split attention are slow in channels-last memory
        network.backbone.to(memory_format=torch.contiguous_format)
    return network


@torch.no_grad()
def fold_batch_norms(network: nn.Module, side_px: int) -> nn.Module:
    """Copy of a network in eval mode whose batch norms are folded into the convolutions registered before them.

    Returns an unfolded copy if the outputs differ by more than `TOLERANCE` for a random image [1, 3, side_px, side_px],
    as they do if a network applies its modules in another order.
    """
    folded, (conv_name, conv) = copy.deepcopy(network), ("", None)
    for name, module in list(folded.named_modules()):
        if type(module) is nn.BatchNorm2d and type(conv) is nn.Conv2d and conv.out_channels == module.num_features:
            folded.set_submodule(conv_name, fuse_conv_bn_eval(conv, module))
            folded.set_submodule(name, nn.Identity())
        conv_name, conv = name, module
    image = torch.randn(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
    pairs = zip(find_tensors(network(image)), find_tensors(folded(image)))
    same = all((new - old).abs().max() <= TOLERANCE * old.abs().max() for old, new in pairs)
    return folded if same else copy.deepcopy(network)


def find_tensors(output) -> list[Tensor]:
    """All tensors in a tensor or in nested lists and dicts of tensors."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in find_tensors(part)]
