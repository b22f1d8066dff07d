"""Networks as published code has them, for the other side of a benchmark."""

from timm.layers import SplitAttn
from torch import nn

from models.joined_convolution import JoinedConvolution
from models.split_attention import SplitAttention


def as_published(network: nn.Module) -> nn.Module:
    """The network with timm's split attention, and features enlarged before a convolution joins them."""
    for module in network.modules():
        if isinstance(module, SplitAttention):
            module.__class__ = SplitAttn
        if isinstance(module, JoinedConvolution):
            module.forward = module.enlarge_first
    return network
