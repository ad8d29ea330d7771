"""Reconstruction metrics by the definitions of fastMRI: one number for a whole volume, its maximum the data range.

Source: Zbontar et al. 2018, arXiv:1811.08839, section 5. The score of a data set is the mean over its volumes. A number
computed slice by slice, or with another window or data range, is not comparable.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from monai.metrics import CumulativeIterationMetric, do_metric_reduction
from monai.utils import MetricReduction
from torch import Tensor

Volume = np.ndarray | Tensor

WINDOW = 7


def volume_pair(name: str, prediction: Volume, reference: Volume) -> tuple[np.ndarray, np.ndarray]:
    """Return both volumes as float64 arrays (slices, H, W); raise in the name of a metric if they do not fit."""
    x, y = (v.detach().cpu().numpy() if isinstance(v, Tensor) else np.asarray(v) for v in (prediction, reference))
    if x.shape != y.shape or y.ndim not in (2, 3) or y.size == 0:
        raise ValueError(
            f"{name}: 'prediction' and 'reference' must be of one shape (slices, H, W) or (H, W), "
            f"got {x.shape} and {y.shape}"
        )
    if np.iscomplexobj(x) or np.iscomplexobj(y):
        raise ValueError(f"{name}: 'prediction' and 'reference' must be magnitudes, got {x.dtype} and {y.dtype}")
    x, y = (v.astype(np.float64, copy=False).reshape(-1, *y.shape[-2:]) for v in (x, y))
    return x, y


def peak_of(name: str, reference: np.ndarray, data_range: float | None) -> float:
    """Return the data range, if none is given the reference's maximum; raise in the name of a metric if it is wrong."""
    if data_range is not None and not data_range > 0:
        raise ValueError(f"{name}: 'data_range' must be positive, got {data_range}")
    return float(reference.max()) if data_range is None else float(data_range)


def nmse(prediction: Volume, reference: Volume) -> float:
    r"""Normalised mean squared error of a volume: :math:`\|p - r\|^2 / \|r\|^2`.

    Args:
        prediction: magnitudes, real, ``(slices, H, W)`` or ``(H, W)``, any unit.
        reference: what they should be, same shape and unit.

    Returns:
        At least 0, no unit; NaN where the reference is 0 everywhere.

    Raises:
        ValueError: if the shapes differ or values are complex.

    Example:
        >>> nmse(np.full((2, 8, 8), 0.5), np.ones((2, 8, 8)))
        0.25
    """
    x, y = volume_pair("nmse", prediction, reference)
    energy = float(np.vdot(y, y))
    return float(np.square(x - y).sum()) / energy if energy > 0 else float("nan")


def psnr(prediction: Volume, reference: Volume, data_range: float | None = None) -> float:
    r"""Peak signal-to-noise ratio of a volume: :math:`10 \log_{10}(R^2 / \mathrm{mean}((p - r)^2))`.

    Args:
        prediction: magnitudes, real, ``(slices, H, W)`` or ``(H, W)``, any unit.
        reference: what they should be, same shape and unit.
        data_range: :math:`R`, in that unit; ``None``: the maximum of the whole reference, as fastMRI.

    Returns:
        dB; infinity where both are equal, NaN where the reference is 0 everywhere.

    Raises:
        ValueError: if the shapes differ, values are complex, or ``data_range`` is not positive.

    Example:
        >>> psnr(np.full((2, 8, 8), 0.9), np.ones((2, 8, 8)))
        20.0
    """
    x, y = volume_pair("psnr", prediction, reference)
    peak = peak_of("psnr", y, data_range)
    error = float(np.square(x - y).mean())
    if peak <= 0:
        return float("nan")
    return float("inf") if error == 0 else float(10 * np.log10(peak**2 / error))


def _window_sums(x: np.ndarray) -> np.ndarray:
    """Sums over all 7 x 7 windows of an image (H, W), by doubling: 4 additions an axis, none of which cancels."""
    for axis in (0, 1):
        x = np.moveaxis(x, axis, 0)
        two = x[:-1] + x[1:]
        four = two[:-2] + two[2:]
        x = np.moveaxis(four[:-3] + two[4:-1] + x[6:], 0, axis)
    return x


def _slice_ssim(x: np.ndarray, y: np.ndarray, data_range: float) -> float:
    n = WINDOW**2
    mean_x, mean_y = _window_sums(x) / n, _window_sums(y) / n
    product = mean_x * mean_y
    energy = mean_x * mean_x + mean_y * mean_y
    # Sample covariances; the two variances only ever appear as their sum.
    covariance = (_window_sums(x * y) - n * product) / (n - 1)
    variances = (_window_sums(x * x + y * y) - n * energy) / (n - 1)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    index = (2 * product + c1) * (2 * covariance + c2) / ((energy + c1) * (variances + c2))
    return float(index.mean())


