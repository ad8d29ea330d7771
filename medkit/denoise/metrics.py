"""Errors in Hounsfield units, and the power spectrum of noise; PSNR and SSIM are MONAI's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from monai.metrics import RMSEMetric
from monai.metrics.regression import RegressionMetric
from torch import Tensor


def _checked_scale(name: str, hu_per_unit: float) -> float:
    if not hu_per_unit > 0:
        raise ValueError(f"{name}: 'hu_per_unit' must be positive, got {hu_per_unit}")
    return float(hu_per_unit)


class HounsfieldRMSE(RMSEMetric):
    """Root mean squared error in HU of images that were scaled for a network, for MONAI's engines.

    Args:
        hu_per_unit: HU for a difference of 1 in the image: the standard deviation, or half the range, that it was
            divided by.
        kwargs: of MONAI's ``RMSEMetric``.

    Raises:
        ValueError: if ``hu_per_unit`` is not positive.

    Example:
        >>> HounsfieldRMSE(1000.0)(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.02))
        tensor([[20.]])
    """

    def __init__(self, hu_per_unit: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hu_per_unit = _checked_scale("HounsfieldRMSE", hu_per_unit)

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        return super()._compute_metric(y_pred, y) * self.hu_per_unit


class HounsfieldBias(RegressionMetric):
    """Mean of the difference to the reference in HU: positive where the denoiser brightens.

    Args:
        hu_per_unit: as in :class:`HounsfieldRMSE`.
        kwargs: of MONAI's regression metrics: ``reduction``, ``get_not_nans``.

    Raises:
        ValueError: if ``hu_per_unit`` is not positive.

    Example:
        >>> HounsfieldBias(1000.0)(torch.zeros(1, 1, 4, 4), torch.full((1, 1, 4, 4), 0.5))
        tensor([[-500.]])
    """

    def __init__(self, hu_per_unit: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hu_per_unit = _checked_scale("HounsfieldBias", hu_per_unit)

    def _compute_metric(self, y_pred: Tensor, y: Tensor) -> Tensor:
        return (y_pred - y).float().flatten(1).mean(1, keepdim=True) * self.hu_per_unit


def noise_power_spectrum(noise: Tensor, spacing: Sequence[float] = (1.0, 1.0)) -> Tensor:
    r"""Return the power spectrum of noise images, averaged over them.

    .. math:: S(f) = \frac{\Delta_h \Delta_w}{H W} \, |\mathrm{DFT}(n - \bar n)|^2

    Its integral over frequency is the variance; white noise has :math:`\sigma^2 \Delta_h \Delta_w` everywhere but at
    frequency 0.

    Args:
        noise: differences of image and reference, or of two scans over :math:`\sqrt 2`, real, ``(…, H, W)``: regions of
            the same size. Each is taken without its mean.
        spacing: height and width of a pixel in mm.

    Returns:
        float64, ``(H, W)``, square of the image's unit times mm², frequency 0 at index 0 as in ``torch.fft.fftfreq``.

    Raises:
        ValueError: if there are no two axes, or a spacing is not positive.
    """
    if noise.ndim < 2 or noise.numel() == 0:
        raise ValueError(f"noise_power_spectrum: 'noise' must be (..., H, W), got {tuple(noise.shape)}")
    _check_spacing("noise_power_spectrum", spacing)
    regions = noise.detach().double().reshape(-1, *noise.shape[-2:])
    regions = regions - regions.mean((1, 2), keepdim=True)
    power = torch.fft.fft2(regions).abs().square().mean(0)
    return power * (spacing[0] * spacing[1] / (noise.shape[-2] * noise.shape[-1]))


def radial_spectrum(
    power: Tensor, spacing: Sequence[float] = (1.0, 1.0), n_bins: int | None = None
) -> tuple[Tensor, Tensor]:
    """Average a spectrum over rings of equal frequency, up to the lower of the two Nyquist frequencies.

    Args:
        power: of :func:`noise_power_spectrum`, ``(H, W)``.
        spacing: height and width of a pixel in mm.
        n_bins: number of rings; ``None``: half the shorter side.

    Returns:
        Frequency in the middle of each ring in cycles per mm, and the mean power there (NaN in an empty ring), both
        float64, ``(n_bins,)``. Frequency 0 is in no ring.

    Raises:
        ValueError: if ``power`` has not two axes, a spacing is not positive, or ``n_bins`` is less than 1.
    """
    if power.ndim != 2:
        raise ValueError(f"radial_spectrum: 'power' must be (H, W), got {tuple(power.shape)}")
    _check_spacing("radial_spectrum", spacing)
    n_bins = max(min(power.shape) // 2, 1) if n_bins is None else n_bins
    if n_bins < 1:
        raise ValueError(f"radial_spectrum: 'n_bins' must be at least 1, got {n_bins}")
    axes = [
        torch.fft.fftfreq(n, step, dtype=torch.float64, device=power.device)
        for n, step in zip(power.shape, spacing, strict=True)
    ]
    radius = torch.hypot(axes[0][:, None], axes[1][None])
    width = 0.5 / max(spacing) / n_bins
    # A frequency on the edge of two rings belongs to the inner one, whatever the last bit says.
    ring = torch.ceil(radius / width - 1e-9).long() - 1
    inside = (ring >= 0) & (ring < n_bins)
    total = torch.zeros(n_bins, dtype=torch.float64, device=power.device)
    count = total.clone()
    total.index_add_(0, ring[inside], power[inside].double())
    count.index_add_(0, ring[inside], torch.ones_like(power[inside], dtype=torch.float64))
    middle = (torch.arange(n_bins, dtype=torch.float64, device=power.device) + 0.5) * width
    return middle, torch.where(count > 0, total / count, math.nan)


def _check_spacing(name: str, spacing: Sequence[float]) -> None:
    if len(spacing) != 2 or min(spacing) <= 0:
        raise ValueError(f"{name}: 'spacing' must be two positive numbers, got {tuple(spacing)}")
