"""The numbers of one subject's anatomy and the two tools that turn level sets into shares."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.data.cohort.lattice import Grid


@dataclass(frozen=True)
class Shape:
    """The numbers that fix one subject's anatomy; :class:`~medkit.data.cohort.ranges.Ranges` says what each means."""

    fold: float = 0.0
    fold_wavelength: float = 14.0
    sulcus: float = 0.6
    edge: float = 0.0
    thickness: float = 2.6
    atrophy: float = 0.0
    rim: float = 1.8
    bone: float = 6.0
    scalp: float = 6.0
    marrow: float = 0.4
    folia_wavelength: float = 4.2
    variation: float = 1.0  # factor on every random variation; 0 makes the template


def soft(level: Tensor, grid: Grid, blur: float = 0.0) -> Tensor:
    """Share of a voxel inside a level set (mm, negative inside): a ramp one voxel wide, wider by ``blur`` mm."""
    return (level * (-1 / math.hypot(grid.spacing, blur))).add_(0.5).clamp_(0, 1)


def gradient_norm(level: Tensor, grid: Grid) -> Tensor:
    """Length of the gradient by central differences, in units of ``level`` per mm; short by design at the border."""
    out = torch.zeros_like(level)
    for axis in range(3):
        n = level.shape[axis]
        middle = level.narrow(axis, 2, n - 2) - level.narrow(axis, 0, n - 2)
        out.narrow(axis, 1, n - 2).addcmul_(middle, middle)
    return out.sqrt_().div_(2 * grid.spacing)
