"""Random fields drawn on coarse lattices in mm, so that a subject keeps its anatomy at every voxel size."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

FIELD_OF_VIEW = (192.0, 232.0, 192.0)  # mm, left-right, back-front, foot-head
CENTER = (0.0, -18.0, 12.0)  # mm, the middle of the field of view in MNI (RAS) coordinates
MARGIN = 16.0  # mm that every coarse lattice reaches beyond the field of view


@dataclass(frozen=True)
class Grid:
    """An isotropic voxel grid centred on the head; each side is a multiple of 8 voxels.

    Args:
        spacing: edge of a voxel in mm.
        sides: number of voxels along x, y and z; ``None`` covers the field of view.
        first: index of the first voxel, for a block of the grid.
        count: number of voxels of the block along x, y and z; ``None`` is the whole grid.

    Example:
        >>> Grid(2.0).shape
        (96, 120, 96)
    """

    spacing: float
    sides: tuple[int, int, int] | None = None
    first: tuple[int, int, int] = (0, 0, 0)
    count: tuple[int, int, int] | None = None

    @property
    def whole(self) -> tuple[int, int, int]:
        """Number of voxels along x, y and z without regard to a block."""
        if self.sides is not None:
            return self.sides
        x, y, z = (8 * math.ceil(side / self.spacing / 8 - 1e-6) for side in FIELD_OF_VIEW)
        return x, y, z

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y and z."""
        return self.whole if self.count is None else self.count

    @property
    def origin(self) -> tuple[float, float, float]:
        """Position in mm of the first voxel's middle."""
        x, y, z = (c + self.spacing * (k - (n - 1) / 2) for c, n, k in zip(CENTER, self.whole, self.first, strict=True))
        return x, y, z

    def axes(self) -> list[Tensor]:
        """Return the coordinates in mm of the voxels' middles along x, y and z."""
        return [o + self.spacing * torch.arange(n) for o, n in zip(self.origin, self.shape, strict=True)]

    def positions(self) -> Tensor:
        """Return the coordinates in mm of every voxel, float32, ``(3, X, Y, Z)``."""
        return torch.stack(torch.meshgrid(*self.axes(), indexing="ij"))


def generator(*words: object) -> torch.Generator:
    """Return a generator whose seed is a stable hash of ``words``."""
    digest = hashlib.sha256("/".join(map(str, words)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))


def uniform(low: float, high: float, gen: torch.Generator) -> float:
    """Draw one number between ``low`` and ``high``."""
    return low + (high - low) * float(torch.rand((), generator=gen))


def lattice_shape(step: float) -> tuple[int, int, int]:
    """Return how many points of distance ``step`` mm span the field of view and its margin."""
    x, y, z = (math.ceil((side + 2 * MARGIN) / step) + 4 for side in FIELD_OF_VIEW)
    return x, y, z


def lattice(step: float) -> Grid:
    """Return the points of distance ``step`` mm that span the field of view and its margin."""
    return Grid(step, lattice_shape(step))


@lru_cache(maxsize=4096)
def _weights(
    origin: float, spacing: float, n_voxels: int, step: float, axis: int, interpolate: bool
) -> tuple[Tensor, slice]:
    """Weights (voxels, lattice points) of cubic B-splines, or of Catmull-Rom splines that pass through the points.

    Only the lattice points that matter are kept; the slice says which.
    """
    n = lattice_shape(step)[axis]
    position = (origin + spacing * torch.arange(n_voxels, dtype=torch.float64) - CENTER[axis]) / step + (n - 1) / 2
    used = slice(max(0, math.floor(float(position[0])) - 1), min(n, math.floor(float(position[-1])) + 3))
    t = (position[:, None] - torch.arange(used.start, used.stop)[None]).abs()
    if interpolate:
        inner = 1 - 2.5 * t**2 + 1.5 * t**3
        outer = torch.where(t < 2, 2 - 4 * t + 2.5 * t**2 - 0.5 * t**3, 0.0)
    else:
        inner = 2 / 3 - t**2 + t**3 / 2
        outer = (2 - t).clamp(min=0) ** 3 / 6
    return torch.where(t < 1, inner, outer).float(), used


