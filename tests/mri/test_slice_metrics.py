"""Metrics per slice on 0..255: closed forms, a plain computation, and errors."""

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from medkit.mri import slice_metrics


def volumes(n_slices=2, size=(20, 17)):
    random = np.random.default_rng(0)
    reference = random.random((n_slices, *size))
    return reference + 0.1 * random.standard_normal(reference.shape), reference


def plain_ssim(x, y):
    """SSIM by its formula, window by window, where the window lies inside the image."""
    line = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    window = np.outer(line, line) / np.outer(line, line).sum()

    def mean(image):
        return convolve2d(image, window, "valid")

    a, b, c1, c2 = mean(x), mean(y), (0.01 * 255) ** 2, (0.03 * 255) ** 2
    covariance, spread = mean(x * y) - a * b, mean(x * x) + mean(y * y) - a * a - b * b
    return ((2 * a * b + c1) * (2 * covariance + c2) / ((a * a + b * b + c1) * (spread + c2))).mean()


def test_values_are_those_of_the_formulas():
    x, y = volumes()
    gain = 255 / y.max()
    rmse = [np.sqrt(np.mean((gain * (a - b)) ** 2)) for a, b in zip(x, y, strict=True)]
    values = slice_metrics(x, y)
    assert values["slice_rmse"] == pytest.approx(np.mean(rmse))
    assert values["slice_psnr"] == pytest.approx(np.mean([20 * np.log10(255 / one) for one in rmse]))
    assert values["slice_ssim"] == pytest.approx(
        np.mean([plain_ssim(gain * a, gain * b) for a, b in zip(x, y, strict=True)])
    )


def test_slices_count_one_by_one_but_share_their_scale():
    x, y = volumes()
    y[0] *= 0.1
    whole, dark = slice_metrics(x, y), slice_metrics(x[0], y[0])
    assert whole["slice_psnr"] != pytest.approx((dark["slice_psnr"] + slice_metrics(x[1], y[1])["slice_psnr"]) / 2)
    assert slice_metrics(7 * x, 7 * y) == pytest.approx(whole)
    assert slice_metrics(torch.from_numpy(x), torch.from_numpy(y)) == whole


def test_equal_and_empty_volumes():
    _, y = volumes()
    same = slice_metrics(y, y)
    assert (same["slice_psnr"], same["slice_ssim"], same["slice_rmse"]) == (np.inf, pytest.approx(1), 0)
    assert all(np.isnan(value) for value in slice_metrics(y, 0 * y).values())


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.ones((16, 16)), np.ones((16, 15)), "of one shape"),
        (np.ones((10, 16)), np.ones((10, 16)), "at least 11 x 11"),
        (np.ones((16, 16)) + 0j, np.ones((16, 16)), "must be magnitudes"),
    ],
)
def test_wrong_volumes_are_refused(x, y, words):
    with pytest.raises(ValueError, match=words):
        slice_metrics(x, y)
