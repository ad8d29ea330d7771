"""Error of edges and fine structure alone: HFEN, the norm behind a Laplacian of Gaussian."""

from __future__ import annotations

import math

import numpy as np

from medkit.mri.metrics import Volume, VolumeMetric, volume_pair

SIZE, SIGMA = 15, 1.5  # pixels
ROUNDING = 1e-12  # a flat reference leaves this share of its norm behind the filter, and no more


def hfen(prediction: Volume, reference: Volume) -> float:
    r"""High-frequency error norm of a volume: :math:`\|L p - L r\|_2 / \|L r\|_2`, the norms over all its slices.

    :math:`L` is a Laplacian of Gaussian of 15 x 15 pixels with :math:`\sigma = 1.5` and sum 0, applied to each slice:
    the kernel of MATLAB's ``fspecial('log', 15, 1.5)``. At the edges slices are continued by their mirror image, with
    the edge pixel twice, so that a constant brightness counts for nothing.

    Source: Ravishankar & Bresler 2011, doi:10.1109/TMI.2010.2090538, who give the norm of the difference without
    dividing it.

    Args:
        prediction: magnitudes, real, ``(slices, H, W)`` or ``(H, W)``, any unit.
        reference: what they should be, same shape and unit.

    Returns:
        At least 0, no unit; 1 for an empty prediction; NaN where each slice of the reference is flat.

    Raises:
        ValueError: if the shapes differ or values are complex.

    Example:
        >>> hfen(np.zeros((16, 16)), np.eye(16))
        1.0
    """
    x, y = volume_pair("hfen", prediction, reference)
    # The filter is linear: that of the difference is the difference of what is filtered.
    error, norm = (math.sqrt(sum(float(np.square(_edges(one)).sum()) for one in volume)) for volume in (x - y, y))
    return error / norm if norm > ROUNDING * float(np.linalg.norm(y)) else math.nan


def _edges(image: np.ndarray) -> np.ndarray:
    """Laplacian of the Gaussian whose sum is 1 in 15 x 15 pixels, less the kernel's mean; of an image (H, W)."""
    from scipy.ndimage import correlate1d, uniform_filter

    place = np.arange(SIZE) - SIZE // 2
    gaussian = np.exp(-(place**2) / (2 * SIGMA**2))
    gaussian /= gaussian.sum()
    second = gaussian * (place**2 - SIGMA**2) / SIGMA**4
    # (x^2 + y^2 - 2 sigma^2) g(x) g(y) is the sum of a second derivative along each axis, smoothed along the other one.
    parts = [correlate1d(correlate1d(image, second, axis=axis), gaussian, axis=1 - axis) for axis in (0, 1)]
    return parts[0] + parts[1] - 2 * second.sum() * uniform_filter(image, SIZE)


class VolumeHFEN(VolumeMetric):
    """:func:`hfen` for MONAI's engines, see :class:`VolumeMetric`.

    Args:
        reduction: how :meth:`aggregate` joins the items, as in MONAI's metrics.

    Example:
        >>> VolumeHFEN()(torch.zeros(1, 2, 8, 8), torch.eye(8).expand(1, 4, 8, 8))
        tensor([[1.]])
    """

    def _compute_volume(self, prediction: np.ndarray, reference: np.ndarray) -> float:
        return hfen(prediction, reference)
