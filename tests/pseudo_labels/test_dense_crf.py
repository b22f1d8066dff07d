"""The dense CRF against pydensecrf2, the dense sum over all pairs, and results known by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from formats.images import load_image
from pseudo_labels.dense_crf import (
    DEEPLAB,
    LABELS,
    PROBABILITIES,
    CrfSettings,
    DenseCrf,
    refine_label,
    refine_probs,
)
from pseudo_labels.permutohedral_lattice import PermutohedralLattice

SETTINGS = (LABELS, PROBABILITIES, DEEPLAB)
# Iterations and tolerances. Each iteration amplifies rounding errors by up to 13, the sum of the weights; after ten,
# pydensecrf differs by up to 2e-4 from the same sums in float64.
ITERATIONS = ((1, 2e-6), (10, 2e-4))
REFERENCE = Path(__file__).with_name("reference") / "dense_crf.npy"


def drawn_image(height: int = 24, width: int = 32) -> np.ndarray:
    """Two gradients, a stripe pattern and a bright rectangle, uint8 [H, W, 3]."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([8 * x, 10 * y, 7 * x * y], axis=2) % 256
    image[6:14, 9:21] = 230, 220, 40
    return image.astype(np.uint8)


def drawn_energies(num_labels: int, height: int = 24, width: int = 32) -> torch.Tensor:
    """Energies float32 [L, H, W] in 0..2.4, with a pattern per label."""
    label, y, x = np.mgrid[:num_labels, :height, :width]
    return torch.from_numpy((3 * x + 5 * y + 7 * label) % 23 / 9).float()


def two_halves(width: int = 40, edge: int = 20) -> np.ndarray:
    """Image uint8 [40, W, 3], dark left of the edge and bright right of it."""
    image = np.full((40, width, 3), 30, np.uint8)
    image[:, edge:] = 220
    return image


def pydensecrf_posteriors(image, settings, unary, iterations=10) -> np.ndarray:
    densecrf = pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2, the oracle, is not installed")
    num_labels, height, width = unary.shape
    crf = densecrf.DenseCRF2D(width, height, num_labels)
    crf.setUnaryEnergy(unary.reshape(num_labels, -1).numpy())
    crf.addPairwiseGaussian(sxy=settings.gaussian_sxy, compat=settings.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=settings.bilateral_sxy,
        srgb=settings.bilateral_srgb,
        rgbim=np.ascontiguousarray(image),
        compat=settings.bilateral_weight,
    )
    return np.array(crf.inference(iterations)).reshape(unary.shape)


def test_stored_posteriors_of_pydensecrf():
    """The reference holds every fourth pixel of `pydensecrf_posteriors` (pydensecrf2 1.1) for SETTINGS × ITERATIONS."""
    expected = np.load(REFERENCE)  # float32 [3 settings, 2 numbers of iterations, 3 labels, 6, 8]
    for settings, posteriors in zip(SETTINGS, expected):
        crf = DenseCrf(drawn_image(), settings)
        for (iterations, tolerance), posterior in zip(ITERATIONS, posteriors):
            ours = crf.mean_field(drawn_energies(3), iterations)[:, ::4, ::4].numpy()
            assert np.abs(ours - posterior).max() < tolerance


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("num_labels", [2, 5, 21])
def test_drawn_images_agree_with_pydensecrf(settings, num_labels):
    unary = drawn_energies(num_labels)
    for iterations, tolerance in ITERATIONS:
        expected = pydensecrf_posteriors(drawn_image(), settings, unary, iterations)
        ours = DenseCrf(drawn_image(), settings).mean_field(unary, iterations).numpy()
        assert np.abs(ours - expected).max() < tolerance
        assert np.array_equal(ours.argmax(axis=0), expected.argmax(axis=0))


