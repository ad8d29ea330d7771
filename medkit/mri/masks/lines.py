"""Patterns of whole lines along the last axis: random, equispaced and Gaussian."""

import math

import numpy as np

from medkit.mri.masks.base import Rates, SamplingMask, choose


def line_counts(width: int, fraction: float, rate: float) -> tuple[int, int]:
    """Lines in all and in the centre, of ``width``."""
    n_lines = max(1, round(width / rate))
    return n_lines, min(round(width * fraction), n_lines)


def centre_lines(width: int, n_centre: int) -> np.ndarray:
    """Bool (W,): the ``n_centre`` lines nearest to frequency 0, placed as MONAI places them."""
    lines = np.zeros(width, dtype=bool)
    start = (width - n_centre + 1) // 2
    lines[start : start + n_centre] = True
    return lines


def line_distance(width: int, n_lines: int, n_centre: int) -> int:
    """Distance at which lines beside ``n_centre`` central ones come nearest to ``n_lines``, more than these, in all."""
    wanted = (width - n_centre) / (n_lines - n_centre)
    # Of the whole numbers around it, the one whose expected number of lines is nearer.
    return min(
        (max(1, math.floor(wanted)), math.ceil(wanted)),
        key=lambda distance: abs((width - n_centre) / distance - (n_lines - n_centre)),
    )


def gaussian_lines(width: int, fraction: float, rate: float, std: float, rng: np.random.RandomState) -> np.ndarray:
    """Bool (W,): a full centre, and lines drawn by a Gaussian density whose ``std`` is a part of the width."""
    n_lines, n_centre = line_counts(width, fraction, rate)
    lines = centre_lines(width, n_centre)
    frequency = (np.arange(width) - width // 2) / width
    log_weight = np.where(lines, -np.inf, -0.5 * (frequency / std) ** 2)
    lines[choose(log_weight, n_lines - n_centre, rng)] = True
    return lines


class RandomMask(SamplingMask):
    """Lines at random with exact counts: always ``round(W / acceleration)`` of them, the centre included.

    MONAI's ``RandomKspaceMask`` tosses a coin for each line instead, so that its rate varies from draw to draw.

    Args:
        center_fractions: see :class:`SamplingMask`.
        accelerations: see :class:`SamplingMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.

    Example:
        >>> int(RandomMask(0.08, 4).draw((320, 320)).sum())
        80
    """

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        n_lines, n_centre = line_counts(shape[-1], fraction, rate)
        lines = centre_lines(shape[-1], n_centre)
        lines[rng.permutation(np.flatnonzero(~lines))[: n_lines - n_centre]] = True
        return lines


class EquispacedMask(SamplingMask):
    """Lines at one exact distance from each other, from a random first one, besides a full centre.

    The distance is a whole number, so the rate is the nearest that such a pattern reaches and not exactly the one
    asked for: :func:`actual_acceleration` tells it.

    Args:
        center_fractions: see :class:`SamplingMask`.
        accelerations: see :class:`SamplingMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        count_centre: choose the distance such that all lines together come nearest to the acceleration; otherwise the
            distance is the acceleration itself, as scanners do it, and the centre comes on top.

    Example:
        >>> EquispacedMask(0.0, 4, count_centre=False).draw((1, 8)).sum()
        tensor(2)
    """

    def __init__(
        self,
        center_fractions: Rates = 0.08,
        accelerations: Rates = 4.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
        count_centre: bool = True,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        self.count_centre = count_centre

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        width = shape[-1]
        n_lines, n_centre = line_counts(width, fraction, rate)
        lines = centre_lines(width, n_centre)
        if self.count_centre and n_lines == n_centre:
            return lines
        distance = line_distance(width, n_lines, n_centre) if self.count_centre else max(1, round(rate))
        lines[rng.randint(distance) :: distance] = True
        return lines


class GaussianMask(SamplingMask):
    """Lines drawn by a Gaussian density about the centre, with exact counts as in :class:`RandomMask`.

    Args:
        center_fractions: see :class:`SamplingMask`.
        accelerations: see :class:`SamplingMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        std: standard deviation of the density, as a part of the width.

    Raises:
        ValueError: if ``std`` is not positive, besides the reasons of :class:`SamplingMask`.

    Example:
        >>> int(GaussianMask(0.04, 8).draw((256, 256)).sum())
        32
    """

    def __init__(
        self,
        center_fractions: Rates = 0.08,
        accelerations: Rates = 4.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
        std: float = 0.2,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        if not std > 0:
            raise ValueError(f"GaussianMask: 'std' must be positive, got {std}")
        self.std = std

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        return gaussian_lines(shape[-1], fraction, rate, self.std, rng)
