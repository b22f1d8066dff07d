"""3×3 convolutions by fewer products, for predictions on CPUs: F(4×4, 3×3) of Lavin and Gray (CVPR 2016).

Tiles of 6×6 entries become 36 sums of them, each of which one matrix multiplies, and sums of these are 4×4 entries of
the result: 36 products of channels instead of 144.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OF_TILE = (  # Bᵀ of the paper
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
OF_KERNEL = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # 24 G
OF_RESULT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))  # Aᵀ
TILES = 512  # that pass the steps together: fewer read all matrices too often, more do not stay in the cache
FEWEST_CHANNELS = 256  # below, the sums cost what they save
MOST_MATRICES_MB = 40  # of a convolution, which has 4 times its weights: 512 channels to 512
FEWEST_TILES = 12  # below, reading the matrices takes longer than the products


class WinogradConvolution(nn.Module):
    """What a convolution of 3×3, stride 1, padding 1 makes of float32 [B, C, H, W], up to 2e-5 of its largest value.

    It is the convolution itself for small maps, and under autocast: sums of products in 16 bits would lose most of
    their digits. It holds five times the memory of the convolution.
    """

    def __init__(self, convolution: nn.Conv2d):
        super().__init__()
        self.convolution = convolution
        kernels = convolution.weight.detach().double()  # [O, C, 3, 3]
        of_kernel = torch.tensor(OF_KERNEL, dtype=torch.float64) / 24  # [6, 3]
        matrices = torch.einsum("ai,bj,ocij->abco", of_kernel, of_kernel, kernels)  # [6, 6, C, O]
        self.register_buffer("matrices", matrices.flatten(0, 1).float())  # [36, C, O]
        self.register_buffer("of_tile", in_both_directions(OF_TILE))  # [36, 36]
        self.register_buffer("of_result", in_both_directions(OF_RESULT))  # [16, 36]

    def forward(self, x: Tensor) -> Tensor:
        (num, _, height, width), c_out = x.shape, self.convolution.out_channels
        down, across = -(-height // 4), -(-width // 4)  # D and A, the number of tiles
        if torch.is_autocast_enabled(x.device.type) or num * down * across < FEWEST_TILES:
            return self.convolution(x)  # [B, O, H, W]
        result = x.new_empty(num, height, width, c_out)
        at_once = max(1, TILES // (num * across))
        for first in range(0, down, at_once):
            last = min(first + at_once, down)
            rows = self.rows_of_tiles(x, first, last, across)  # [B, 4 R, 4 A, O]
            result[:, 4 * first : 4 * last] = rows[:, : height - 4 * first, :width]
        return result.permute(0, 3, 1, 2)  # [B, O, H, W]

    def rows_of_tiles(self, x: Tensor, first: int, last: int, across: int) -> Tensor:
        (num, c_in, height, width), c_out = x.shape, self.convolution.out_channels
        top, bottom = 4 * first - 1, 4 * last + 1
        border = (1, 4 * across + 1 - width, max(0, -top), max(0, bottom - height))
        rows = F.pad(x[:, :, max(0, top) : bottom], border)  # [B, C, 4 R + 2, 4 A + 2]
        tiles = rows.unfold(2, 6, 4).unfold(3, 6, 4).permute(4, 5, 0, 2, 3, 1)  # [6, 6, B, R, A, C]
        sums = self.of_tile @ tiles.reshape(36, -1)  # [36, B R A C]
        products = sums.view(36, -1, c_in) @ self.matrices  # [36, B R A, O]
        tiles = self.of_result @ products.view(36, -1)  # [16, B R A O]
        if self.convolution.bias is not None:
            tiles.view(-1, c_out).add_(self.convolution.bias)
        tiles = tiles.view(4, 4, num, -1, across, c_out).permute(2, 3, 0, 4, 1, 5)  # [B, R, 4, A, 4, O]
        return tiles.reshape(num, -1, 4 * across, c_out)  # [B, 4 R, 4 A, O]


def in_both_directions(matrix: tuple) -> Tensor:
    """Sums along a line, [a, b], as sums over a square, float32 [a a, b b]."""
    matrix = torch.tensor(matrix, dtype=torch.float32)
    return torch.kron(matrix, matrix)


def replace_wide_convolutions(network: nn.Module) -> nn.Module:
    """A network with `WinogradConvolution`s for wide convolutions within it; a copy, where it has any."""
    wide = [name for name, module in network.named_modules() if name and is_wide(module)]
    network = copy.deepcopy(network) if wide else network
    for name in wide:
        parent, _, own_name = name.rpartition(".")
        setattr(network.get_submodule(parent), own_name, WinogradConvolution(network.get_submodule(name)))
    return network


def is_wide(module: nn.Module) -> bool:
    """Whether a `WinogradConvolution` can replace this module, and is faster for all but small maps."""
    if type(module) is not nn.Conv2d or module.kernel_size != (3, 3) or module.padding_mode != "zeros":
        return False
    is_plain = module.stride == module.dilation == module.padding == (1, 1) and module.groups == 1
    channels = module.in_channels, module.out_channels
    matrices_mb = 36 * 4 * channels[0] * channels[1] / 1e6
    return is_plain and min(channels) >= FEWEST_CHANNELS and matrices_mb <= MOST_MATRICES_MB
