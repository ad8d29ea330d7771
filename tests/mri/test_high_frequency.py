"""HFEN: the kernel of MATLAB, a plain computation, and the laws of a relative norm."""

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from medkit.mri import VolumeHFEN, hfen, high_frequency


def volumes(shape=(3, 30, 25), noise=0.1):
    random = np.random.RandomState(0)
    reference = random.rand(*shape)
    return reference + noise * random.standard_normal(shape), reference


def plain_kernel(size=15, sigma=1.5):
    """The Laplacian of a Gaussian of sum 1, pixel by pixel, less its mean."""
    y, x = np.mgrid[:size, :size] - size // 2
    gaussian = np.exp(-(x * x + y * y) / (2 * sigma**2))
    kernel = gaussian / gaussian.sum() * (x * x + y * y - 2 * sigma**2) / sigma**4
    return kernel - kernel.mean()


def test_the_filter_is_the_mexican_hat_of_matlab(monkeypatch):
    point = np.zeros((31, 31))
    point[15, 15] = 1
    filtered = high_frequency._edges(point)
    np.testing.assert_allclose(filtered[8:23, 8:23], plain_kernel(), atol=1e-15)
    assert np.abs(filtered).sum() == pytest.approx(np.abs(plain_kernel()).sum())
    assert filtered.sum() == pytest.approx(0, abs=1e-14)
    # What MATLAB gives for fspecial('log', 5, 0.5).
    monkeypatch.setattr(high_frequency, "SIZE", 5)
    monkeypatch.setattr(high_frequency, "SIGMA", 0.5)
    corner = [[0.0448, 0.0468, 0.0564], [0.0468, 0.3167, 0.7146], [0.0564, 0.7146, -4.9048]]
    np.testing.assert_allclose(high_frequency._edges(point)[13:16, 13:16], corner, atol=5e-5)


def test_values_are_those_of_the_formula_with_mirrored_edges():
    x, y = volumes()
    kernel = plain_kernel()
    edges = [[convolve2d(np.pad(one, 7, "symmetric"), kernel, "valid") for one in volume] for volume in (x, y)]
    expected = np.linalg.norm(np.subtract(*edges)) / np.linalg.norm(edges[1])
    assert hfen(x, y) == pytest.approx(expected, rel=1e-10)
    assert hfen(torch.from_numpy(x), torch.from_numpy(y)) == hfen(x, y)


def test_equal_and_empty_images():
    x, y = volumes()
    assert hfen(y, y) == 0
    assert hfen(0 * y, y) == pytest.approx(1, rel=1e-14)
    assert hfen(-y, y) == pytest.approx(2, rel=1e-14)
    assert math.isnan(hfen(x, 0 * y))
    assert math.isnan(hfen(x, 0 * y + 1e7))


def test_a_constant_and_the_unit_count_for_nothing():
    x, y = volumes()
    assert hfen(x + 5, y) == pytest.approx(hfen(x, y), rel=1e-10)
    assert hfen(x, y + 5) == pytest.approx(hfen(x, y), rel=1e-10)
    for scale in (1e-7, 1e5):
        assert hfen(scale * x, scale * y) == pytest.approx(hfen(x, y), rel=1e-10)


def test_the_error_is_in_proportion_and_of_the_whole_volume():
    x, y = volumes()
    assert hfen(y + 3 * (x - y), y) == pytest.approx(3 * hfen(x, y), rel=1e-10)
    y[0] *= 0.01
    assert hfen(x, y) != pytest.approx(np.mean([hfen(a, b) for a, b in zip(x, y, strict=True)]), rel=0.1)


def test_blur_is_seen_where_it_is_and_a_slope_is_not():
    _, y = volumes((1, 64, 64))
    blurred = (y + np.roll(y, 1, 1) + np.roll(y, 1, 2) + np.roll(y, (1, 1), (1, 2))) / 4
    assert hfen(blurred, y) > 0.3
    slope = np.linspace(0, 1, 64)[None, None]
    inside = np.s_[16:48, 16:48]
    np.testing.assert_allclose(high_frequency._edges((y + slope)[0])[inside], high_frequency._edges(y[0])[inside])


def test_the_class_compares_magnitudes_of_channels():
    generator = torch.Generator().manual_seed(0)
    pred, target = (torch.randn(2, n, 12, 10, 3, generator=generator) for n in (2, 4))
    metric = VolumeHFEN()
    values = metric(pred, target)
    for i in range(2):
        p, r = (torch.hypot(x[i, 0], x[i, 1]).movedim(-1, 0) for x in (pred, target))
        assert values[i].item() == pytest.approx(hfen(p, r), rel=1e-5)
    assert metric.aggregate().item() == pytest.approx(values.mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: hfen(x, x[:1]), "hfen: .* of one shape"),
        (lambda x: hfen(x, x * 1j), "hfen: .* must be magnitudes"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(np.ones((2, 8, 8)))
