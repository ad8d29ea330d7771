"""Errors in HU, and spectra: Parseval, white noise is flat, a wave is one line."""

import math

import pytest
import torch

from medkit.denoise import HounsfieldBias, HounsfieldRMSE, noise_power_spectrum, radial_spectrum
from tests.denoise.small_denoisers import image


def test_errors_are_in_hounsfield_units():
    reference = image(2, 1, 6, 5)
    error = torch.stack([torch.full((1, 6, 5), 0.02), torch.full((1, 6, 5), -0.01)])
    error[0, 0, :3] = -0.02
    rmse, bias = HounsfieldRMSE(500.0), HounsfieldBias(500.0)
    for metric, expected in ((rmse, [10.0, 5.0]), (bias, [0.0, -5.0])):
        assert metric(reference + error, reference).flatten().tolist() == pytest.approx(expected, abs=1e-4)
        assert float(metric.aggregate()) == pytest.approx(sum(expected) / 2, abs=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (31, 18)])
def test_the_integral_of_the_spectrum_is_the_variance(size):
    spacing = (0.5, 2.0)
    noise = 3 * torch.randn(4, 2, *size, generator=torch.Generator().manual_seed(0)) + 7
    power = noise_power_spectrum(noise, spacing)
    cell = 1 / (size[0] * spacing[0] * size[1] * spacing[1])  # of one frequency
    variance = noise.double().var((-2, -1), correction=0).mean()
    assert float(power.sum() * cell) == pytest.approx(float(variance), rel=1e-10)
    assert float(power[0, 0]) == pytest.approx(0, abs=1e-20)


def test_white_noise_is_flat():
    noise = 3 * torch.randn(500, 32, 32, generator=torch.Generator().manual_seed(0))
    frequency, power = radial_spectrum(noise_power_spectrum(noise, (0.5, 0.8)), (0.5, 0.8), n_bins=8)
    assert (power / (9 * 0.5 * 0.8)).tolist() == pytest.approx([1] * 8, abs=0.08)
    assert frequency.tolist() == pytest.approx([(i + 0.5) / 16 / 0.8 for i in range(8)])
    blurred = torch.nn.functional.avg_pool2d(noise[:, None], 3, 1)[:, 0]
    _, power = radial_spectrum(noise_power_spectrum(blurred, (0.5, 0.8)), (0.5, 0.8), n_bins=8)
    assert float(power[0] / power[-1]) > 10


def test_a_wave_is_one_line():
    wave = torch.cos(2 * math.pi * 5 * torch.arange(64) / 64).expand(48, 64)
    frequency, power = radial_spectrum(noise_power_spectrum(wave, (1.0, 0.5)), (1.0, 0.5), n_bins=24)
    i = int(power.nan_to_num().argmax())
    assert abs(float(frequency[i]) - 5 / 32) <= 0.5 / 48
    assert float(power.nan_to_num().sum() - power[i]) < 1e-9 * float(power[i])


def test_rings_average_what_they_hold():
    flat = torch.full((20, 31), 2.5)
    assert radial_spectrum(flat)[1].tolist() == pytest.approx([2.5] * 10)
    many = radial_spectrum(flat, n_bins=200)[1]
    assert bool(many.isnan().any())
    assert many[~many.isnan()].tolist() == pytest.approx([2.5] * int((~many.isnan()).sum()))
    assert noise_power_spectrum(torch.ones(1, 1)).shape == (1, 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: HounsfieldRMSE(0), "HounsfieldRMSE: 'hu_per_unit' must be positive, got 0"),
        (lambda: HounsfieldBias(-1), "HounsfieldBias: 'hu_per_unit' must be positive"),
        (lambda: noise_power_spectrum(torch.ones(4)), r"'noise' must be \(..., H, W\), got \(4,\)"),
        (lambda: noise_power_spectrum(torch.ones(4, 4), (1.0,)), "'spacing' must be two positive numbers"),
        (lambda: radial_spectrum(torch.ones(1, 4, 4)), r"'power' must be \(H, W\), got \(1, 4, 4\)"),
        (lambda: radial_spectrum(torch.ones(4, 4), (1.0, -1.0)), "'spacing' must be two positive numbers"),
        (lambda: radial_spectrum(torch.ones(4, 4), n_bins=0), "'n_bins' must be at least 1"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
