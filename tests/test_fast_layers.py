"""Layers that reach the result of a plain one by another way: the same numbers, gradients and weights."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.layers import SplitAttn
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models.joined_convolution import BLOCK_PX, JoinedConvolution
from models.split_attention import SplitAttention, replace_split_attention
from utils.inference_network import for_inference
from utils.winograd import FEWEST_CHANNELS, FEWEST_TILES, TILES, WinogradConvolution


def gradients(result, *of):
    """By a fixed weighing of the result's entries."""
    weights = torch.randn(result.shape, generator=torch.Generator().manual_seed(1), dtype=result.dtype)
    return torch.autograd.grad((result * weights).sum(), of)


# --- a convolution over features of two sizes ---


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    ("coarse_hw", "fine_hw"),
    [
        ((5, 7), (17, 25)),
        ((3, 4), (12, 16)),
        ((1, 1), (4, 3)),
        ((1, 5), (1, 17)),  # align_corners has a case of its own for sides of 1
        ((4, 3), (4, 3)),
        ((6, 9), (3, 4)),  # made smaller
        ((18, 5), (BLOCK_PX + 1, 17)),
        ((5, 33), (17, 2 * BLOCK_PX)),
    ],
)
def test_features_can_be_enlarged_after_they_are_joined(coarse_hw, fine_hw, layout):
    torch.manual_seed(0)
    join = JoinedConvolution(c_coarse=6, c_fine=3, c_out=4).double()
    coarse, fine = (torch.randn(2, c, *hw).double() for c, hw in ((6, coarse_hw), (3, fine_hw)))
    coarse, fine = (maps.to(memory_format=layout).requires_grad_() for maps in (coarse, fine))
    enlarged = F.interpolate(coarse, fine_hw, mode="bilinear", align_corners=True)
    expected = F.conv2d(torch.cat([enlarged, fine], dim=1), join.weight, padding=1)
    theirs = gradients(expected, coarse, fine, join.weight)
    for way in (join, join.enlarge_first, join.enlarge_last):
        result = way(coarse, fine)
        torch.testing.assert_close(result, expected)
        torch.testing.assert_close(gradients(result, coarse, fine, join.weight), theirs)


def test_features_are_joined_in_16_bits_too():
    torch.manual_seed(0)
    join = JoinedConvolution(c_coarse=6, c_fine=3, c_out=4)
    coarse, fine = torch.randn(2, 6, 5, 7), torch.randn(2, 3, 17, 25)
    expected = join.enlarge_first(coarse, fine)
    for way in (join.enlarge_first, join.enlarge_last):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = way(coarse, fine)
        assert result.dtype == torch.bfloat16
        assert (result - expected).abs().max() <= 0.01 * expected.abs().max()


def test_joined_features_have_few_products():
    """On CPUs; as many as a plain convolution would have, on other devices."""
    join = JoinedConvolution(256, 48, 256)
    coarse, fine = torch.randn(1, 256, 16, 16), torch.randn(1, 48, 64, 64)
    flops = {}
    for way in (join, join.enlarge_first):
        with FlopCounterMode(display=False) as counter:
            way(coarse, fine)
        flops[way] = counter.get_total_flops()
    assert flops[join] < 0.3 * flops[join.enlarge_first]
    meta = JoinedConvolution(256, 48, 256).to("meta")
    with FlopCounterMode(display=False) as counter:
        meta(coarse.to("meta"), fine.to("meta"))
    assert counter.get_total_flops() == flops[join.enlarge_first]


# --- split attention ---


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("radix", "groups"), [(1, 1), (2, 1), (4, 2)])
def test_split_attention_is_that_of_timm(radix, groups, layout):
    torch.manual_seed(0)
    theirs = SplitAttn(8, 16, radix=radix, groups=groups, norm_layer=nn.BatchNorm2d).double()
    ours = copy.deepcopy(theirs)
    replace_split_attention(ours)
    assert type(ours) is SplitAttention
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(2, 8, 9, 7).double().to(memory_format=layout).requires_grad_()
    expected, result = theirs(x), ours(x)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(
        gradients(result, x, *ours.parameters()), gradients(expected, x, *theirs.parameters()), atol=1e-9, rtol=1e-6
    )
    assert result.is_contiguous(memory_format=layout)


