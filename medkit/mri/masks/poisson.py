"""Poisson-disc patterns: points that keep their distance, the nearer to the centre the closer."""

import math
from functools import lru_cache

import numpy as np

from medkit.mri.masks.base import Rates, SamplingMask
from medkit.mri.masks.points import point_counts

# Aim at slightly more points than wanted and stop when they are reached: one pass then nearly always suffices.
_SPARE = 1.02


def _disc(reach: int, stride: int) -> list[tuple[int, int, bytes]]:
    """Runs (first, end, ones), relative to a point in a flat array, of all points with squared distance <= reach."""
    radius = math.isqrt(reach)
    runs = []
    for row in range(-radius, radius + 1):
        half = math.isqrt(reach - row * row)
        runs.append((row * stride - half, row * stride + half + 1, b"\1" * (2 * half + 1)))
    return runs


def throw_darts(
    squared: np.ndarray, closed: np.ndarray, taken: np.ndarray, n_points: int, rng: np.random.RandomState
) -> np.ndarray:
    """Take free points in random order, each of which closes a disc about itself, until there are ``n_points``.

    Args:
        squared: float (H, W), squared distance that a point keeps free about itself, pixel^2, at least 1.
        closed: bool (H, W), points never taken.
        taken: bool (H, W), points taken before; their discs are closed first.
        n_points: number of points at which to stop, those of ``taken`` included.
        rng: source of the order, and of the rounding of squared distances to whole numbers.

    Returns:
        Bool (H, W), ``taken`` and the new points; fewer than ``n_points`` when no free point is left.
    """
    height, width = squared.shape
    # Distances on a grid are few; rounding up or down at random makes the density a steady function of the distance.
    reach = np.floor(squared - 1 + rng.random_sample(squared.shape)).astype(np.int64)
    margin = math.isqrt(int(reach.max()))
    stride = width + 2 * margin
    padded = np.zeros((height + 2 * margin, stride), dtype=np.int64)
    padded[margin : margin + height, margin : margin + width] = reach
    reaches = padded.ravel().tolist()
    padded[margin : margin + height, margin : margin + width] = closed
    shut = bytearray(padded.astype(np.uint8).tobytes())
    discs = {int(r): _disc(int(r), stride) for r in np.unique(reach)}

    row, column = np.nonzero(taken)
    found = ((row + margin) * stride + column + margin).tolist()
    for point in found:
        for first, end, ones in discs[reaches[point]]:
            shut[point + first : point + end] = ones
    row, column = np.divmod(rng.permutation(height * width), width)
    for point in ((row + margin) * stride + column + margin).tolist():
        if shut[point]:
            continue
        if len(found) >= n_points:
            break
        found.append(point)
        for first, end, ones in discs[reaches[point]]:
            shut[point + first : point + end] = ones
    points = np.zeros(padded.size, dtype=bool)
    points[found] = True
    return points.reshape(padded.shape)[margin : margin + height, margin : margin + width]


@lru_cache(maxsize=1)
def _packing() -> tuple[np.ndarray, np.ndarray]:
    """Squared distances, and the part of a grid that darts fill at each: measured once on a small grid."""
    rng = np.random.RandomState(0)
    squared = np.array([1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 5, 6, 8, 10, 13, 16, 20, 26, 34, 50])
    nothing = np.zeros((96, 96), dtype=bool)
    filled = [throw_darts(np.full(nothing.shape, s), nothing, nothing, nothing.size, rng).mean() for s in squared]
    return squared, np.asarray(filled)


def _expected(squared: np.ndarray) -> np.ndarray:
    """Expected part of the points that darts fill where each keeps the squared distance free."""
    known, filled = _packing()
    # Between the measured ones, filled * squared varies slowly; beyond them it is a constant.
    return np.interp(squared, known, filled * known) / np.maximum(squared, 1)


class PoissonDiscMask(SamplingMask):
    """Points at random that keep a distance growing from the centre outwards: ``round(H W / acceleration)`` of them.

    Source: dart throwing, Cook 1986, doi:10.1145/7529.8927, on the grid. Each point closes a disc of its own radius
    ``r (1 + slope k)``, where ``k`` is the distance from the centre in half sizes of the grid; ``r`` is found from the
    density wanted.

    Args:
        center_fractions: part of all points in the fully sampled centre block; see :class:`SamplingMask`.
        accelerations: see :class:`SamplingMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        slope: growth of the distance towards the edge, at least 0; 0 is uniform density.
        crop_corners: leave the corners outside the ellipse that touches the edges empty; the rate still counts the
            whole grid.

    Raises:
        ValueError: if ``slope`` is negative, besides the reasons of :class:`SamplingMask`.

    Example:
        >>> int(PoissonDiscMask(0.01, 8).draw((64, 64)).sum())
        512
    """

    def __init__(
        self,
        center_fractions: Rates = 0.01,
        accelerations: Rates = 8.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
        slope: float = 2.0,
        crop_corners: bool = False,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        if not 0 <= slope < math.inf:
            raise ValueError(f"PoissonDiscMask: 'slope' must be at least 0, got {slope}")
        self.slope = slope
        self.crop_corners = crop_corners

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        n_points, block = point_counts(shape, fraction, rate)
        row, column = ((np.arange(n) - n // 2) / max(n / 2, 1) for n in shape)
        distance = np.hypot(row[:, None], column[None, :])
        closed = block | (distance > 1) if self.crop_corners else block
        n_more = n_points - int(block.sum())
        n_open = int(np.count_nonzero(~closed))
        if n_more > n_open:
            raise ValueError(
                f"PoissonDiscMask: without corners a grid of {shape} has fewer than the {n_points} points of "
                f"acceleration {rate}; set crop_corners=False or accelerate more"
            )
        relative = (1 + self.slope * distance) ** 2
        wanted = _SPARE * n_more / max(n_open, 1)
        sample = np.sort(relative[~closed])[:: 1 + relative.size // 2000]
        low, high = 1 / float(relative.max()), float(max(shape)) ** 2
        for _ in range(30 if sample.size else 0):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if _expected(np.maximum(middle * sample, 1)).mean() > wanted else (low, middle)
        points = np.zeros(shape, dtype=bool)
        while np.count_nonzero(points) < n_more:
            points = throw_darts(np.maximum(low * relative, 1), closed, points, n_more, rng)
            low *= 0.9
        return points | block
