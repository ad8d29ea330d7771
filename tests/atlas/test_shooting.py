"""Geodesic shooting: conserved energy, order in time, trivial cases, inverse, no folds, gradients."""

import pytest
import torch

from medkit.atlas import GeodesicShooting, SobolevMetric, StationaryVelocity
from medkit.ops import compose, folding
from tests.laws import random_like


def random_velocity(metric: SobolevMetric, amplitude: float, seed: int = 0) -> torch.Tensor:
    """Smooth, of a given largest length in voxels."""
    noise = random_like(torch.empty(1, metric.spatial_dims, *metric.size, dtype=torch.float64), seed)
    v = metric.velocity(noise)
    return v * amplitude / v.norm(dim=1).max()


def drift(shoot: GeodesicShooting, v: torch.Tensor) -> float:
    energies = shoot.energies(v)
    return float((energies / energies[0] - 1).abs().max())


@pytest.mark.parametrize(("size", "amplitude"), [((64, 64), 6.0), ((32, 32, 32), 3.0)])
def test_the_energy_is_constant_along_the_path(size: tuple[int, ...], amplitude: float) -> None:
    metric = SobolevMetric(size)
    v = random_velocity(metric, amplitude)
    assert drift(GeodesicShooting(metric, 10, 16), v) < 1e-4


def test_euler_is_of_first_order() -> None:
    metric = SobolevMetric((64, 64))
    v = random_velocity(metric, 6.0)
    drifts = [drift(GeodesicShooting(metric, n, 16, "euler"), v) for n in (10, 20, 40)]
    assert 1.7 < drifts[0] / drifts[1] < 2.3
    assert 1.7 < drifts[1] / drifts[2] < 2.3
    assert drifts[0] > 100 * drift(GeodesicShooting(metric, 10, 16), v)


def test_the_first_energy_is_that_of_the_metric_for_a_velocity_of_the_band() -> None:
    metric = SobolevMetric((24, 20), (1.0, 1.5))
    shoot = GeodesicShooting(metric, 1, 9)
    v = random_velocity(metric, 1.0)
    kept = shoot._on_grid(shoot._spectrum(v), metric.size)
    torch.testing.assert_close(shoot.energies(kept)[0], metric.inner(kept, kept), rtol=1e-9, atol=0)


def test_constant_velocities_move_everything_alike_and_zero_nothing() -> None:
    metric = SobolevMetric((16, 12), (1.0, 2.0))
    shoot = GeodesicShooting(metric)
    v = torch.tensor([0.7, -0.4]).reshape(1, 2, 1, 1).expand(1, 2, 16, 12).contiguous()
    torch.testing.assert_close(shoot.displacement(v), v, rtol=0, atol=1e-5)
    torch.testing.assert_close(shoot.displacement(v, inverse=True), -v, rtol=0, atol=1e-5)
    assert torch.equal(shoot.displacement(torch.zeros_like(v)), torch.zeros_like(v))


@pytest.mark.parametrize(("size", "amplitude"), [((64, 64), 5.0), ((32, 32, 32), 3.0)])
def test_both_directions_undo_each_other_and_fold_nowhere(size: tuple[int, ...], amplitude: float) -> None:
    metric = SobolevMetric(size)
    shoot = GeodesicShooting(metric, 10, 16)
    v = random_velocity(metric, amplitude)
    there, back = shoot.displacement(v), shoot.displacement(v, inverse=True)
    inside = (slice(None), *[slice(8, -8)] * len(size))
    left = compose(there, back).norm(dim=1)[inside]
    assert left.mean() < 0.05
    assert left.max() < 0.3
    assert folding(there).n_folded == 0
    assert folding(back).n_folded == 0


def test_small_velocities_flow_as_stationary_ones() -> None:
    metric = SobolevMetric((48, 48))
    v = random_velocity(metric, 0.2)
    shoot = GeodesicShooting(metric, 10, 48)
    torch.testing.assert_close(shoot.displacement(v), StationaryVelocity().displacement(v), rtol=0, atol=0.02)


def test_another_resolution_shoots_the_same_map() -> None:
    fine, coarse = SobolevMetric((64, 64), 1.0), SobolevMetric((32, 32), 2.0)
    narrow = GeodesicShooting(fine, 1, 9)
    band = narrow._on_grid(narrow._spectrum(random_velocity(fine, 4.0)), fine.size)
    there = GeodesicShooting(fine, 10, 15).displacement(band)
    other = GeodesicShooting(coarse, 10, 15).displacement(band[:, :, ::2, ::2] / 2)
    assert (there[:, :, ::2, ::2] / 2 - other).norm(dim=1)[:, 4:-4, 4:-4].max() < 0.1


def test_gradients_by_the_initial_velocity() -> None:
    metric = SobolevMetric((9, 10))
    shoot = GeodesicShooting(metric, 3, 7)
    v = (0.5 + random_velocity(metric, 0.8)).requires_grad_()
    direction = random_like(v, 3)
    (slope,) = torch.autograd.grad((shoot.displacement(v) * direction).sum(), v)
    step = 1e-7 * random_like(v, 4)
    change = ((shoot.displacement(v + step) - shoot.displacement(v - step)) * direction).sum().detach() / 2
    torch.testing.assert_close((slope * step).sum(), change, rtol=1e-5, atol=0)


def test_wrong_input_is_refused_in_a_sentence() -> None:
    metric = SobolevMetric((8, 8))
    with pytest.raises(ValueError, match="at least 1"):
        GeodesicShooting(metric, 0)
    with pytest.raises(ValueError, match="'integrator' must be one of"):
        GeodesicShooting(metric, integrator="heun")
    with pytest.raises(ValueError, match="must lie on the grid"):
        GeodesicShooting(metric).displacement(torch.zeros(1, 2, 9, 8))
