"""The smoothness operator: inverse, symmetry, units, resolution, gradients."""

import math

import pytest
import torch

from medkit.atlas import SobolevMetric
from medkit.ops import identity_points, resize_field
from tests.laws import assert_adjoint, random_like

GRIDS = [((12, 9), (1.0, 2.0)), ((8, 9, 10), (1.0, 1.5, 0.7))]


@pytest.mark.parametrize(("size", "spacing"), GRIDS)
def test_k_undoes_l(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    metric = SobolevMetric(size, spacing)
    v = random_like(torch.empty(2, len(size), *size, dtype=torch.float64))
    torch.testing.assert_close(metric.velocity(metric.momentum(v)), v, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("size", "spacing"), GRIDS)
def test_the_inner_product_is_symmetric_and_positive(size: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    metric = SobolevMetric(size, spacing)
    v, w = (random_like(torch.empty(1, len(size), *size, dtype=torch.float64), seed) for seed in (0, 1))
    torch.testing.assert_close(metric.inner(v, w), metric.inner(w, v), rtol=1e-10, atol=0)
    assert metric.inner(v, v).item() > 0
    one_axis = torch.zeros_like(v)
    one_axis[:, 0] = v[:, 0]
    scaled = SobolevMetric(size, (2 * spacing[0], *spacing[1:]), alpha=0.0)
    assert scaled.inner(one_axis, one_axis).item() == pytest.approx(
        8 * SobolevMetric(size, spacing, alpha=0.0).inner(one_axis, one_axis).item()
    )


def test_l_is_its_own_adjoint() -> None:
    metric = SobolevMetric((10, 12), 1.0)
    field = torch.empty(1, 2, 10, 12, dtype=torch.float64)
    assert_adjoint(metric.momentum, metric.momentum, field, field, tolerance=1e-10)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_wave_has_the_eigenvalue_of_the_three_point_laplacian(axis: int) -> None:
    """Catches symbols of all axes from the size or the spacing of the first one."""
    size, spacing = (16, 20), (1.5, 2.0)
    metric = SobolevMetric(size, spacing, alpha=3.0, gamma=0.5, power=2.0)
    n = size[axis]
    wave = torch.cos(2 * math.pi * 3 * torch.arange(float(n), dtype=torch.float64) / n)
    v = torch.zeros(1, 2, *size, dtype=torch.float64)
    v[:, :1] = wave.reshape(1, 1, n, 1) if axis == 0 else wave
    by_hand = v * 1.5
    for _ in range(2):
        second = by_hand.roll(1, 2 + axis) + by_hand.roll(-1, 2 + axis) - 2 * by_hand
        by_hand = -3.0 * second / spacing[axis] ** 2 + 0.5 * by_hand
    torch.testing.assert_close(metric.momentum(v), by_hand, rtol=1e-10, atol=1e-10)


def test_a_smooth_velocity_has_one_energy_on_a_fine_and_a_coarse_grid() -> None:
    def bump(n: int, spacing: float) -> torch.Tensor:
        places = identity_points((n, n, n), torch.empty(0, dtype=torch.float64)) * spacing - 32
        height = torch.exp(-(places.square().sum(1, keepdim=True)) / (2 * 8.0**2))
        return 3.0 * torch.cat([height, -0.5 * height, 0.2 * height], 1) / spacing  # 3 mm, in voxels

    fine, coarse = bump(64, 1.0), bump(32, 2.0)
    energies = [
        SobolevMetric((64,) * 3, 1.0).inner(fine, fine).item(),
        SobolevMetric((32,) * 3, 2.0).inner(coarse, coarse).item(),
    ]
    assert energies[1] == pytest.approx(energies[0], rel=0.02)
    # Taken in voxels it would be four times too small.
    half = resize_field(fine, (32, 32, 32), corners=False)
    unscaled = SobolevMetric((32,) * 3, 2.0).inner(2 * half, 2 * half).item()
    assert unscaled > 3.5 * energies[0]


def test_the_gradient_represents_the_slope() -> None:
    metric = SobolevMetric((8, 9, 10), (1.0, 1.5, 0.7))
    slope, w = (random_like(torch.empty(2, 3, 8, 9, 10, dtype=torch.float64), seed) for seed in (0, 1))
    torch.testing.assert_close(
        metric.inner(metric.gradient(slope), w), (slope * w).flatten(1).sum(1), rtol=1e-9, atol=1e-9
    )


def test_the_gradient_of_the_energy_is_the_velocity_itself() -> None:
    metric = SobolevMetric((8, 10), (1.0, 2.0))
    v = random_like(torch.empty(1, 2, 8, 10, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(0.5 * metric.inner(v, v).sum(), v)
    torch.testing.assert_close(metric.gradient(slope), v.detach(), rtol=1e-9, atol=1e-9)


def test_wrong_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="'size' must be 2 or 3"):
        SobolevMetric((4,))
    with pytest.raises(ValueError, match="'spacing' must be 2 positive"):
        SobolevMetric((4, 4), (1.0, 0.0))
    with pytest.raises(ValueError, match="'gamma' and 'power' positive"):
        SobolevMetric((4, 4), gamma=0.0)
    with pytest.raises(ValueError, match=r"must lie on the grid \(4, 4\)"):
        SobolevMetric((4, 4)).momentum(torch.zeros(1, 2, 5, 4))
