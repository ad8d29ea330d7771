"""How noisy an image is, from the image alone."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.special import gammainc, gammaincinv
from skimage.restoration import estimate_sigma
from torch import Tensor

_MAX_ZEROS = 0.02  # share of exact zeros above which a background was masked
_KEPT = 0.9  # share of the background below the threshold of background_sigma


def white_noise_sigma(image: Tensor) -> Tensor:
    """Estimate the standard deviation of white Gaussian noise from the finest wavelet coefficients.

    scikit-image's ``estimate_sigma`` for each channel: the median of the diagonal coefficients. Within 5 % on smooth
    images with sides of at least 48 pixels; 7 % too low at 32³ and 11 % at 16³, since coefficients at the border see
    mirrored noise. Too high where fine texture is strong, too low where noise was smoothed, clipped or turned into
    magnitudes of a weak signal.

    Args:
        image: noisy image, real, ``(C, *S)``.

    Returns:
        float32, ``(C,)``, unit of the image.

    Raises:
        ValueError: if the image has no axis in space, or holds NaN or infinity.

    Example:
        >>> image = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> bool((white_noise_sigma(image) - 1).abs() < 0.05)
        True
    """
    array = _array("white_noise_sigma", image)
    if array.ndim < 2 or min(array.shape[1:]) < 2:
        raise ValueError(f"white_noise_sigma: 'image' must be (C, *S) with two pixels a side, got {array.shape}")
    with warnings.catch_warnings():
        # It takes an axis of 3 or 4 slices for colours.
        warnings.filterwarnings("ignore", message="image is size [34] on the last axis")
        return torch.tensor([estimate_sigma(channel) for channel in array], dtype=torch.float32)


def background_sigma(image: Tensor, mask: Tensor | None = None, n_coils: int = 1) -> float:
    r"""Estimate the noise of a magnitude image from the air around the object.

    Where there is no signal, squared magnitudes over :math:`\sigma^2` follow a χ² distribution with two degrees of
    freedom for each coil, whose mean is :math:`2 L`. Without a mask, the background is what lies below the 90th
    percentile of that distribution, found by iteration from the darkest pixels on. Within 5 % where at least a third
    of the image is air.

    Args:
        image: magnitude, real, at least 0, any shape.
        mask: true in the air, shape of ``image``; ``None``: found by itself.
        n_coils: L, coils that a root sum of squares combined; 1 is Rician.

    Returns:
        Standard deviation of the noise's real part, unit of the image.

    Raises:
        ValueError: if ``n_coils`` is less than 1, shapes differ, the mask is empty, the image is negative somewhere, or
            its background is exactly 0, as after masking.

    Example:
        >>> noise = torch.randn(2, 64, 64, generator=torch.Generator().manual_seed(0))
        >>> abs(background_sigma(noise.square().sum(0).sqrt()) - 1) < 0.05
        True
    """
    array = _array("background_sigma", image)
    if n_coils < 1:
        raise ValueError(f"background_sigma: 'n_coils' must be at least 1, got {n_coils}")
    if array.size == 0 or array.min() < 0:
        raise ValueError("background_sigma: 'image' must be a magnitude, at least 0 everywhere")
    if mask is not None:
        if mask.shape != image.shape or not bool(mask.any()):
            raise ValueError(
                f"background_sigma: 'mask' must be true somewhere and {tuple(image.shape)}, got {tuple(mask.shape)} "
                f"with {int(mask.sum())} true"
            )
        return float(np.sqrt((array[mask.detach().cpu().numpy().astype(bool)] ** 2).mean() / (2 * n_coils)))
    zeros = float((array == 0).mean())
    if zeros > _MAX_ZEROS:
        raise ValueError(
            f"background_sigma: {zeros:.0%} of 'image' is exactly 0: its background was masked and has no noise to "
            "measure; give the mask of what was not, or use white_noise_sigma"
        )
    energy = np.sort((array**2).ravel())
    # Half of a χ² variable of 2 L degrees of freedom is a Gamma variable of order L: its quantile, and its mean below
    # that, E[x; x < t] = L P(L + 1, t).
    limit = 2 * gammaincinv(n_coils, _KEPT)
    mean_below = 2 * n_coils * gammainc(n_coils + 1, limit / 2) / _KEPT
    cumulative = np.cumsum(energy)
    variance = energy[len(energy) // 20] / (2 * gammaincinv(n_coils, 0.1))
    for _ in range(100):
        n = max(int(np.searchsorted(energy, limit * variance)), 1)
        updated = cumulative[n - 1] / n / mean_below
        if abs(updated - variance) <= 1e-6 * variance:
            break
        variance = updated
    return float(np.sqrt(variance))


def _array(name: str, image: Tensor) -> np.ndarray:
    array = image.detach().cpu().double().numpy()
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: 'image' must be finite, got NaN or infinity")
    return array
