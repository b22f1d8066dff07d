"""A network as it predicts fastest: channels-last, batch norms folded into the convolutions before them, on CPUs wide
convolutions by fewer products, in mixed precision weights that are rounded once."""

import copy
from collections import Counter, defaultdict

import torch
from torch import Tensor, nn

from utils.winograd import replace_wide_convolutions

LARGEST_CHANGE = 1e-3  # of what the network gives, relative to its largest value
SIDE_PX = 64
OF_PRODUCTS = (
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.Linear,
)  # not their subclasses, which may make their weights at each call


def for_inference(
    network: nn.Module, device: torch.device, half: torch.dtype | None = None, side_px: int = SIDE_PX
) -> nn.Module:
    """A network on the CPU → one on the device that predicts the same up to rounding (of wide convolutions 2e-5 of the
    largest value), and faster, on CPUs as well as on GPUs. `half`: the type of the autocast in which it will be called,
    if it will (see `half_type`); `side_px`: of images that it takes."""
    network = fold_batch_norms(network.eval(), side_px)
    if half:
        network = round_weights(network, half)
    elif device.type == "cpu":
        network = replace_wide_convolutions(network)
    return network.to(device, memory_format=torch.channels_last)


@torch.no_grad()
def fold_batch_norms(network: nn.Module, side_px: int) -> nn.Module:
    """A network in eval mode without those batch norms that a convolution can take over: w γ/σ and (b − μ) γ/σ + β.

    A norm is one of these where a pass over noise, float [1, 3, side_px, side_px], shows that it gets the results of
    one convolution and no other norm does. Both networks are compared on that noise; where they differ, as with weights
    that are standardised at each call, the network is given back as it is.
    """
    image = torch.randn(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
    expected, pairs = follow(network, image)
    if not pairs:
        return network
    folded = copy.deepcopy(network)
    for convolution, norm in pairs:
        scale_convolution(folded.get_submodule(convolution), folded.get_submodule(norm))
        parent, _, name = norm.rpartition(".")
        setattr(folded.get_submodule(parent), name, what_is_left(folded.get_submodule(norm)))
    given = tensors_in(folded(image))
    same = all((new - old).abs().max() <= LARGEST_CHANGE * old.abs().max() for new, old in zip(given, expected))
    return folded if same else network


def round_weights(network: nn.Module, half: torch.dtype) -> nn.Module:
    """A network with its weights of products in the type to which autocast would round them at each call."""
    rounded = copy.deepcopy(network)
    for module in rounded.modules():
        if type(module) in OF_PRODUCTS:
            module.to(half)
    return rounded


def follow(network: nn.Module, image: Tensor) -> tuple[list[Tensor], list[tuple[str, str]]]:
    """What the network gives for an image; the names of each convolution and the norm that can be folded into it."""
    results, makers, sources = [], {}, defaultdict(set)

    def note_result(convolution, _, result):
        results.append(result)  # held, so that no other tensor gets its id
        makers[id(result)] = convolution

    def note_source(norm, inputs):
        sources[norm].add(makers.get(id(inputs[0])))

    hooks = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.ConvTranspose2d) and module.groups == 1):
            hooks.append(module.register_forward_hook(note_result))
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            hooks.append(module.register_forward_pre_hook(note_source))
    expected = tensors_in(network(image))
    for hook in hooks:
        hook.remove()
    users = Counter(convolution for found in sources.values() for convolution in found)
    names = {module: name for name, module in network.named_modules()}
    pairs = [(*found, norm) for norm, found in sources.items() if len(found) == 1]
    return expected, [(names[conv], names[norm]) for conv, norm in pairs if conv is not None and users[conv] == 1]


def scale_convolution(convolution: nn.Module, norm: nn.BatchNorm2d) -> None:
    """Makes a convolution give what the norm makes of its result."""
    scale = torch.rsqrt(norm.running_var + norm.eps)  # [C]
    scale = scale if norm.weight is None else scale * norm.weight
    bias = -norm.running_mean if convolution.bias is None else convolution.bias - norm.running_mean
    bias = bias * scale + (0 if norm.bias is None else norm.bias)
    shape = (1, -1, 1, 1) if isinstance(convolution, nn.ConvTranspose2d) else (-1, 1, 1, 1)
    convolution.weight = nn.Parameter(convolution.weight * scale.view(shape), requires_grad=False)
    convolution.bias = nn.Parameter(bias, requires_grad=False)


def what_is_left(norm: nn.BatchNorm2d) -> nn.Module:
    """What a norm does besides: timm's apply an activation."""
    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()


def tensors_in(output) -> list[Tensor]:
    """The tensors of a network's output, be it one, or lists and dicts of them."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in (output.values() if isinstance(output, dict) else output) for tensor in tensors_in(part)]
