"""Laws of what goes wrong in an acquisition: energy, exactness on closed forms, and nothing at strength 0."""

from __future__ import annotations

import math

import pytest
import torch

from medkit.distill.physics import acquire_moving, add_ghosts, add_spike, lower_resolution, shade, wrap_around
from medkit.ops import centered_fft


def image(height=12, width=10):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(height, width, dtype=torch.complex64, generator=generator)


@pytest.mark.parametrize("size", [(12, 10), (7, 9), (1, 1)])
def test_nothing_happens_at_strength_0(size):
    x = image(*size)
    unchanged = (
        add_ghosts(x, 0.0, 3.0),
        add_spike(x, 0.0, (0, 0)),
        wrap_around(x, 0.0),
        lower_resolution(x, 0.0),
        shade(x, torch.ones(size), 0.0),
        acquire_moving(torch.stack([x, 0 * x]), torch.zeros(size[0], dtype=torch.long)),
    )
    for y in unchanged:
        torch.testing.assert_close(y, x, atol=1e-5, rtol=1e-5)


def test_a_whole_period_of_pulsation_is_two_ghosts_of_half_the_strength():
    x = image(12, 10)
    ghosts = 0.2 * (torch.roll(x, 3, 0) + torch.roll(x, -3, 0))
    torch.testing.assert_close(add_ghosts(x, 0.4, period=4.0), x + ghosts, atol=1e-5, rtol=1e-5)


def test_wrapping_by_whole_rows_is_a_roll_and_keeps_energy_in_between():
    x = image(12, 10)
    torch.testing.assert_close(wrap_around(x, 3.0), torch.roll(x, 3, 0), atol=1e-5, rtol=1e-5)
    half = wrap_around(image(11, 9), 0.5)
    torch.testing.assert_close(half.norm(), image(11, 9).norm())


def test_a_spike_is_a_wave_of_one_frequency():
    x = image(12, 10)
    kspace = centered_fft(add_spike(x, 0.5, (2, -3), phase=1.0) - x, 2)
    height = 0.5 * centered_fft(x, 2).abs().max()
    assert kspace.abs().argmax() == (6 + 2) * 10 + 5 - 3
    torch.testing.assert_close(kspace.abs().max(), height, atol=1e-4, rtol=1e-4)
    assert float(kspace.abs().sum() - kspace.abs().max()) < 1e-3
    assert float(kspace.flatten()[kspace.abs().argmax()].angle()) == pytest.approx(1.0, abs=1e-4)


def test_smoothing_a_wave_scales_it_by_the_gaussian():
    wave = torch.exp(2j * math.pi * 3 * torch.arange(16) / 16)[:, None].expand(16, 8).clone()
    factor = math.exp(-2 * (math.pi * 0.7 * 3 / 16) ** 2)
    torch.testing.assert_close(lower_resolution(wave, 0.7), factor * wave, atol=1e-5, rtol=1e-5)


def test_a_pose_in_all_lines_is_the_image_of_that_pose():
    poses = torch.stack([image(), image().flip(0)])
    whole = acquire_moving(poses, torch.ones(12, dtype=torch.long))
    torch.testing.assert_close(whole, poses[1], atol=1e-5, rtol=1e-5)
    mixed = centered_fft(acquire_moving(poses, torch.arange(12) // 6), 2)
    torch.testing.assert_close(mixed[:6], centered_fft(poses[0], 2)[:6], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed[6:], centered_fft(poses[1], 2)[6:], atol=1e-5, rtol=1e-5)


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="at least 2 lines"):
        add_ghosts(image(), 0.1, 1.5)
    with pytest.raises(ValueError, match="inside k-space"):
        add_spike(image(), 0.1, (9, 0))
    with pytest.raises(ValueError, match=r"\(P, H, W\)"):
        acquire_moving(image(), torch.zeros(12, dtype=torch.long))
