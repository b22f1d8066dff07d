"""Class activation maps and their merging over scales: worked examples."""

import numpy as np
import pytest
import torch

from pseudo_labels.cams import compute_cams, spread_cams
from utils.multi_scale import merge_scales


class FixedMaps(torch.nn.Module):
    """A classifier with the same maps of four classes for all images."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Module()
        self.backbone.normalise = torch.Tensor.float

    def forward(self, images):
        maps = torch.tensor([[[-1.0, 2.0]], [[4.0, 1.0]], [[-3.0, -2.0]], [[9.0, 9.0]]])
        return {"class_maps": maps.expand(len(images), 4, 1, 2)}


def test_cams_are_rectified_and_divided_by_their_maximum():
    """Only the maps of the classes of each image are returned."""
    image_labels = np.array([[1, 1, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
    found = compute_cams(FixedMaps(), np.zeros((3, 1, 2, 3), np.uint8), image_labels, torch.device("cpu"))
    assert [labels.tolist() for _, labels in found] == [[1, 2, 3], [2], []]
    assert np.allclose(found[0][0], [[[0.0, 1.0]], [[1.0, 0.25]], [[0.0, 0.0]]], atol=1e-4)
    assert np.allclose(found[1][0], [[[1.0, 0.25]]], atol=1e-4)
    assert found[2][0].shape == (0, 1, 2)


def test_maps_spread_to_similar_features():
    """Two regions whose features are orthogonal: each place gets the mean of its region, whatever lies between."""
    backbone = torch.nn.Module()
    backbone.normalise = torch.Tensor.float
    region = torch.tensor([[0, 1, 0, 1]]).repeat_interleave(2, dim=0)  # [2, 4]
    features = torch.nn.functional.one_hot(region).permute(2, 0, 1)[None].float()  # [1, 2, 2, 4]
    backbone.forward = lambda images: [None, None, features, None]
    cams = np.zeros((1, 4, 8), np.float32)
    cams[0, :2, :2], cams[0, :, 2:4] = 1, 0.25
    spread = spread_cams(backbone, np.zeros((4, 8, 3), np.uint8), cams, torch.device("cpu"))
    first, second = 1 / 4, 0.25 / 2  # one of four places is 1; two of four are 0.25
    assert np.allclose(spread[0, :, [0, 7]], [[1] * 4, [second / first] * 4], atol=1e-4)


def test_scales_and_flips():
    images = torch.rand(2, 3, 8, 12)
    total = merge_scales(lambda batch: batch[:, :1], images, scales=(1.0,), flip=True)
    assert torch.allclose(total, 2 * images[:, :1])
    sizes = []
    merge_scales(lambda b: sizes.append(tuple(b.shape[-2:])) or b, images, scales=(0.5, 1.5), flip=False)
    assert sizes == [(4, 6), (12, 18)]
    sizes.clear()
    merge_scales(lambda b: sizes.append(tuple(b.shape[-2:])) or b, images, scales=(0.01, 1.5), flip=False, multiple=4)
    assert sizes == [(4, 4), (12, 16)]  # 18 lies halfway: rounded to the even multiple
    sizes.clear()
    merge_scales(lambda b: sizes.append(tuple(b.shape[-2:])) or b, images, scales=(1.0,), flip=False, multiple=32)
    assert sizes == [(8, 12)]  # the size the network was trained at, whatever the multiple


@pytest.mark.parametrize(
    ("combine", "flip", "expected"),
    [("sum", False, [7, 4, 3]), ("max", False, [6, 2, 3]), ("sum", True, [10, 8, 10]), ("max", True, [6, 2, 6])],
)
def test_scales_and_mirror_images_are_joined(combine, flip, expected):
    """A network with constant outputs; the output for the mirror image is mirrored."""
    answers = iter([torch.tensor([1.0, 2, 3]), torch.tensor([6.0, 2, 0])])
    found = merge_scales(
        lambda batch: next(answers).expand(len(batch), 1, 1, 3),
        torch.zeros(1, 3, 1, 3),
        scales=(1.0, 1.0),
        flip=flip,
        combine=combine,
    )
    assert found.flatten().tolist() == expected