def spread(coarse: Tensor, step: float, grid: Grid, interpolate: bool = False) -> Tensor:
    """Evaluate a cubic spline given on ``lattice(step)`` at the voxels of ``grid``.

    Args:
        coarse: coefficients of a B-spline, or values that a Catmull-Rom spline interpolates, float32,
            ``(..., *lattice_shape(step))``.
        step: distance of the lattice points in mm.
        grid: the voxels wanted.
        interpolate: whether ``coarse`` holds values rather than coefficients.

    Returns:
        Values, float32, ``(..., *grid.shape)``.
    """
    (wx, sx), (wy, sy), (wz, sz) = (
        _weights(grid.origin[k], grid.spacing, grid.shape[k], step, k, interpolate) for k in range(3)
    )
    part = coarse[..., sx, sy, sz]
    leading, (a, b, c) = part.shape[:-3], part.shape[-3:]
    x = (wx @ part.reshape(-1, a, b * c)).reshape(-1, b, c)
    return (wy @ x @ wz.T).reshape(*leading, *grid.shape)


def sample_at(values: Tensor, grid: Grid, position: Tensor) -> Tensor:
    """Interpolate linearly at scattered points; the border is repeated.

    Args:
        values: float32, ``(channels, *grid.shape)``.
        grid: where ``values`` lie.
        position: points in mm, float32, ``(3, X, Y, Z)``.

    Returns:
        Float32, ``(channels, X, Y, Z)``.
    """
    unit = torch.stack(
        [
            (position[k] - grid.origin[k]) * (2 / (grid.spacing * (grid.shape[k] - 1))) - 1
            for k in (2, 1, 0)  # grid_sample counts the last axis first
        ],
        dim=-1,
    )
    return F.grid_sample(values[None], unit[None], padding_mode="border", align_corners=True)[0]


@dataclass(frozen=True)
class Field:
    """Random fields kept as spline coefficients, to be evaluated on any grid.

    Args:
        coefficients: float32, ``(channels, *lattice_shape(step))``.
        step: distance of the lattice points in mm.
    """

    coefficients: Tensor
    step: float

    def on(self, grid: Grid) -> Tensor:
        """Evaluate on ``grid``, float32, ``(channels, X, Y, Z)``."""
        return spread(self.coefficients, self.step, grid)

    def at(self, position: Tensor) -> Tensor:
        """Evaluate at scattered points (mm, RAS), ``(3, X, Y, Z)``, by a linear spline; ``(channels, X, Y, Z)``."""
        points = lattice(self.step / 2)
        values = self.on(points)
        return sample_at(values, points, position)


def band_field(wavelength: float, gen: torch.Generator, channels: int = 1, octaves: float = 0.35) -> Field:
    """Draw band-limited normal fields of unit variance: a ring in frequency around ``1 / wavelength``.

    Args:
        wavelength: middle of the band in mm.
        gen: source of randomness.
        channels: number of independent fields.
        octaves: half width of the band in octaves (standard deviation of a Gaussian).
    """
    step = wavelength / 4

    def gain(radius: Tensor) -> Tensor:
        return torch.exp(-0.5 * (torch.log2(radius.clamp(min=1e-6) * wavelength) / octaves) ** 2)

    return Field(_filtered(step, gain, gen, channels), step)


def smooth_field(width: float, gen: torch.Generator, channels: int = 1, step: float | None = None) -> Field:
    """Draw normal fields of unit variance under a Gaussian of standard deviation ``width`` mm."""
    step = max(width, 4.0) if step is None else step

    def gain(radius: Tensor) -> Tensor:
        return torch.exp(-2 * (math.pi * width * radius) ** 2)

    return Field(_filtered(step, gain, gen, channels), step)


def _filtered(step: float, gain: Callable[[Tensor], Tensor], gen: torch.Generator, channels: int) -> Tensor:
    """White noise under ``gain`` (of the frequency in 1/mm), scaled so that its spline has unit variance."""
    shape = lattice_shape(step)
    fx, fy, fz = torch.fft.fftfreq(shape[0]), torch.fft.fftfreq(shape[1]), torch.fft.rfftfreq(shape[2])
    weight = gain((fx[:, None, None] ** 2 + fy[:, None] ** 2 + fz**2).sqrt() / step)
    noise = torch.fft.rfftn(torch.randn((channels, *shape), generator=gen), dim=(1, 2, 3)) * weight
    out = torch.fft.irfftn(noise, s=shape, dim=(1, 2, 3))
    # A B-spline passes (2 + cos(2 pi f)) / 3 of a frequency, along each axis, at the lattice points.
    passed = [(2 + (2 * math.pi * f).cos()) / 3 for f in (fx, fy, fz)]
    kept = (weight * passed[0][:, None, None] * passed[1][:, None] * passed[2]).square()
    twice = torch.full((kept.shape[-1],), 2.0)
    twice[0] = 1.0
    if shape[2] % 2 == 0:
        twice[-1] = 1.0
    return out / ((kept * twice).sum() / math.prod(shape)).sqrt()
