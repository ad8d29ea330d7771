"""Poisson-disc patterns: points that keep their distance, the nearer to the centre the closer."""

import math
from functools import lru_cache

import numpy as np

from medkit.mri.masks.base import Rates, SamplingMask
from medkit.mri.masks.points import point_counts

# Aim at slightly more points than wanted and stop when they are reached: one pass then nearly always suffices.
_SPARE = 1.02


# So many points are tried together; where their discs meet, they are tried again among themselves.
_TOGETHER = 2048


def _disc(reach: int, stride: int) -> np.ndarray:
    """All points with squared distance <= reach from a point in a flat array, relative to it."""
    radius = math.isqrt(reach)
    row, column = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return (row * stride + column)[row * row + column * column <= reach]


def _first_come(points: np.ndarray, discs: tuple[np.ndarray, np.ndarray], earliest: np.ndarray) -> np.ndarray:
    """Tell which of these points are taken, when each closes its disc for those after it.

    Args:
        points: int (k,), free points of a flat array, in order.
        discs: the points in all discs, and for each the number, below k and rising, of the point whose disc it is.
        earliest: int, a flat array of numbers above k; is left so.

    Returns:
        Bool (k,).
    """
    inside, owner = discs
    never = earliest[0]
    taken = np.zeros(len(points), dtype=bool)
    waiting = np.arange(len(points))

    def closed_before(closing: np.ndarray) -> np.ndarray:
        """Of the waiting ones, those in the disc of an earlier one of ``closing``."""
        cells, numbers = inside[closing[owner]], owner[closing[owner]]
        earliest[cells[::-1]] = numbers[::-1]  # of equal places the last one written counts: the earliest
        closed = earliest[points[waiting]] < waiting
        earliest[cells] = never
        return closed

    while len(waiting):
        alive = np.zeros(len(points), dtype=bool)
        alive[waiting] = True
        contested = closed_before(alive)
        taken[waiting[~contested]] = True
        waiting = waiting[contested]
        waiting = waiting[~closed_before(taken)]
    return taken


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
    shut = np.ones((height + 2 * margin, stride), dtype=bool)
    shut[margin : margin + height, margin : margin + width] = closed
    earliest = np.full(shut.size, height * width)
    shut = shut.ravel()
    where = (np.arange(height)[:, None] + margin) * stride + np.arange(width) + margin
    where = where.ravel()
    kinds = np.flatnonzero(np.bincount(reach.ravel()))
    kind = np.zeros(kinds[-1] + 1, dtype=np.int64)
    kind[kinds] = np.arange(len(kinds))
    kind = kind[reach.ravel()]
    parts = [_disc(int(r), stride) for r in kinds]
    size = np.array([len(part) for part in parts])
    start, offsets = np.cumsum(size) - size, np.concatenate(parts)

    def discs(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All points in the discs of some points, and whose disc it is."""
        own = size[kind[numbers]]
        owner = np.repeat(np.arange(len(numbers)), own)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(own) - own, own)
        return where[numbers][owner] + offsets[start[kind[numbers]][owner] + within], owner

    found = [np.flatnonzero(taken)]
    n_found = len(found[0])
    shut[discs(found[0])[0]] = True
    order = rng.permutation(height * width)
    for i in range(0, len(order), _TOGETHER):
        if n_found >= n_points:
            break
        some = order[i : i + _TOGETHER]
        some = some[~shut[where[some]]]
        inside, owner = discs(some)
        is_taken = _first_come(where[some], (inside, owner), earliest)
        shut[inside[is_taken[owner]]] = True
        found.append(some[is_taken][: n_points - n_found])
        n_found += len(found[-1])
    points = np.zeros(height * width, dtype=bool)
    points[np.concatenate(found)] = True
    return points.reshape(height, width)


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