def test_split_attention_stays_in_16_bits():
    layer = SplitAttn(8)
    replace_split_attention(layer)
    x = torch.randn(2, 8, 9, 7)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = layer(x)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.float(), layer(x), atol=0.02, rtol=0.02)


# --- convolutions by fewer products ---


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "shape",
    [(3, 16, 1), (12, 4, 4), (2, 5, 23), (1, 8, 27), (3, 13, 4), (1, 1, 50), (1, 40, 64), (1, 9, 4 * TILES + 1)],
)
def test_few_products_have_the_result_of_all(shape, bias):
    torch.manual_seed(0)
    num, *hw = shape
    plain = nn.Conv2d(16, 24, kernel_size=3, padding=1, bias=bias)
    images = torch.randn(num, 16, *hw)
    expected = plain.double()(images.double())
    fast = WinogradConvolution(plain.float())
    for layout in (torch.contiguous_format, torch.channels_last):
        with torch.inference_mode():
            given = fast(images.to(memory_format=layout))
        assert given.shape == expected.shape
        assert given.is_contiguous(memory_format=torch.channels_last)
        assert (given.double() - expected).abs().max() <= 2e-5 * expected.abs().max()


@pytest.mark.parametrize(("tiles", "is_replaced"), [(FEWEST_TILES - 1, False), (FEWEST_TILES, True)])
def test_small_maps_pass_the_convolution_itself(tiles, is_replaced):
    fast = WinogradConvolution(nn.Conv2d(4, 4, kernel_size=3, padding=1))
    fast.matrices.zero_()
    with torch.inference_mode():
        images = torch.randn(1, 4, 4, 4 * tiles)
        assert torch.equal(fast(images), fast.convolution(images)) is not is_replaced


def test_few_products_leave_16_bits_alone():
    plain = nn.Conv2d(16, 16, kernel_size=3, padding=1)
    images = torch.randn(1, 16, 19, 19)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(WinogradConvolution(plain)(images), plain(images))


WIDE = {"in_channels": FEWEST_CHANNELS, "out_channels": FEWEST_CHANNELS, "kernel_size": 3, "padding": 1}
NOT_WIDE = [{"in_channels": FEWEST_CHANNELS - 1}, {"out_channels": FEWEST_CHANNELS - 1}, {"stride": 2}, {"groups": 2}]
NOT_WIDE += [{"in_channels": 1088}]  # matrices of 40.1 MB
NOT_WIDE += [{"dilation": 2}, {"dilation": 2, "padding": 2}, {"padding": 0}, {"padding_mode": "reflect"}]
NOT_WIDE += [{"kernel_size": 1, "padding": 0}, {"kernel_size": 5, "padding": 2}, {"padding": "same"}]


@pytest.mark.parametrize(("changes", "count"), [({}, 1), *((changes, 0) for changes in NOT_WIDE)])
def test_wide_convolutions_are_replaced_for_predictions(changes, count):
    how = WIDE | changes
    network = nn.Sequential(nn.Conv2d(3, how["in_channels"], kernel_size=1), nn.Sequential(nn.Conv2d(**how), nn.ReLU()))
    images = torch.rand(1, 3, 12, 16)
    with torch.inference_mode():
        fast = for_inference(network, torch.device("cpu"), side_px=8)
        assert sum(isinstance(module, WinogradConvolution) for module in fast.modules()) == count
        assert not any(isinstance(module, WinogradConvolution) for module in network.modules())
        torch.testing.assert_close(fast(images), network(images), rtol=1e-4, atol=1e-5)


def test_other_devices_keep_their_convolutions():
    network = for_inference(nn.Sequential(nn.Conv2d(3, 256, 1), nn.Conv2d(**WIDE)), torch.device("meta"), side_px=8)
    assert not any(isinstance(module, WinogradConvolution) for module in network.modules())
