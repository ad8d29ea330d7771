"""Noise by its laws: moments in closed form, doses that nest, replay at another level, HU without bias."""

import math

import numpy as np
import pytest
import torch
from scipy.special import ndtr
from scipy.stats import poisson

from medkit.denoise import count_noise, dose_noise, gaussian_noise, magnitude_noise, poisson_quantile, sinogram_size


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(float((a - b).double().square().mean()))


@pytest.mark.parametrize(
    ("sigma", "decibels"), [(10, 28.13), (15, 24.61), (25, 20.17), (30, 18.59), (50, 14.15), (70, 11.23), (75, 10.63)]
)
def test_gaussian_noise_has_the_psnr_of_its_sigma(sigma, decibels):
    x = torch.rand(500, 500, generator=torch.Generator().manual_seed(1))
    assert psnr(gaussian_noise(x, sigma / 255, normal(500, 500)), x) == pytest.approx(decibels, abs=0.02)


@pytest.mark.parametrize(("sigma", "gain"), [(15, 0.28), (25, 0.48), (50, 1.02), (75, 1.63)])
def test_files_of_8_bits_flatter_the_noisy_image(sigma, gain):
    x = torch.linspace(0, 1, 256).repeat(1000, 1)
    field = normal(1000, 256)
    clipped = gaussian_noise(x, sigma / 255, field, "uint8_clip")
    assert psnr(clipped, x) - psnr(gaussian_noise(x, sigma / 255, field), x) == pytest.approx(gain, abs=0.03)
    assert torch.equal((clipped * 255).round() / 255, clipped)
    assert clipped.min() == 0
    assert clipped.max() == 1
    if sigma == 50:
        assert float((clipped - x)[:, :20].mean()) * 255 == pytest.approx(15, abs=1.5)


def test_rician_noise_has_the_moments_of_rayleigh_and_rice():
    sigma, field = 0.3, normal(2, 400_000)
    air = magnitude_noise(torch.zeros(400_000), sigma, field).double()
    assert float(air.mean()) == pytest.approx(math.sqrt(math.pi / 2) * sigma, rel=3e-3)
    assert float(air.var()) == pytest.approx((2 - math.pi / 2) * sigma**2, rel=6e-3)
    for signal in (0.0, 0.2, 1.0, 3.0):
        noisy = magnitude_noise(torch.full((400_000,), signal), sigma, field).double()
        assert float(noisy.square().mean()) == pytest.approx(signal**2 + 2 * sigma**2, rel=5e-3)
    assert float(noisy.mean() - 3) == pytest.approx(0.05 * sigma, abs=0.005 * sigma)  # at 10 sigma


@pytest.mark.parametrize("n_coils", [1, 2, 8])
def test_coils_give_non_central_chi(n_coils):
    sigma, signal, field = 0.3, 0.8, normal(2 * n_coils, 200_000)
    energy = magnitude_noise(torch.full((200_000,), signal), sigma, field).double().square() / sigma**2
    ratio = (signal / sigma) ** 2  # non-centrality; mean k + λ and variance 2 (k + 2 λ)
    assert float(energy.mean()) == pytest.approx(2 * n_coils + ratio, rel=5e-3)
    assert float(energy.var()) == pytest.approx(2 * (2 * n_coils + 2 * ratio), rel=2e-2)
    assert torch.equal(
        magnitude_noise(torch.ones(1), 0.0, field[:, :1]), torch.full((1,), n_coils**-0.5) * n_coils**0.5
    )


def test_noise_may_differ_from_place_to_place():
    sigma = torch.tensor([0.1, 0.5])
    noisy = gaussian_noise(torch.zeros(100_000, 2), sigma, normal(100_000, 2))
    assert torch.allclose(noisy.std(0), sigma, rtol=0.02)


@pytest.mark.parametrize("rate", [0.0, 0.3, 7.0, 49.0, 51.0, 200.0, 1e5])
def test_quantiles_of_counts(rate):
    field = torch.linspace(-4, 4, 2001)
    counts = poisson_quantile(torch.full((2001,), rate), field)
    exact = poisson.ppf(ndtr(field.double().numpy()), rate)
    assert np.abs(counts.numpy() - exact).max() <= (0 if rate < 50 else 1)
    drawn = poisson_quantile(torch.full((300_000,), rate), normal(300_000))
    assert float(drawn.mean()) == pytest.approx(rate, abs=4 * math.sqrt(rate / 300_000))
    assert float(drawn.var()) == pytest.approx(rate, rel=0.02)


def test_counts_scatter_as_one_over_the_peak_and_more_of_them_is_the_same_noise():
    x, field = torch.full((200_000,), 0.4), normal(200_000)
    few, many = (count_noise(x, peak, field) for peak in (20.0, 2000.0))
    for noisy, peak in ((few, 20.0), (many, 2000.0)):
        assert float(noisy.mean()) == pytest.approx(0.4, rel=2e-3)
        assert float(noisy.var()) == pytest.approx(0.4 / peak, rel=0.02)
    assert float(torch.corrcoef(torch.stack([few, many]))[0, 1]) > 0.98


