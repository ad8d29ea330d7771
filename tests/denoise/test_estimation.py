"""Noise levels that are known, found again."""

import math

import pytest
import torch

from medkit.denoise import background_sigma, magnitude_noise, white_noise_sigma


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def disc(n: int, share: float) -> torch.Tensor:
    """A disc of brightness 0.3 to 1 that fills a share of the image; the rest is air."""
    r = torch.linspace(-1, 1, n)
    radius = torch.hypot(r[:, None], r[None])
    return torch.where(radius**2 < 4 * share / math.pi, 0.65 + 0.35 * torch.sin(5 * r)[:, None], 0.0)


@pytest.mark.parametrize("sigma", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("size", [(128, 128), (48, 48, 48)])
def test_white_noise_within_5_percent_on_smooth_images(sigma, size):
    ramp = torch.linspace(0, 5, size[0]).reshape(-1, *[1] * (len(size) - 1))
    x = torch.stack([ramp + sigma * normal(*size), ramp + 2 * sigma * normal(*size, seed=1)])
    assert (white_noise_sigma(x) / torch.tensor([sigma, 2 * sigma])).tolist() == pytest.approx([1, 1], abs=0.05)


@pytest.mark.parametrize("n_coils", [1, 8])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.65])
@pytest.mark.parametrize("sigma", [0.005, 0.02, 0.05])
def test_background_within_5_percent_where_a_third_is_air(sigma, share, n_coils):
    x = disc(160, share)
    noisy = magnitude_noise(x, sigma, normal(2 * n_coils, 160, 160))
    assert background_sigma(noisy, n_coils=n_coils) == pytest.approx(sigma, rel=0.05)
    assert background_sigma(noisy, x == 0, n_coils) == pytest.approx(sigma, rel=0.02)


def test_a_magnitude_of_noise_alone_fools_wavelets_and_not_the_background():
    noisy = magnitude_noise(torch.zeros(160, 160), 1.0, normal(2, 160, 160))
    assert float(white_noise_sigma(noisy[None])) == pytest.approx(math.sqrt(2 - math.pi / 2), abs=0.05)
    assert background_sigma(noisy) == pytest.approx(1, rel=0.02)


def test_no_noise_is_zero():
    assert float(white_noise_sigma(torch.ones(1, 8, 8))) < 1e-12
    assert background_sigma(disc(32, 0.3) * 0 + 1e-12) < 1e-11


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: background_sigma(disc(32, 0.3)), "is exactly 0: its background was masked"),
        (lambda: background_sigma(-torch.ones(4, 4)), "at least 0 everywhere"),
        (lambda: background_sigma(torch.ones(4, 4), torch.zeros(4, 4)), "'mask' must be true somewhere"),
        (lambda: background_sigma(torch.ones(4, 4), torch.ones(4)), "'mask' must be true somewhere and"),
        (lambda: background_sigma(torch.ones(4, 4), n_coils=0), "'n_coils' must be at least 1"),
        (lambda: background_sigma(torch.full((4, 4), math.nan)), "must be finite"),
        (lambda: white_noise_sigma(torch.ones(4)), r"must be \(C, \*S\)"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