@pytest.mark.parametrize(("settings", "num_labels"), [(LABELS, 2), (PROBABILITIES, 5), (DEEPLAB, 21)])
def test_photographs_agree_with_pydensecrf(settings, num_labels, real_data):
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2, the oracle, is not installed")
    folder = real_data / "voc12-photos/data/voc12/VOCdevkit/VOC2012/JPEGImages"
    for path in sorted(folder.iterdir())[:3]:
        image = load_image(path)[:331, :333]
        noise = torch.randn(1, num_labels, 12, 12, generator=torch.Generator().manual_seed(0))
        scores = F.interpolate(3 * noise, size=image.shape[:2], mode="bilinear", align_corners=False)
        unary = -scores[0].log_softmax(dim=0)
        crf = DenseCrf(image, settings)
        for iterations, tolerance in ITERATIONS:
            expected = pydensecrf_posteriors(image, settings, unary, iterations)
            ours = crf.mean_field(unary, iterations).numpy()
            assert np.abs(ours - expected).max() < tolerance
            clear = np.diff(np.sort(expected, axis=0)[-2:], axis=0)[0] > 2 * tolerance  # others depend on rounding
            assert np.array_equal(ours.argmax(axis=0)[clear], expected.argmax(axis=0)[clear])


@pytest.mark.parametrize(("settings", "num_labels"), [(LABELS, 2), (PROBABILITIES, 3)])
def test_label_maps_on_photographs_agree_to_1e_5(settings, num_labels, real_data):
    """The main use of the CRF here: ten iterations from hard labels."""
    pytest.importorskip("pydensecrf.densecrf", reason="pydensecrf2, the oracle, is not installed")
    folder = real_data / "voc12-photos/data/voc12/VOCdevkit/VOC2012/JPEGImages"
    for path in sorted(folder.iterdir())[:8]:
        image = load_image(path)
        height, width = image.shape[:2]
        label = np.zeros((height, width), np.int64)
        label[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 1
        label[: height // 5] = num_labels - 1
        probs = np.where(label == np.arange(num_labels)[:, None, None], 0.7, 0.3 / (num_labels - 1))
        unary = torch.from_numpy(-np.log(probs)).float()
        expected = pydensecrf_posteriors(image, settings, unary)
        ours = DenseCrf(image, settings).mean_field(unary).numpy()
        assert np.abs(ours - expected).max() < 1e-5
        assert np.array_equal(ours.argmax(axis=0), expected.argmax(axis=0))


def dense_kernel(features: torch.Tensor) -> torch.Tensor:
    """Exact kernel [N, N] of features [D, N], which the lattice approximates."""
    kernel = torch.exp(-(torch.cdist(features.T, features.T) ** 2) / 2)
    norm = kernel.sum(dim=1).rsqrt()
    return norm[:, None] * kernel * norm


def compute_features(image: np.ndarray, sxy: float, srgb: float | None) -> torch.Tensor:
    """Positions [2, N], or positions and colours [5, N], in standard deviations."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    rows = [x / sxy, y / sxy] + ([] if srgb is None else [image[:, :, c] / srgb for c in range(3)])
    return torch.from_numpy(np.stack(rows).reshape(len(rows), -1)).float()


@pytest.mark.parametrize(("sxy", "srgb", "tolerance"), [(1, None, 0.1), (3, None, 0.1), (6, None, 0.1), (3, 60, 0.2)])
def test_the_lattice_approximates_the_gaussian(sxy, srgb, tolerance):
    """Mean over pixels of Σ |lattice − dense| of a kernel row; rows sum to about one."""
    features = compute_features(drawn_image(), sxy, srgb)
    impulses = torch.eye(features.shape[1])
    difference = PermutohedralLattice(features).filter(impulses) - dense_kernel(features)
    assert difference.abs().sum(dim=1).mean() < tolerance


def test_the_filter_is_linear_and_its_transpose_blurs_backwards():
    features = compute_features(drawn_image(), 3, 20)
    lattice = PermutohedralLattice(features)
    a, b = torch.rand(2, features.shape[1], 3, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(lattice.filter(2 * a - b), 2 * lattice.filter(a) - lattice.filter(b), atol=1e-5)
    kernel = lattice.filter(torch.eye(len(a)))
    assert kernel.min() >= -1e-6
    lattice.neighbours.reverse()
    assert torch.allclose(lattice.filter(torch.eye(len(a))), kernel.T, atol=1e-6)


def test_points_far_apart_keep_their_values():
    features = 1000 * torch.tensor([[0.0, 1, 0, 2], [0, 0, 1, 5]])
    values = torch.tensor([[1.0], [2], [3], [4]])
    assert torch.allclose(PermutohedralLattice(features).filter(values), values)


def test_without_weights_only_the_unary_counts():
    unary = drawn_energies(4)
    probs = DenseCrf(drawn_image(), CrfSettings(3, 0, 50, 5, 0)).mean_field(unary)
    assert torch.allclose(probs, (-unary).softmax(dim=0))
    nothing_done = DenseCrf(drawn_image(), LABELS).mean_field(unary, iterations=0)
    assert torch.allclose(nothing_done, (-unary).softmax(dim=0))


@pytest.mark.parametrize("settings", SETTINGS)
def test_posteriors_are_probabilities_and_the_same_in_every_run(settings):
    first, second = (DenseCrf(drawn_image(), settings).mean_field(drawn_energies(3)) for _ in range(2))
    assert first.dtype == torch.float32
    assert torch.allclose(first.sum(dim=0), torch.ones(24, 32))
    assert torch.equal(first, second)


def test_one_crf_serves_many_unaries():
    crf = DenseCrf(drawn_image(), LABELS)
    one, many = drawn_energies(2), drawn_energies(5)
    expected = crf.mean_field(one)
    crf.mean_field(many)
    assert torch.equal(crf.mean_field(one), expected)


@pytest.mark.parametrize("shift", [-4, 4])
def test_a_shifted_boundary_moves_to_the_edge_of_the_colours(shift):
    label = np.zeros((40, 40), np.uint8)
    label[:, 20 + shift :] = 15
    expected = np.where(np.arange(40) < 20, 0, 15) * np.ones((40, 1))
    assert np.array_equal(refine_label(DenseCrf(two_halves(), LABELS), label), expected)


def test_ignored_pixels_get_the_label_of_their_colour():
    label = np.full((40, 40), 255, np.uint8)
    label[:, :8], label[:, 32:] = 3, 7
    expected = np.where(np.arange(40) < 20, 3, 7) * np.ones((40, 1))
    assert np.array_equal(refine_label(DenseCrf(two_halves(), LABELS), label), expected)


def test_a_single_label_fills_the_map():
    crf = DenseCrf(two_halves(), LABELS)
    for value in (0, 9, 255):
        label = np.full((40, 40), value, np.uint8)
        assert np.array_equal(refine_label(crf, label), label)
    label = np.full((40, 40), 9, np.uint8)
    label[3:5] = 255
    assert (refine_label(crf, label) == 9).all()


def test_energies_of_labels():
    """Without iterations the label map is returned; its energies are −log 0.7 and −log(0.3 / 2)."""
    label = np.random.default_rng(0).choice([0, 4, 200], (24, 32)).astype(np.uint8)
    crf = DenseCrf(drawn_image(), LABELS)
    assert np.array_equal(refine_label(crf, label, iterations=0), label)
    probs = torch.from_numpy(np.where(label == np.array([0, 4, 200])[:, None, None], 0.7, 0.15))
    best = refine_probs(crf, probs).argmax(dim=0)
    assert np.array_equal(refine_label(crf, label), np.array([0, 4, 200])[best])


def test_probabilities_follow_the_edge_and_may_be_zero():
    crf = DenseCrf(two_halves(), PROBABILITIES)
    first = (torch.arange(40) < 24).float().expand(40, 40)
    certain = torch.stack([first, 1 - first])
    refined = refine_probs(crf, 0.2 + 0.6 * certain)
    assert (refined.argmax(dim=0) == (torch.arange(40) >= 20)).all()
    assert torch.allclose(refine_probs(crf, certain, iterations=0), certain, atol=2e-5)
    assert torch.isfinite(refine_probs(crf, certain)).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (1, 50), (50, 1), (2, 3)])
def test_thin_and_tiny_images(size):
    image, unary = drawn_image(*size), drawn_energies(3, *size)
    for crf in (DenseCrf(image, LABELS), DenseCrf(np.full_like(image, 7), LABELS)):
        probs = crf.mean_field(unary)
        assert probs.shape == (3, *size)
        assert torch.allclose(probs.sum(dim=0), torch.ones(size))
    if size == (1, 1):  # the filters are the identity: compute the mean field by hand
        expected = (-unary).softmax(dim=0)
        for _ in range(10):
            expected = (13 * expected - unary).softmax(dim=0)
        assert torch.allclose(probs, expected, atol=1e-5)
