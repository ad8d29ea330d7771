"""Patterns of single points over the last two axes: Gaussian density, radial spokes and spirals on the grid."""

import math

import numpy as np

from medkit.mri.masks.base import Rates, SamplingMask, choose


def point_counts(shape: tuple[int, int], fraction: float, rate: float) -> tuple[int, np.ndarray]:
    """Points in all, and the fully sampled centre block (H, W), of the aspect of the grid."""
    height, width = shape
    n_points = max(1, round(height * width / rate))
    side = math.sqrt(fraction)
    rows, columns = round(height * side), round(width * side)
    while rows * columns > n_points:
        rows, columns = (rows - 1, columns) if rows * width >= columns * height else (rows, columns - 1)
    block = np.zeros(shape, dtype=bool)
    top, left = (height - rows + 1) // 2, (width - columns + 1) // 2
    block[top : top + rows, left : left + columns] = True
    return n_points, block


class GaussianMask2D(SamplingMask):
    """Points drawn by a Gaussian density about the centre: always ``round(H W / acceleration)``, the centre included.

    Args:
        center_fractions: part of all points in the fully sampled centre block; see :class:`SamplingMask`.
        accelerations: see :class:`SamplingMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        std: standard deviation of the density along each axis, as a part of its size.

    Raises:
        ValueError: if ``std`` is not positive, besides the reasons of :class:`SamplingMask`.

    Example:
        >>> int(GaussianMask2D(0.01, 8).draw((64, 64)).sum())
        512
    """

    def __init__(
        self,
        center_fractions: Rates = 0.01,
        accelerations: Rates = 8.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
        std: float = 0.2,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        if not std > 0:
            raise ValueError(f"GaussianMask2D: 'std' must be positive, got {std}")
        self.std = std

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        n_points, points = point_counts(shape, fraction, rate)
        n_more = n_points - int(points.sum())
        row, column = (-0.5 * ((np.arange(n) - n // 2) / (n * self.std)) ** 2 for n in shape)
        log_weight = np.where(points, -np.inf, row[:, None] + column[None, :])
        points.flat[choose(log_weight, n_more, rng)] = True
        return points


def _spokes(shape: tuple[int, int], n_spokes: int, turn: float) -> np.ndarray:
    """Bool (H, W): grid points nearest to ``n_spokes`` diameters at equal angles, the first at ``turn`` of a step."""
    height, width = shape
    angle = (np.arange(n_spokes) + turn) * (np.pi / n_spokes)
    direction = np.stack([np.sin(angle) * height, np.cos(angle) * width])
    # One sample for each step along the axis on which the spoke runs faster, from edge to edge.
    reach = max(height, width)
    step = direction / np.maximum(np.abs(direction[0]) / height, np.abs(direction[1]) / width) / reach
    along = np.arange(-(reach // 2), reach - reach // 2)
    row, column = (np.rint(s[:, None] * along).astype(np.int64) + n // 2 for s, n in zip(step, shape, strict=True))
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    points = np.zeros(shape, dtype=bool)
    points[row[inside], column[inside]] = True
    return points


def radial_frames(shape: tuple[int, int], fraction: float, rate: float, turns: np.ndarray) -> np.ndarray:
    """Draw spokes once for each of ``turns``, as many each time: the number that comes nearest to the rate on average.

    Args:
        shape: (H, W).
        fraction: part of all points in the fully sampled centre block.
        rate: acceleration.
        turns: (T,), angle of the first spoke, in parts of the angle between two.

    Returns:
        Bool (T, H, W).
    """
    n_points, block = point_counts(shape, fraction, rate)
    if n_points == block.size:
        return np.ones((len(turns), *shape), dtype=bool)

    def points(n_spokes: int, turn: float) -> np.ndarray:
        return _spokes(shape, n_spokes, turn) | block

    # The number of points grows with that of the spokes, nearly steadily: bisect, then compare the two neighbours.
    low, high = 1, 4 * max(shape)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if points(middle, turns[0]).sum() <= n_points else (low, middle)
    frames = (np.stack([points(n_spokes, turn) for turn in turns]) for n_spokes in (low, high))
    return min(frames, key=lambda f: abs(int(f.sum()) - n_points * len(turns)))


class RadialMask(SamplingMask):
    """Spokes through the centre at equal angles and a random first one, moved to the nearest points of the grid.

    The number of spokes is the one whose points come nearest to the acceleration; :func:`actual_acceleration` tells
    the rate that is reached.

    Args:
        center_fractions: part of all points in the fully sampled centre block, 0 for the spokes alone; see
            :class:`SamplingMask`.
        accelerations: see :class:`SamplingMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.

    Example:
        >>> bool(RadialMask(accelerations=10).draw((64, 64))[32, 32])
        True
    """

    def __init__(
        self, center_fractions: Rates = 0.0, accelerations: Rates = 8.0, spatial_dims: int = 2, is_complex: bool = True
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        return radial_frames(shape, fraction, rate, np.array([rng.random_sample()]))[0]


def _spiral(shape: tuple[int, int], n_turns: float, n_arms: int, angle: float) -> np.ndarray:
    """Bool (H, W): grid points nearest to Archimedean spirals from the centre to the ellipse that touches the edges."""
    radius = max(shape) / 2
    # Steps of at most about half a point along the outermost turn, along which the angle runs fastest.
    n_steps = math.ceil(4 * math.pi * n_turns * radius + 4 * radius)
    part = np.sqrt(np.linspace(0, 1, n_steps))
    arms = 2 * np.pi * np.arange(n_arms)[:, None] / n_arms
    turn = angle + arms + 2 * np.pi * n_turns * part
    points = np.zeros(shape, dtype=bool)
    position = (
        np.rint(n / 2 * part * wave(turn)).astype(np.int64) + n // 2
        for n, wave in zip(shape, (np.sin, np.cos), strict=True)
    )
    row, column = (np.clip(p, 0, n - 1) for p, n in zip(position, shape, strict=True))
    points[row, column] = True
    return points


class SpiralMask(SamplingMask):
    """Interleaved spirals from the centre outwards at a random first angle, moved to the nearest points of the grid.

    The number of turns is the one whose points come nearest to the acceleration; the corners outside the ellipse that
    touches the edges stay empty, so that accelerations below 4/π cannot be reached. :func:`actual_acceleration` tells
    the rate that is reached.

    Args:
        center_fractions: part of all points in the fully sampled centre block, 0 for the spirals alone; see
            :class:`SamplingMask`.
        accelerations: see :class:`SamplingMask`.
        spatial_dims: 2 or 3.
        is_complex: whether a real array holds real and imaginary parts in a last axis of size 2.
        n_arms: number of interleaved spirals, at least 1.

    Raises:
        ValueError: if ``n_arms`` is below 1, besides the reasons of :class:`SamplingMask`.

    Example:
        >>> bool(SpiralMask(accelerations=6).draw((64, 64))[32, 32])
        True
    """

    def __init__(
        self,
        center_fractions: Rates = 0.0,
        accelerations: Rates = 8.0,
        spatial_dims: int = 2,
        is_complex: bool = True,
        n_arms: int = 4,
    ):
        super().__init__(center_fractions, accelerations, spatial_dims, is_complex)
        if n_arms < 1:
            raise ValueError(f"SpiralMask: 'n_arms' must be at least 1, got {n_arms}")
        self.n_arms = n_arms

    def _pattern(self, shape: tuple[int, int], fraction: float, rate: float, rng: np.random.RandomState) -> np.ndarray:
        n_points, block = point_counts(shape, fraction, rate)
        angle = rng.random_sample() * 2 * np.pi
        if n_points == block.size:
            return np.ones(shape, dtype=bool)
        # The number of points grows with that of the turns, nearly steadily.
        low, high = 0.0, max(shape) / self.n_arms
        best = _spiral(shape, high, self.n_arms, angle) | block
        for _ in range(20):
            middle = (low + high) / 2
            points = _spiral(shape, middle, self.n_arms, angle) | block
            if abs(int(points.sum()) - n_points) < abs(int(best.sum()) - n_points):
                best = points
            low, high = (middle, high) if int(points.sum()) <= n_points else (low, middle)
        return best
