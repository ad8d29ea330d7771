"""Reconstruction metrics as the multi-contrast literature counts them: slice by slice on the scale 0 to 255."""

from __future__ import annotations

import numpy as np

from medkit.mri.metrics import Volume, volume_pair

WHITE = 255.0
WINDOW = 11  # of the Gaussian that skimage takes for sigma 1.5


def slice_metrics(prediction: Volume, reference: Volume) -> dict[str, float]:
    r"""Mean over the slices of PSNR, SSIM and RMSE, where the largest value of the reference volume counts as 255.

    PSNR is :math:`20 \log_{10}(255 / RMSE)`; SSIM has a Gaussian window of 11 x 11 with sigma 1.5, population
    covariance, and counts where the window lies inside the image. Nothing is rounded or clipped. Not comparable with
    :func:`psnr` and :func:`ssim`, which are those of fastMRI.

    Source: the evaluation code of MC-CDic (IJCAI 2023, arXiv 2309.01171), which reads 8-bit images.

    Args:
        prediction: magnitudes, real, ``(slices, H, W)`` or ``(H, W)``, at least 11 x 11, any unit.
        reference: what they should be, same shape and unit.

    Returns:
        ``slice_psnr`` in dB, ``slice_ssim``, and ``slice_rmse`` on the scale 0 to 255. PSNR is infinite where a slice
        is met exactly; all are NaN where the reference is 0 everywhere.

    Raises:
        ValueError: if the shapes differ, slices are too small, or values are complex.

    Example:
        >>> slice_metrics(np.full((2, 16, 16), 0.9), np.ones((2, 16, 16)))["slice_rmse"]
        25.5
    """
    from skimage.metrics import structural_similarity

    x, y = volume_pair("slice_metrics", prediction, reference)
    if min(y.shape[1:]) < WINDOW:
        raise ValueError(f"slice_metrics: slices must be at least {WINDOW} x {WINDOW}, got {y.shape[1:]}")
    peak = float(y.max())
    if peak <= 0:
        return dict.fromkeys(("slice_psnr", "slice_ssim", "slice_rmse"), float("nan"))
    x, y = x * (WHITE / peak), y * (WHITE / peak)
    rmse = np.sqrt(np.square(x - y).mean((1, 2)))
    with np.errstate(divide="ignore"):
        decibels = 20 * np.log10(WHITE / rmse)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": WHITE}
    similarity = [structural_similarity(a, b, **options) for a, b in zip(x, y, strict=True)]
    return {
        "slice_psnr": float(decibels.mean()),
        "slice_ssim": float(np.mean(similarity)),
        "slice_rmse": float(rmse.mean()),
    }
