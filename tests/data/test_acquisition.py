"""Coil maps and image phase: normalisation, replay, smoothness, and the field of a loop against its closed form."""

import math

import pytest
import torch

from medkit.data import coil_maps, smooth_phase
from medkit.data.acquisition import WIRE, _loop_field


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("shape", [(48, 40), (33, 64), (24, 20, 16)])
@pytest.mark.parametrize("n_coils", [1, 2, 8, 13])
def test_sum_of_squares_is_one_everywhere(shape, n_coils):
    maps = coil_maps(n_coils, shape, seeded())
    assert maps.shape == (n_coils, *shape)
    assert maps.dtype == torch.complex64
    assert torch.allclose(maps.abs().square().sum(0), torch.ones(shape), atol=1e-5)


@pytest.mark.parametrize("draw", [lambda g: coil_maps(4, (32, 24), g), lambda g: smooth_phase((32, 24, 8), g)])
def test_generator_replays(draw):
    assert torch.equal(draw(seeded(3)), draw(seeded(3)))
    assert not torch.allclose(draw(seeded(3)), draw(seeded(4)))


def test_each_coil_is_strongest_near_itself():
    maps = coil_maps(8, (64, 64), seeded(1), jitter=0.0).abs()
    peaks = [divmod(int(m.argmax()), 64) for m in maps]
    away = [math.hypot(row - 31.5, column - 31.5) for row, column in peaks]
    assert min(away) > 25  # at the rim
    assert len(set(peaks)) == 8
    assert maps.amax((1, 2)).min() > 2 * maps[:, 32, 32].mean()


@pytest.mark.parametrize("shape", [(128, 128), (40, 40, 40)])
def test_maps_are_smooth(shape):
    maps = coil_maps(8, shape, seeded(2))
    for axis in range(1, maps.ndim):
        assert maps.diff(dim=axis).abs().max() < (0.1 if len(shape) == 2 else 0.35)
        if len(shape) == 2:
            assert maps.diff(n=2, dim=axis).abs().max() < 0.01


def test_finer_grid_shows_the_same_coils():
    coarse, fine = coil_maps(6, (33, 33), seeded(5)), coil_maps(6, (65, 65), seeded(5))
    assert (coarse - fine[:, ::2, ::2]).abs().max() < 0.05  # the outermost voxels' middles lie a little apart


@pytest.mark.parametrize("height", [0.0, 0.3, 1.2])
def test_loop_field_on_its_axis_is_the_closed_form(height):
    """On the axis of a loop Biot and Savart give a^2 / (a^2 + z^2)^(3/2), here with the wire's thickness."""
    a = 0.5
    point = torch.tensor([[0.0, 0.0, height]])
    field = _loop_field(point, torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]), a)[0]
    center = _loop_field(torch.zeros(1, 3), torch.zeros(3), torch.tensor([0.0, 0.0, 1.0]), a)[0]
    thick = a**2 + WIRE**2
    expected = (thick / (thick + height**2)) ** 1.5
    assert torch.allclose(field[:2], torch.zeros(2), atol=1e-4 * float(center[2].abs()))
    assert float(field[2] / center[2]) == pytest.approx(expected, rel=1e-4)


def test_phase_has_the_asked_strength():
    field = torch.stack([smooth_phase((64, 64), seeded(s), polynomial=0.0, field=0.7, offset=False) for s in range(40)])
    assert float(field.std()) == pytest.approx(0.7, rel=0.15)
    flat = smooth_phase((16, 16), seeded(), polynomial=0.0, field=0.0, offset=False)
    assert torch.equal(flat, torch.zeros(16, 16))


def test_polynomial_phase_has_vanishing_third_differences():
    phase = smooth_phase((32, 32), seeded(), field=0.0)
    assert phase.std() > 0.1
    assert phase.diff(n=3, dim=0).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(128, 128), (40, 40, 40)])
def test_phase_is_smooth(shape):
    phase = smooth_phase(shape, seeded(1))
    assert max(float(phase.diff(dim=k).abs().max()) for k in range(len(shape))) < 0.8


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 1, 3)])
def test_one_pixel_works(shape):
    assert torch.allclose(coil_maps(3, shape, seeded()).abs().square().sum(0), torch.ones(shape), atol=1e-5)
    assert smooth_phase(shape, seeded()).isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: coil_maps(0, (8, 8)), "'n_coils'"),
        (lambda: coil_maps(2, (8,)), "'shape'"),
        (lambda: coil_maps(2, (8, 0)), "'shape'"),
        (lambda: coil_maps(2, (8, 8), distance=(2.0, 1.0)), "'distance'"),
        (lambda: coil_maps(2, (8, 8), radius=(0.0, 1.0)), "'radius'"),
        (lambda: smooth_phase((8, 8, 8, 8)), "'shape'"),
        (lambda: smooth_phase((8, 8), field=-1.0), "'field'"),
        (lambda: smooth_phase((8, 8), width=0.0), "'width'"),
    ],
)
def test_errors_name_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
