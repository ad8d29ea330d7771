"""Ellipse and ellipsoid phantoms whose image and k-space both follow from one closed form.

Source: the Fourier transform of the unit disc is ``J1(2 pi q) / q`` and of the unit ball
``(sin(2 pi q) - 2 pi q cos(2 pi q)) / (2 pi^2 q^3)``; scaling, rotating and moving follow from the similarity and shift
theorems (Koay et al. 2007, doi:10.1002/mrm.21292). The head phantom's numbers are those of Shepp and Logan 1974,
doi:10.1109/TNS.1974.6499235, with the contrast-enhanced intensities in common use.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipse (two axes) or ellipsoid (three) of constant intensity.

    Args:
        center: position of its middle, in units of half the field of view, from -1 to 1 along each array axis.
        half_axes: its half axes in the same unit, all positive.
        intensity: value added inside; may be negative or complex.
        angle: rotation in radians in the plane of the first two array axes, from the first towards the second.

    Raises:
        ValueError: if the numbers of coordinates disagree, or a half axis is not positive.
    """

    center: tuple[float, ...]
    half_axes: tuple[float, ...]
    intensity: complex = 1.0
    angle: float = 0.0

    def __post_init__(self) -> None:
        if len(self.center) not in (2, 3) or len(self.center) != len(self.half_axes):
            raise ValueError(
                f"Ellipsoid: 'center' and 'half_axes' must both have 2 or 3 numbers, got {self.center} and "
                f"{self.half_axes}"
            )
        if min(self.half_axes) <= 0:
            raise ValueError(f"Ellipsoid: 'half_axes' must be positive, got {self.half_axes}")


