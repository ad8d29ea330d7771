"""Random fields drawn on coarse lattices in mm, so that a subject keeps its anatomy at every voxel size."""

import hashlib
import math
from dataclasses import dataclass
from functools import lru_cache

import torch
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

    Example:
        >>> Grid(2.0).shape
        (96, 120, 96)
    """

    spacing: float
    sides: tuple[int, int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y and z."""
        if self.sides is not None:
            return self.sides
        x, y, z = (8 * math.ceil(side / self.spacing / 8 - 1e-6) for side in FIELD_OF_VIEW)
        return x, y, z

    @property
    def origin(self) -> tuple[float, float, float]:
        """Position in mm of the first voxel's middle."""
        x, y, z = (c - self.spacing * (n - 1) / 2 for c, n in zip(CENTER, self.shape, strict=True))
        return x, y, z

    def axes(self) -> list[Tensor]:
        """Return the coordinates in mm of the voxels' middles along x, y and z."""
        return [o + self.spacing * torch.arange(n) for o, n in zip(self.origin, self.shape, strict=True)]


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


@lru_cache(maxsize=512)
def _weights(grid: Grid, step: float, axis: int, interpolate: bool) -> Tensor:
    """Weights (voxels, lattice points) of cubic B-splines, or of Catmull-Rom splines that pass through the points."""
    n = lattice_shape(step)[axis]
    position = (grid.axes()[axis] - CENTER[axis]) / step + (n - 1) / 2
    t = (position[:, None] - torch.arange(n, dtype=position.dtype)[None]).abs()
    if interpolate:
        inner = 1 - 2.5 * t**2 + 1.5 * t**3
        outer = torch.where(t < 2, 2 - 4 * t + 2.5 * t**2 - 0.5 * t**3, 0.0)
    else:
        inner = 2 / 3 - t**2 + t**3 / 2
        outer = (2 - t).clamp(min=0) ** 3 / 6
    return torch.where(t < 1, inner, outer).float()


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
    x = torch.einsum("Xa,...abc->...Xbc", _weights(grid, step, 0, interpolate), coarse)
    x = torch.einsum("Yb,...Xbc->...XYc", _weights(grid, step, 1, interpolate), x)
    return (x @ _weights(grid, step, 2, interpolate).T).contiguous()


def lattice_noise(
    step: float, wavelength: float, gen: torch.Generator, channels: int = 1, octaves: float = 0.35
) -> Tensor:
    """Draw band-limited normal noise on a lattice: a ring in frequency around ``1 / wavelength``.

    Args:
        step: distance of the lattice points in mm, at most a third of the wavelength.
        wavelength: middle of the band in mm.
        gen: source of randomness.
        channels: number of independent fields.
        octaves: half width of the band in octaves (standard deviation of a Gaussian).

    Returns:
        Noise of unit variance, float32, ``(channels, *lattice_shape(step))``.
    """
    shape = lattice_shape(step)
    frequency = _radius(shape, step)
    gain = torch.exp(-0.5 * (torch.log2(frequency.clamp(min=1e-6) * wavelength) / octaves) ** 2)
    noise = torch.fft.rfftn(torch.randn((channels, *shape), generator=gen), dim=(1, 2, 3)) * gain
    out = torch.fft.irfftn(noise, s=shape, dim=(1, 2, 3))
    return out / out.std(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)


def smooth_lattice(step: float, width: float, gen: torch.Generator, channels: int = 1) -> Tensor:
    """Draw low-pass normal noise on a lattice: white noise under a Gaussian of standard deviation ``width`` mm.

    Returns:
        Noise of unit variance, float32, ``(channels, *lattice_shape(step))``.
    """
    shape = lattice_shape(step)
    gain = torch.exp(-2 * (math.pi * width * _radius(shape, step)) ** 2)
    noise = torch.fft.rfftn(torch.randn((channels, *shape), generator=gen), dim=(1, 2, 3)) * gain
    out = torch.fft.irfftn(noise, s=shape, dim=(1, 2, 3))
    return out / (gain[..., 1:-1].square().sum() * 2 + gain[..., 0].square().sum()).sqrt() * math.sqrt(math.prod(shape))


def band(wavelength: float, grid: Grid, gen: torch.Generator, channels: int = 1) -> Tensor:
    """Draw band-limited noise of about unit variance on ``grid``, ``(channels, X, Y, Z)``."""
    step = wavelength / 4
    return spread(lattice_noise(step, wavelength, gen, channels), step, grid) * 1.45


def smooth(width: float, grid: Grid, gen: torch.Generator, channels: int = 1) -> Tensor:
    """Draw smooth noise of unit variance and correlation length ``width`` mm on ``grid``, ``(channels, X, Y, Z)``."""
    step = max(width, 4.0)
    return spread(smooth_lattice(step, width, gen, channels), step, grid) * 1.2


def _radius(shape: tuple[int, int, int], step: float) -> Tensor:
    fx = torch.fft.fftfreq(shape[0], step)[:, None, None]
    fy = torch.fft.fftfreq(shape[1], step)[None, :, None]
    fz = torch.fft.rfftfreq(shape[2], step)[None, None]
    return (fx**2 + fy**2 + fz**2).sqrt()
