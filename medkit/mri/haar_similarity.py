"""Similarity of images as people judge it, from their Haar wavelet coefficients: HaarPSI."""

from __future__ import annotations

import math

import numpy as np

from medkit.mri.metrics import Volume, VolumeMetric, peak_of, volume_pair

C, ALPHA = 30.0, 4.2  # as fitted in the paper to people's judgements of images on the scale 0 to 255
WHITE = 255.0
SMALLEST = 16  # the coarsest filter, 8 x 8, on every second pixel


def haarpsi(prediction: Volume, reference: Volume, data_range: float | None = None) -> float:
    r"""Haar wavelet-based perceptual similarity index of a volume: the mean over its slices.

    A slice is taken on the scale 0 to 255, averaged over 2 x 2 pixels, and every second pixel of it is kept. Haar
    filters of 2 x 2, 4 x 4 and 8 x 8 find horizontal and vertical edges. At each pixel and in each direction the two
    fine scales tell how similar both images are, :math:`s = (2ab + C) / (a^2 + b^2 + C)`, and the coarse scale how much
    that matters. With the logistic function :math:`l_\alpha(s) = 1 / (1 + e^{-\alpha s})`, the index is
    :math:`l_\alpha^{-1}` of the weighted mean of :math:`l_\alpha(s)`, squared. Outside the image is 0. Nothing is
    clipped or rounded.

    Source: Reisenhofer et al. 2018, doi:10.1016/j.image.2017.11.001; :math:`C = 30`, :math:`\alpha = 4.2`. It was
    fitted to photographs, so it ranks reconstructions, but no value of it means that one can be read.
    *Checked* against the library piq.

    Args:
        prediction: magnitudes, real, ``(slices, H, W)`` or ``(H, W)``, at least 16 x 16, any unit.
        reference: what they should be, same shape and unit.
        data_range: what counts as 255, in that unit; ``None``: the maximum of the whole reference. With a given one,
            prediction and reference may change places.

    Returns:
        0 to 1, where 1 is equal, no unit; a slice that is 0 in both is equal. NaN where the reference is 0 everywhere,
        if no ``data_range`` is given.

    Raises:
        ValueError: if the shapes differ, slices are smaller than 16 x 16, values are complex, or ``data_range`` is not
            positive.

    Example:
        >>> haarpsi(np.eye(16), np.eye(16))
        1.0
    """
    x, y = volume_pair("haarpsi", prediction, reference)
    if min(y.shape[1:]) < SMALLEST:
        raise ValueError(f"haarpsi: slices must be at least {SMALLEST} x {SMALLEST}, got {y.shape[1:]}")
    peak = peak_of("haarpsi", y, data_range)
    if peak <= 0:
        return math.nan
    x, y = x * (WHITE / peak), y * (WHITE / peak)
    return float(np.mean([_slice_similarity(a, b) for a, b in zip(x, y, strict=True)]))


def _slice_similarity(x: np.ndarray, y: np.ndarray) -> float:
    x, y = _halved(x), _halved(y)
    total = weight_sum = 0.0
    for axis in (0, 1):
        similarity = np.zeros_like(x)
        for size in (2, 4):
            a, b = _edges(x, size, axis), _edges(y, size, axis)
            similarity += (2 * a * b + C) / (a * a + b * b + C) / 2
        weight = np.maximum(_edges(x, 8, axis), _edges(y, 8, axis))
        total += float((weight / (1 + np.exp(-ALPHA * similarity))).sum())
        weight_sum += float(weight.sum())
    if weight_sum == 0:
        return 1.0
    mean = total / weight_sum
    return (math.log(mean / (1 - mean)) / ALPHA) ** 2


def _halved(image: np.ndarray) -> np.ndarray:
    """Means over 2 x 2 pixels; of an odd last row or column with 0."""
    image = np.pad(image, [(0, n % 2) for n in image.shape])
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def _edges(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Magnitude of the Haar coefficients whose filter changes its sign along an axis, one for each pixel."""
    from scipy.ndimage import correlate1d

    step = np.repeat([1.0, -1.0], size // 2)
    for along, line in ((axis, step), (1 - axis, np.ones(size))):
        # The pixel is left of the middle of the even window, as in MATLAB's conv2(..., 'same').
        image = correlate1d(image, line, axis=along, mode="constant", origin=-1)
    return np.abs(image) / size


class VolumeHaarPSI(VolumeMetric):
    """:func:`haarpsi` for MONAI's engines, see :class:`VolumeMetric`.

    Args:
        reduction: how :meth:`aggregate` joins the items, as in MONAI's metrics.

    Example:
        >>> VolumeHaarPSI()(torch.ones(1, 2, 16, 16), torch.ones(1, 4, 16, 16))
        tensor([[1.]])
    """

    def _compute_volume(self, prediction: np.ndarray, reference: np.ndarray) -> float:
        return haarpsi(prediction, reference)