class EllipsoidPhantom:
    r"""A sum of ellipses or ellipsoids, as an image and as exact k-space.

    Image coordinates run over :math:`[-1, 1)` with index ``n // 2`` at 0. K-space is the continuous Fourier integral
    at the frequencies of the grid, in the unit of :func:`medkit.ops.centered_fft`: the transform of a finely sampled
    image approaches it.

    Args:
        shapes: the parts, all 2-D or all 3-D.

    Raises:
        ValueError: if there is no part, or 2-D and 3-D ones are mixed.

    Example:
        >>> EllipsoidPhantom([Ellipsoid((0.0, 0.0), (0.5, 0.5))]).image((8, 8)).sum()
        tensor(13.)
    """

    def __init__(self, shapes: Sequence[Ellipsoid]):
        dims = {len(shape.center) for shape in shapes}
        if len(dims) != 1:
            raise ValueError(
                f"EllipsoidPhantom: 'shapes' must be non-empty and all 2-D or all 3-D, got {len(shapes)} "
                f"with {sorted(dims)} coordinates"
            )
        self.shapes = tuple(shapes)
        self.spatial_dims = dims.pop()

    def _check_size(self, size: Sequence[int]) -> None:
        if len(size) != self.spatial_dims or min(size) < 1:
            raise ValueError(
                f"EllipsoidPhantom: 'size' must be {self.spatial_dims} positive numbers, got {tuple(size)}"
            )

    def _grids(self, size: Sequence[int]) -> list[Tensor]:
        self._check_size(size)
        index = [torch.arange(n, dtype=torch.float64) - n // 2 for n in size]
        return list(torch.meshgrid(index, indexing="ij"))

    @staticmethod
    def _aligned(coordinates: list[Tensor], angle: float) -> list[Tensor]:
        """Coordinates in the frame of a shape turned by ``angle``."""
        first, second, *rest = coordinates
        cos, sin = math.cos(angle), math.sin(angle)
        return [cos * first + sin * second, -sin * first + cos * second, *rest]

    def image(self, size: Sequence[int]) -> Tensor:
        """Sample the image.

        Args:
            size: pixels along each axis.

        Returns:
            ``(*size)``, float32, or complex64 if an intensity is complex; a pixel is inside if its centre is.

        Raises:
            ValueError: if ``size`` has another number of axes than the phantom.
        """
        grids = self._grids(size)
        values = torch.zeros(tuple(size), dtype=torch.complex128)
        for shape in self.shapes:
            offset = [2 * g / n - c for g, n, c in zip(grids, size, shape.center, strict=True)]
            frame = self._aligned(offset, shape.angle)
            radius = sum(((u / a) ** 2 for u, a in zip(frame, shape.half_axes, strict=True)), torch.zeros(()))
            values += shape.intensity * (radius <= 1)
        is_complex = any(isinstance(shape.intensity, complex) for shape in self.shapes)
        return values.to(torch.complex64) if is_complex else values.real.float()

    def kspace(self, size: Sequence[int]) -> Tensor:
        """Evaluate k-space by its formula.

        Args:
            size: samples along each axis, over the frequencies that an image of that size has.

        Returns:
            ``(*size)``, complex64, centred, in the unit of :func:`medkit.ops.centered_fft`.

        Raises:
            ValueError: if ``size`` has another number of axes than the phantom.
        """
        return self._transform(self._grids(size), size)

    def kspace_at(self, trajectory: Tensor, size: Sequence[int]) -> Tensor:
        """Evaluate k-space by its formula at any frequencies, on or off the grid.

        Args:
            trajectory: real, ``(*N, spatial_dims)``, in index units of centred k-space: -n/2 to n/2 is the band of an
                image of n pixels, a whole number k is sample ``n // 2 + k`` of :meth:`kspace`.
            size: pixels along each axis of the image that the unit of the values refers to.

        Returns:
            ``(*N)``, complex64, in the unit of :func:`medkit.ops.centered_fft`.

        Raises:
            ValueError: if ``size`` or the last axis of ``trajectory`` has another number of axes than the phantom.

        Example:
            >>> head_phantom().kspace_at(torch.tensor([[0.0, 0.5]]), (16, 16)).shape
            torch.Size([1])
        """
        self._check_size(size)
        if trajectory.ndim < 1 or trajectory.shape[-1] != self.spatial_dims or trajectory.is_complex():
            raise ValueError(
                f"EllipsoidPhantom: 'trajectory' must be real (..., {self.spatial_dims}), got {trajectory.dtype} "
                f"{tuple(trajectory.shape)}"
            )
        return self._transform(list(trajectory.double().unbind(-1)), size)

    def _transform(self, grids: list[Tensor], size: Sequence[int]) -> Tensor:
        """Transform at the frequencies ``grids``, one tensor for each axis, in index units."""
        values = torch.zeros(grids[0].shape, dtype=torch.complex128)
        # An integral over [-1, 1)^d becomes a sum over pixels of width 2/n, divided by sqrt(N) for unit length.
        unit = math.prod(n / 2 for n in size) / math.sqrt(math.prod(size))
        for shape in self.shapes:
            frequency = [g / 2 for g in grids]  # cycles per half field of view
            turns = sum((f * c for f, c in zip(frequency, shape.center, strict=True)), torch.zeros(()))
            frame = self._aligned(frequency, shape.angle)
            q = sum(((f * a) ** 2 for f, a in zip(frame, shape.half_axes, strict=True)), torch.zeros(())).sqrt()
            volume = math.prod(shape.half_axes)
            ball = _unit_ball(q, self.spatial_dims)
            values += shape.intensity * unit * volume * ball * torch.exp(-2j * math.pi * turns)
        return values.to(torch.complex64)


def _unit_ball(q: Tensor, dims: int) -> Tensor:
    """Fourier transform of the unit disc or ball at frequency ``q`` in cycles per unit length."""
    safe = q.clamp(min=1e-4)
    angle = 2 * math.pi * safe
    if dims == 2:
        return torch.where(q < 1e-4, math.pi * torch.ones_like(q), torch.special.bessel_j1(angle) / safe)
    ball = (torch.sin(angle) - angle * torch.cos(angle)) / (2 * math.pi**2 * safe**3)
    return torch.where(q < 1e-4, 4 / 3 * math.pi * torch.ones_like(q), ball)


# Center and half axes (row, column), intensity, angle in degrees; rows point down, so signs of y are flipped.
_HEAD = (
    ((0.0, 0.0), (0.92, 0.69), 1.0, 0.0),
    ((0.0184, 0.0), (0.874, 0.6624), -0.8, 0.0),
    ((0.0, 0.22), (0.31, 0.11), -0.2, 18.0),
    ((0.0, -0.22), (0.41, 0.16), -0.2, -18.0),
    ((-0.35, 0.0), (0.25, 0.21), 0.1, 0.0),
    ((-0.1, 0.0), (0.046, 0.046), 0.1, 0.0),
    ((0.1, 0.0), (0.046, 0.046), 0.1, 0.0),
    ((0.605, -0.08), (0.023, 0.046), 0.1, 0.0),
    ((0.605, 0.0), (0.023, 0.023), 0.1, 0.0),
    ((0.605, 0.06), (0.046, 0.023), 0.1, 0.0),
)


def head_phantom(spatial_dims: int = 2) -> EllipsoidPhantom:
    """The head phantom of Shepp and Logan, intensities 0 to 1.

    Args:
        spatial_dims: 2 for a slice; 3 for a volume in which each ellipse has a third half axis that is the mean of its
            first two and the slice through the middle is the 2-D phantom.

    Returns:
        The phantom, with ``image(size)`` and ``kspace(size)``.

    Raises:
        ValueError: if ``spatial_dims`` is not 2 or 3.

    Example:
        >>> head_phantom().kspace((16, 16)).shape
        torch.Size([16, 16])
    """
    if spatial_dims not in (2, 3):
        raise ValueError(f"head_phantom: 'spatial_dims' must be 2 or 3, got {spatial_dims}")
    shapes = []
    for center, half_axes, intensity, degrees in _HEAD:
        depth = () if spatial_dims == 2 else (sum(half_axes) / 2,)
        middle = (*center, *(0.0 for _ in depth))
        shapes.append(Ellipsoid(middle, (*half_axes, *depth), intensity, math.radians(degrees)))
    return EllipsoidPhantom(shapes)
