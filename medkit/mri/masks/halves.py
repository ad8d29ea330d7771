"""Patterns of lines that use the symmetry of k-space: halves that interleave, and one half left out."""

import numpy as np

from medkit.mri.masks.base import Rates, SamplingMask
from medkit.mri.masks.lines import centre_lines, line_counts


class MagicMask(SamplingMask):
    """Equispaced lines whose two halves interleave when one is mirrored, besides a full centre.

    The k-space of an image without phase is symmetric: a line tells of its mirror image. With the halves offset by half
    a distance the lines and their mirror images together lie twice as dense, as fastMRI's "magic" masks have them. The
    distance is a whole number, at least 2: :func:`actual_acceleration` tells the rate that is reached.

    Args:
        center_fractions: see :class:`SamplingMask`.
        accelerations: see :class:`SamplingMask`; the rounded acceleration is the distance, and the centre comes on top.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.

    Example:
        >>> MagicMask(0.0, 4).draw((1, 16)).sum()
        tensor(4)
    """

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        width = shape[-1]
        distance = round(rate)
        offset = rng.randint(max(1, distance))
        if distance < 2:
            return np.ones(width, dtype=bool)
        frequency = np.arange(width) - width // 2
        # Beyond the half distance the sampled frequencies and the mirrored ones of the other side alternate.
        right = (frequency >= 0) & (frequency % distance == offset)
        left = (frequency < 0) & (-frequency % distance == (offset + distance // 2) % distance)
        return right | left | centre_lines(width, line_counts(width, fraction, rate)[1])


class PartialFourierMask(SamplingMask):
    """All lines of one half and, across the centre, part of the other: always ``round(W / acceleration)`` of them.

    What partial-Fourier scans measure; 6/8 is an acceleration of 4/3. Which half is left out is drawn.

    Args:
        center_fractions: see :class:`SamplingMask`; the full centre is wide enough by itself, so 0 will do.
        accelerations: see :class:`SamplingMask`; below 2, since the centre must be sampled.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.

    Raises:
        ValueError: if an acceleration is 2 or more, besides the reasons of :class:`SamplingMask`.

    Example:
        >>> int(PartialFourierMask(0.0, 4 / 3).draw((8, 8)).sum())
        6
    """

    def __init__(
        self,
        center_fractions: Rates = 0.0,
        accelerations: Rates = 4 / 3,
        spatial_dims: int = 2,
        is_complex: bool = True,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        if max(self.accelerations) >= 2:
            raise ValueError(
                f"PartialFourierMask: 'accelerations' must be below 2, for the centre to be sampled, got "
                f"{max(self.accelerations)}"
            )

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        width = shape[-1]
        n_lines, n_centre = line_counts(width, fraction, rate)
        lines = np.arange(width) < n_lines
        lines[width // 2] = True
        return (lines if rng.randint(2) else lines[::-1]) | centre_lines(width, n_centre)
