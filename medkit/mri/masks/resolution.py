"""The pattern of a low-resolution scan: the centre of k-space, and nothing else."""

import numpy as np
from monai.utils import ensure_tuple

from medkit.mri.masks.base import Rates, SamplingMask


class CentreMask(SamplingMask):
    """Centre of k-space, so that reconstruction becomes super-resolution: 1 / factor of the rows and of the columns.

    The zero-filled image of what it samples is the low-resolution image, interpolated by zeros in k-space, at the same
    mean intensity; see :class:`KspaceCropOperator`, whose mask this is where ``factor`` divides the size.

    Args:
        factors: how many pixels make one of the low resolution along each axis, at least 1; one is drawn each time if
            there are several.
        spatial_dims: 2 or 3; with 3 the last two axes are cut.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        symmetric: leave out the line of frequency -h/2, whose counterpart +h/2 an even number h of lines has not, so
            that the low-resolution image of a real image is real.

    Raises:
        ValueError: if a factor is below 1.

    Example:
        >>> CentreMask(2).draw((4, 4)).int()[1]
        tensor([0, 1, 1, 0], dtype=torch.int32)
    """

    def __init__(
        self, factors: Rates = 2.0, spatial_dims: int = 2, is_complex: bool = True, symmetric: bool = False
    ) -> None:
        self.factors = tuple(float(factor) for factor in ensure_tuple(factors))
        if not self.factors or min(self.factors) < 1:
            raise ValueError(f"CentreMask: 'factors' must be at least 1, got {self.factors}")
        areas = tuple(factor**2 for factor in self.factors)
        super().__init__(tuple(1 / area for area in areas), areas, spatial_dims, is_complex)
        self.symmetric = symmetric

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        sides = []
        for n in shape:
            n_kept = max(1, round(n / rate**0.5))
            side = np.zeros(n, dtype=bool)
            first = n // 2 - n_kept // 2
            side[first : first + n_kept] = True
            if self.symmetric and n_kept > 1 and n_kept % 2 == 0:
                side[first] = False
            sides.append(side)
        return sides[0][:, None] & sides[1][None, :]
