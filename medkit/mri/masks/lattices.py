"""Patterns of points on a sheared lattice, as CAIPIRINHA scans of two phase-encoding axes take them."""

import numpy as np

from medkit.mri.masks.base import Rates, SamplingMask
from medkit.mri.masks.points import point_counts


class CaipiMask(SamplingMask):
    """Points of a lattice whose rows are shifted against each other, besides a full centre block.

    Aliased images then fall where the coils differ more than without the shift. Every ``row_step``-th row is sampled,
    and in it every ``round(acceleration / row_step)``-th point, ``shift`` further in each next row. The centre comes on
    top: :func:`actual_acceleration` tells the rate. Source: Breuer et al. 2006, doi:10.1002/mrm.20787.

    Args:
        center_fractions: part of all points in the fully sampled centre block; see :class:`SamplingMask`.
        accelerations: see :class:`SamplingMask`; of the lattice, at least ``row_step``.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        row_step: distance of sampled rows, at least 1.
        shift: points by which a sampled row is moved against the one before, at least 0.

    Raises:
        ValueError: if ``row_step``, ``shift`` or an acceleration is out of range, besides the reasons of
            :class:`SamplingMask`.

    Example:
        >>> CaipiMask(0.0, 2, row_step=1).draw((2, 4)).int().sum(1)
        tensor([2, 2])
    """

    def __init__(
        self,
        center_fractions: Rates = 0.01,
        accelerations: Rates = 4.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
        row_step: int = 2,
        shift: int = 1,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        if row_step < 1:
            raise ValueError(f"CaipiMask: 'row_step' must be at least 1, got {row_step}")
        if shift < 0:
            raise ValueError(f"CaipiMask: 'shift' must be at least 0, got {shift}")
        if min(self.accelerations) < row_step:
            raise ValueError(
                f"CaipiMask: 'accelerations' must be at least 'row_step' {row_step}, got {min(self.accelerations)}"
            )
        self.row_step = row_step
        self.shift = shift

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        _, block = point_counts(shape, fraction, rate)
        column_step = round(rate / self.row_step)
        row = np.arange(shape[0])[:, None] - rng.randint(min(self.row_step, shape[0]))
        column = np.arange(shape[1]) - rng.randint(min(column_step, shape[1]))
        moved = column - self.shift * (row // self.row_step)
        return (row % self.row_step == 0) & (moved % column_step == 0) | block
