"""Intensities on one scale: exact for rising curves, blind to the background, monotone, and safe for what is empty."""

import numpy as np
import pytest
import torch

from medkit.atlas import bias_corrected, match_intensities, normalised
from tests.atlas.phantom import cohort, correlation
from tests.laws import random_like


def image(seed: int = 0, size=(40, 36)) -> torch.Tensor:
    return random_like(torch.empty(size), seed).sigmoid() + 0.01


@pytest.mark.parametrize("size", [(600,), (40, 36), (12, 11, 10)])
def test_a_straight_line_is_found_exactly(size) -> None:
    x = image(0, size)
    torch.testing.assert_close(match_intensities(x, None, 700 * x - 3, None), 700 * x - 3, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(normalised(700 * x + 20), normalised(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(match_intensities(x, None, x, None), x, rtol=1e-5, atol=1e-6)


def test_a_rising_curve_is_found_closely_and_closer_with_more_pieces() -> None:
    x, other = image(0, (200, 200)), image(1, (150, 170))
    errors = [float((match_intensities(x, None, other**2, None, n) - x**2).abs().mean()) for n in (4, 16, 64)]
    assert errors[0] > errors[1]
    assert errors[1] < 0.01
    assert errors[2] < 0.01


def test_order_is_kept() -> None:
    x = image().flatten()
    for reference in (image(1).round(decimals=1), image(2) ** 5, torch.tensor([1.0, 1.0, 2.0])):
        order = match_intensities(x, None, reference, None)[x.argsort()]
        assert (order.diff() >= 0).all()
        assert order[0] < order[-1]


def test_percentiles_of_the_object_become_0_and_1_and_beyond_is_cut() -> None:
    x, inside = image(0, (100, 100)), torch.zeros(100, 100)
    inside[20:80, 30:90] = 1
    x = torch.where(inside > 0, x, 50.0)
    scaled = normalised(x, inside)
    object_ = scaled[inside > 0]
    assert (scaled[inside == 0] == 1).all()
    assert scaled.min() >= 0
    assert 0.003 < float((object_ == 0).float().mean()) < 0.008
    assert 0.003 < float((object_ == 1).float().mean()) < 0.008


def test_the_background_does_not_count() -> None:
    x = image()
    for grown in (torch.nn.functional.pad(x, [30, 30, 20, 20]),):
        inside = grown != 0
        assert torch.equal(normalised(grown)[inside].reshape(x.shape), normalised(x))
        assert torch.equal(
            match_intensities(grown, None, 2 * x, None)[inside].reshape(x.shape),
            match_intensities(x, None, 2 * x, None),
        )
        assert not match_intensities(grown, None, 2 * x + 1, None)[~inside].any()
        weight = inside.float()
        assert torch.equal(
            match_intensities(grown, weight, 2 * grown, weight)[inside].reshape(x.shape),
            match_intensities(x, None, 2 * x, None),
        )


def test_outliers_change_little() -> None:
    x = image(0, (100, 100))
    hot = x.clone()
    hot[0, :20] = 1000.0
    assert float((normalised(hot) - normalised(x))[1:].abs().max()) < 0.02
    assert float((match_intensities(hot, None, x, None) - x)[1:].abs().max()) < 0.02


def test_what_is_empty_or_constant_stays_harmless() -> None:
    x, empty, flat = image(), torch.zeros(8, 8), torch.full((8, 8), 3.0)
    for bad in (empty, flat):
        assert not normalised(bad).any()
        assert torch.equal(match_intensities(bad, None, x, None), bad)
        assert torch.equal(match_intensities(x, None, bad, None), x)
    assert torch.equal(match_intensities(x, torch.zeros_like(x), x * 2, None), x)
    steps = torch.tensor([1.0] * 500 + [2.0] * 500)
    assert torch.isfinite(match_intensities(steps, None, image(), None)).all()
    assert match_intensities(image(), None, image(1), None, n_quantiles=2).isfinite().all()


def test_wrong_input_is_refused_in_a_sentence() -> None:
    x = image()
    with pytest.raises(ValueError, match="must be real and finite"):
        normalised(x * torch.nan)
    with pytest.raises(ValueError, match="must be real and finite"):
        normalised(x.long())
    with pytest.raises(ValueError, match="'weight' must be of the image's shape"):
        normalised(x, x[1:])
    with pytest.raises(ValueError, match="'reference_weight' must be of the image's shape"):
        match_intensities(x, None, x, x[1:])
    with pytest.raises(ValueError, match="'n_quantiles' must be at least 2"):
        match_intensities(x, None, x, None, 1)


def test_a_smooth_field_is_taken_out() -> None:
    pytest.importorskip("SimpleITK")
    template = cohort((40, 36, 32), n=2, noise=0.0)[0][0, 0].clamp(min=0)
    template = torch.where(template > 0.05, template, 0.0)
    axes = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in template.shape], indexing="ij")
    dimmed = template * torch.exp(0.4 * axes[0] - 0.3 * axes[1] * axes[2])
    spacing = np.diag([3.0, 3.0, 3.0, 1.0])
    flat = bias_corrected(dimmed, spacing, shrink=2)
    inside = template > 0.05
    before, after = (float((x / template)[inside].std() / (x / template)[inside].mean()) for x in (dimmed, flat))
    assert after < 0.65 * before
    assert correlation(flat[inside], template[inside]) > correlation(dimmed[inside], template[inside])
    assert float(flat[inside].mean()) == pytest.approx(float(dimmed[inside].mean()), rel=1e-3)
    assert not flat[template == 0].any()
    assert torch.equal(flat, bias_corrected(dimmed, spacing, shrink=2))
    assert bias_corrected(dimmed[:, :, 16], np.diag([3.0, 3.0, 1.0]), shrink=1).shape == (40, 36)
    with pytest.raises(ValueError, match="'volume' must be finite, at least 0"):
        bias_corrected(-dimmed, spacing)
    with pytest.raises(ValueError, match="'weight' must be"):
        bias_corrected(dimmed, spacing, torch.zeros_like(dimmed))
