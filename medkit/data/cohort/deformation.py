"""Smooth diffeomorphisms of the head: stationary velocities of zero mean over the cohort, their flow and its grid."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from medkit.data.cohort.geometry import Geometry
from medkit.data.cohort.lattice import Field, Grid, generator, lattice, lattice_shape, smooth_field, spread

VELOCITY_STEP = 8.0  # mm between the coefficients of a velocity
FLOW_STEP = 4.0  # mm between the points where its flow is integrated
WIDTHS = (45.0, 20.0)  # mm, correlation lengths of the coarse and the fine part of a velocity


def draw_velocity(amplitudes: tuple[float, float], *seed: object) -> Tensor:
    """Draw the B-spline coefficients of a velocity in mm, float32, ``(3, *lattice_shape(VELOCITY_STEP))``.

    Args:
        amplitudes: standard deviation in mm of each component, coarse and fine part.
        seed: what the random numbers depend on.

    The mean over space is 0: the head stays in the field of view.
    """
    gen = generator("velocity", *seed)
    out = torch.zeros(3, *lattice_shape(VELOCITY_STEP))
    for amplitude, width in zip(amplitudes, WIDTHS, strict=True):
        out += amplitude * smooth_field(width, gen, 3, step=VELOCITY_STEP).coefficients
    return out - out.mean(dim=(1, 2, 3), keepdim=True)


def velocity_on(grid: Grid, coefficients: Tensor) -> Tensor:
    """Evaluate a velocity on ``grid`` in voxels of that grid, float32, ``(3, X, Y, Z)``."""
    return spread(coefficients, VELOCITY_STEP, grid) / grid.spacing


def flow(coefficients: Tensor, n_squarings: int = 6) -> Tensor:
    """Integrate a velocity to time 1 by scaling and squaring.

    Args:
        coefficients: as :func:`draw_velocity` gives them.
        n_squarings: number of squarings.

    Returns:
        Displacement in mm at the points of ``lattice(FLOW_STEP)``, float32, ``(3, ...)``; template position of a
        subject's point ``x`` is ``x + displacement(x)``.
    """
    points = lattice(FLOW_STEP)
    moved = velocity_on(points, coefficients) / 2**n_squarings
    identity = torch.stack(torch.meshgrid(*(torch.arange(n).float() for n in points.shape), indexing="ij"))
    scale = torch.tensor([2 / (n - 1) for n in points.shape]).view(3, 1, 1, 1)
    for _ in range(n_squarings):
        unit = ((identity + moved) * scale - 1).flip(0).permute(1, 2, 3, 0)[None]
        moved = moved + F.grid_sample(moved[None], unit, padding_mode="border", align_corners=True)[0]
    return moved * FLOW_STEP


def displacement_on(grid: Grid, moved: Tensor) -> Tensor:
    """Evaluate what :func:`flow` returns at the voxels of ``grid``, in mm, ``(3, X, Y, Z)``."""
    return spread(moved, FLOW_STEP, grid, interpolate=True)


def damp_outside(bend: Field, moved: Tensor, geometry: Geometry) -> Tensor:
    """Confine a folding displacement to the brain: it fades over 10 mm from the brain's cover outwards.

    Args:
        bend: folding displacement in mm, three channels.
        moved: what :func:`flow` returns.
        geometry: level sets of the template.

    Returns:
        Displacement in mm at the points of ``lattice(FLOW_STEP)``, float32, ``(3, ...)``.
    """
    points = lattice(FLOW_STEP)
    hull = geometry.sample(points.positions() + moved)["hull"]
    return bend.on(points) * (1 - (hull + 2) / 10).clamp_(0, 1)


def shift_image(image: Tensor, shift: Sequence[float]) -> Tensor:
    """Move an image by fractions of a voxel along each axis, by cubic interpolation; the border is repeated.

    Args:
        image: float32, ``(X, Y, Z)``.
        shift: voxels along each axis.

    Returns:
        The moved image, not below 0, same shape.
    """
    for axis, amount in enumerate(shift):
        whole = math.floor(amount)
        t = 1 - (amount - whole)
        weights = (
            (-t + 2 * t**2 - t**3) / 2,
            (2 - 5 * t**2 + 3 * t**3) / 2,
            (t + 4 * t**2 - 3 * t**3) / 2,
            (-(t**2) + t**3) / 2,
        )
        index = torch.arange(image.shape[axis]) - whole - 2
        image = sum(
            (w * image.index_select(axis, (index + k).clamp(0, image.shape[axis] - 1)) for k, w in enumerate(weights)),
            torch.zeros_like(image),
        )
    return image.clamp(min=0)