def ssim(prediction: Volume, reference: Volume, data_range: float | None = None) -> float:
    """Structural similarity of a volume: the mean over slices of the index of Wang et al. 2004, as fastMRI computes it.

    Windows of 7 x 7 with equal weights inside the image, sample covariance, constants 0.01 and 0.03, computed in double
    precision; equal to ``skimage.metrics.structural_similarity`` with ``win_size=7`` for each slice.

    Args:
        prediction: magnitudes, real, ``(slices, H, W)`` or ``(H, W)``, at least 7 x 7, any unit.
        reference: what they should be, same shape and unit.
        data_range: in that unit; ``None``: the maximum of the whole reference, as fastMRI.

    Returns:
        At most 1, no unit; NaN where the reference is 0 everywhere.

    Raises:
        ValueError: if the shapes differ, slices are smaller than 7 x 7, values are complex, or ``data_range`` is not
            positive.

    Example:
        >>> ssim(np.eye(16), np.eye(16))
        1.0
    """
    x, y = volume_pair("ssim", prediction, reference)
    if min(y.shape[1:]) < WINDOW:
        raise ValueError(f"ssim: slices must be at least {WINDOW} x {WINDOW}, got {y.shape[1:]}")
    peak = peak_of("ssim", y, data_range)
    if peak <= 0:
        return float("nan")
    with ThreadPoolExecutor(min(len(y), os.cpu_count() or 1, 8)) as pool:
        return float(np.mean(list(pool.map(_slice_ssim, x, y, [peak] * len(y)))))


def _magnitude(name: str, argument: str, x: Tensor) -> np.ndarray:
    """Channels (C, H, W[, S]) to magnitudes (slices, H, W): of the first two channels, or of a single one."""
    if x.is_complex() or x.ndim not in (3, 4):
        raise ValueError(f"{name}: '{argument}' must be real (B, C, H, W[, S]), got {x.dtype} and {x.ndim + 1} axes")
    magnitude = torch.linalg.vector_norm(x[:2].detach().to(torch.float64), dim=0).cpu().numpy()
    return magnitude[None] if magnitude.ndim == 2 else np.moveaxis(magnitude, -1, 0)


class VolumeMetric(CumulativeIterationMetric):
    """A metric of volumes for MONAI's engines: one number for each item of a batch, then their mean.

    Compares the magnitude of ``pred``, channels Re and Im (or one channel of magnitudes), with that of the first two
    channels of ``target``. Feed whole volumes ``(B, C, H, W, S)`` for fastMRI's numbers; a slice ``(B, C, H, W)``
    counts as a volume of one.

    Args:
        reduction: how :meth:`aggregate` joins the items, as in MONAI's metrics.
    """

    def __init__(self, reduction: MetricReduction | str = MetricReduction.MEAN) -> None:
        super().__init__()
        self.reduction = reduction

    @abstractmethod
    def _compute_volume(self, prediction: np.ndarray, reference: np.ndarray) -> float:
        """Compare magnitudes (slices, H, W)."""

    def _compute_tensor(self, y_pred: Tensor, y: Tensor | None = None, **kwargs: Any) -> Tensor:
        name = type(self).__name__
        if y is None or len(y) != len(y_pred):
            raise ValueError(f"{name}: 'y' must hold a reference for each item of 'y_pred'")
        values = [
            self._compute_volume(_magnitude(name, "y_pred", p), _magnitude(name, "y", r))
            for p, r in zip(y_pred, y, strict=True)
        ]
        return torch.tensor(values, dtype=torch.float32, device=y_pred.device)[:, None]

    def aggregate(self, reduction: MetricReduction | str | None = None) -> Tensor:
        """Join what was accumulated since the last ``reset``; items that are NaN do not count.

        Args:
            reduction: overrides that of the constructor.

        Returns:
            0-dim tensor for ``"mean"``.
        """
        buffer = self.get_buffer()
        if not isinstance(buffer, Tensor):
            raise ValueError(f"{type(self).__name__}: nothing was accumulated before 'aggregate'")
        return do_metric_reduction(buffer, reduction or self.reduction)[0]


class VolumeNMSE(VolumeMetric):
    """:func:`nmse` for MONAI's engines, see :class:`VolumeMetric`.

    Args:
        reduction: how :meth:`aggregate` joins the items, as in MONAI's metrics.

    Example:
        >>> VolumeNMSE()(torch.zeros(1, 2, 8, 8), torch.ones(1, 4, 8, 8))
        tensor([[1.]])
    """

    def _compute_volume(self, prediction: np.ndarray, reference: np.ndarray) -> float:
        return nmse(prediction, reference)


class VolumePSNR(VolumeMetric):
    """:func:`psnr` in dB for MONAI's engines, see :class:`VolumeMetric`.

    Args:
        reduction: how :meth:`aggregate` joins the items, as in MONAI's metrics.

    Example:
        >>> VolumePSNR()(torch.full((1, 2, 8, 8), 0.9), torch.ones(1, 4, 8, 8))
        tensor([[20.0000]])
    """

    def _compute_volume(self, prediction: np.ndarray, reference: np.ndarray) -> float:
        return psnr(prediction, reference)


class VolumeSSIM(VolumeMetric):
    """:func:`ssim` for MONAI's engines, see :class:`VolumeMetric`.

    Args:
        reduction: how :meth:`aggregate` joins the items, as in MONAI's metrics.

    Example:
        >>> VolumeSSIM()(torch.ones(1, 2, 8, 8), torch.ones(1, 4, 8, 8))
        tensor([[1.]])
    """

    def _compute_volume(self, prediction: np.ndarray, reference: np.ndarray) -> float:
        return ssim(prediction, reference)