def cylinder(n: int = 64, spacing: float = 4.0, insert: float = 0.0) -> torch.Tensor:
    """Water, 160 mm wide, in air; ``insert`` HU in the middle."""
    r = (torch.arange(n) - n / 2 + 0.5) * spacing
    radius = torch.hypot(r[:, None], r[None])
    return torch.where(radius < 80, torch.where(radius < 20, insert, 0.0), -1000.0)


def noises(image: torch.Tensor, dose: float, n: int = 30, **options) -> torch.Tensor:
    size = sinogram_size(*image.shape, n_views=30)
    return torch.stack(
        [dose_noise(image, dose, normal(*size, seed=i), pixel_spacing=4.0, **options) - image for i in range(n)]
    )


def test_dose_keeps_the_mean_in_hu():
    x = cylinder()
    noise = noises(x, 1.0, photons=1e6)
    middle = noise[:, 24:40, 24:40]
    # 30 images, correlated pixels: the mean of each image scatters, so judge by the scatter of these means.
    means = middle.mean((1, 2))
    assert abs(float(means.mean())) < 4 * float(means.std()) / 30**0.5
    assert abs(float(means.mean())) < 0.1 * float(middle.std())
    padded = torch.full_like(x, -3000.0)
    assert float((dose_noise(padded, 1.0, normal(*sinogram_size(64, 64, 30))) - padded).abs().max()) < 100


def test_variance_is_one_over_the_dose_and_the_field_is_the_same_noise():
    x = cylinder()
    full, quarter = noises(x, 1.0, n=8), noises(x, 0.25, n=8)
    assert float(quarter.var() / full.var()) == pytest.approx(4, rel=0.02)
    assert float(torch.corrcoef(torch.stack([full.flatten(), quarter.flatten()]))[0, 1]) > 0.99
    missing = noises(x, 0.25, n=8, measured=True)
    assert float(missing.var() / quarter.var()) == pytest.approx(0.75, rel=1e-3)
    assert float(noises(x, 1.0, n=1, measured=True).abs().max()) == 0


def test_noise_of_air_is_that_of_filtered_back_projection():
    # Ramp filter up to Nyquist, no attenuation: variance π² / (12 I0 Δ²). Linear interpolation on the detector
    # keeps 1 - (1 - cos 2πf) / 3 of it on average over positions, 2/3 - 2/π² after weighing with f².
    photons, spacing = 1e8, 4.0
    noise = noises(torch.full((64, 64), -1000.0), 1.0, n=4, photons=photons, kernel="ramp")[:, 16:48, 16:48]
    expected = math.pi / math.sqrt(12 * photons) / spacing / 0.0193 * 1000
    assert float(noise.std()) / expected == pytest.approx(math.sqrt(2 / 3 - 2 / math.pi**2), rel=0.08)


def test_bone_makes_more_noise_and_the_number_of_views_does_not():
    water, bone = noises(cylinder(), 1.0, n=4), noises(cylinder(insert=2000.0), 1.0, n=4)
    assert float(bone[:, 28:36, 28:36].std() / water[:, 28:36, 28:36].std()) > 1.3
    x = cylinder()
    more = [dose_noise(x, 1.0, normal(*sinogram_size(64, 64, 90), seed=i), pixel_spacing=4.0) - x for i in range(4)]
    assert float(torch.stack(more).std() / water.std()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("size", [(40, 64), (63, 20), (1, 5), (150, 31)])
def test_slices_need_not_be_square(size):
    x = torch.zeros(size)
    noisy = dose_noise(x, 1.0, normal(*sinogram_size(*size, n_views=8)))
    assert noisy.shape == size
    assert torch.isfinite(noisy).all()
    assert noisy.std() > 0


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: gaussian_noise(torch.ones(3), -1, torch.ones(3)),
            "gaussian_noise: 'sigma' must be at least 0, got -1",
        ),
        (lambda: gaussian_noise(torch.ones(3), math.nan, torch.ones(3)), "'sigma' must be at least 0, got nan"),
        (lambda: gaussian_noise(torch.ones(3), 1, torch.ones(4)), r"'field' must be \(3,\), got \(4,\)"),
        (lambda: gaussian_noise(torch.ones(3), 1, torch.ones(3), "int"), "'noise_mode' must be one of"),
        (lambda: magnitude_noise(torch.ones(3), 1, torch.ones(3, 3)), "two fields for each coil, got 3"),
        (lambda: count_noise(torch.ones(3), 0, torch.ones(3)), "'peak' must be positive, got 0"),
        (lambda: count_noise(-torch.ones(3), 9, torch.ones(3)), "'image' must be at least 0 everywhere, got -1"),
        (lambda: dose_noise(torch.ones(1, 4, 4), 1, torch.ones(6, 8)), r"must be one slice \(H, W\)"),
        (lambda: dose_noise(torch.ones(4, 4), 1, torch.ones(5, 8)), r"'field' must be \(6, 8\), got \(5, 8\)"),
        (lambda: dose_noise(torch.ones(4, 4), 0, torch.ones(6, 8)), "'dose' must be positive"),
        (lambda: dose_noise(torch.ones(4, 4), 2, torch.ones(6, 8), measured=True), "'dose' must be at most 1"),
        (lambda: dose_noise(torch.ones(4, 4), 1, torch.ones(6, 8), photons=0), "'photons' must be positive"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
