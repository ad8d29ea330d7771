"""Augmentations of feature maps: geometry, cut-outs, noise and channels, each with one magnitude, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, radians, sin

import torch
from torch import Generator, Tensor
from torch.nn.functional import affine_grid, grid_sample

Operation = Callable[[Tensor, float, Generator], Tensor]


def _plane(feature: Tensor, generator: Generator) -> tuple[int, int]:
    """Two spatial axes (rows, columns): of an image all there are, of a volume a random pair, in order."""
    n_axes = feature.ndim - 2
    left_out = n_axes - 1 - int(torch.randint(n_axes, (), generator=generator)) if n_axes > 2 else n_axes
    first, second = (axis for axis in range(n_axes) if axis != left_out)
    return first, second


def _moved(feature: Tensor, matrix: Tensor, shift: Tensor) -> Tensor:
    """Value at each voxel p from where ``matrix`` p + ``shift`` points, about the centre; linear, 0 outside."""
    size = feature.shape[2:]
    half = torch.tensor([float(n) / 2 for n in size])
    # To coordinates of grid_sample: the map's width is 2 along each axis, and the last axis comes first.
    scaled = torch.cat([matrix * half[None] / half[:, None], (shift / half)[:, None]], 1)
    order = torch.arange(len(size)).flip(0)
    theta = torch.cat([scaled[order][:, order], scaled[order][:, -1:]], 1).to(feature.device)
    with torch.autocast(feature.device.type, enabled=False):
        grid = affine_grid(theta.expand(len(feature), -1, -1), list(feature.shape), align_corners=False)
        moved = grid_sample(feature.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.to(feature.dtype)


def _sheared(feature: Tensor, value: float, generator: Generator, along: int) -> Tensor:
    axes = _plane(feature, generator)
    matrix = torch.eye(feature.ndim - 2)
    matrix[axes[along], axes[1 - along]] = value
    return _moved(feature, matrix, torch.zeros(feature.ndim - 2))


def shear_x(feature: Tensor, value: float, generator: Generator) -> Tensor:
    """Shift along the columns' axis by ``value`` times the distance from the middle row."""
    return _sheared(feature, value, generator, 1)


def shear_y(feature: Tensor, value: float, generator: Generator) -> Tensor:
    """Shift along the rows' axis by ``value`` times the distance from the middle column."""
    return _sheared(feature, value, generator, 0)


def _translated(feature: Tensor, value: float, generator: Generator, along: int) -> Tensor:
    axis = _plane(feature, generator)[along]
    shift = torch.zeros(feature.ndim - 2)
    shift[axis] = value * feature.shape[2 + axis]
    return _moved(feature, torch.eye(feature.ndim - 2), shift)


def translate_x(feature: Tensor, value: float, generator: Generator) -> Tensor:
    """Shift along the columns' axis by the fraction ``value`` of the extent."""
    return _translated(feature, value, generator, 1)


def translate_y(feature: Tensor, value: float, generator: Generator) -> Tensor:
    """Shift along the rows' axis by the fraction ``value`` of the extent."""
    return _translated(feature, value, generator, 0)


def rotate(feature: Tensor, value: float, generator: Generator) -> Tensor:
    """Rotate in the plane by ``value`` degrees."""
    a, b = _plane(feature, generator)
    matrix, angle = torch.eye(feature.ndim - 2), radians(value)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = cos(angle), -sin(angle), sin(angle), cos(angle)
    return _moved(feature, matrix, torch.zeros(feature.ndim - 2))


def cutout(feature: Tensor, value: float, generator: Generator) -> Tensor:
    """Zero a box of the fraction ``value`` of each side, at least one voxel, the same for the batch."""
    box: list[slice] = []
    for n in feature.shape[2:]:
        where = float(torch.rand((), generator=generator))
        length = max(1, round(value * n)) if value > 0 else 0
        start = int(where * (n - length + 1))
        box.append(slice(start, start + length))
    keep = torch.ones(feature.shape[2:], dtype=feature.dtype, device=feature.device)
    keep[tuple(box)] = 0
    return feature * keep


def noise(feature: Tensor, value: float, generator: Generator) -> Tensor:
    """Add normal noise of deviation ``value``."""
    drawn = torch.randn(feature.shape, generator=generator)
    return feature + value * drawn.to(feature)


def channel_shuffle(feature: Tensor, value: float, generator: Generator) -> Tensor:
    """Put the channels in a random order; the magnitude does nothing."""
    return feature[:, torch.randperm(feature.shape[1], generator=generator).to(feature.device)]


def channel_drop(feature: Tensor, value: float, generator: Generator) -> Tensor:
    """Zero the fraction ``value`` of the channels, at random, without scaling the others."""
    order = torch.randperm(feature.shape[1], generator=generator)
    keep = torch.ones(feature.shape[1], dtype=feature.dtype)
    keep[order[: int(value * feature.shape[1])]] = 0
    return feature * keep.to(feature.device).view(1, -1, *[1] * (feature.ndim - 2))


# Name of each operation, the function, and the value at magnitude 0 and at magnitude 1.
OPERATIONS: dict[str, tuple[Operation, float, float]] = {
    "shear_x": (shear_x, -0.3, 0.3),
    "shear_y": (shear_y, -0.3, 0.3),
    "translate_x": (translate_x, -0.45, 0.45),
    "translate_y": (translate_y, -0.45, 0.45),
    "rotate": (rotate, -30.0, 30.0),
    "cutout": (cutout, 0.0, 0.2),
    "noise": (noise, 0.0, 0.1),
    "channel_shuffle": (channel_shuffle, 0.0, 1.0),
    "channel_drop": (channel_drop, 0.0, 0.5),
}


def apply_operation(name: str, feature: Tensor, magnitude: Tensor, generator: Generator) -> Tensor:
    """Apply an operation; the magnitude gets a straight-through gradient, 1 for each element of the result.

    Args:
        name: key of ``OPERATIONS``.
        feature: ``(B, C, *S)``.
        magnitude: scalar in [0, 1], mapped linearly to the operation's range.
        generator: of random numbers, on the CPU.

    Returns:
        A map of the same shape, dtype and device.

    Raises:
        ValueError: if there is no such operation, or the map is no image or volume.
    """
    if name not in OPERATIONS:
        raise ValueError(f"apply_operation: 'name' must be one of {list(OPERATIONS)}, got {name!r}")
    if feature.ndim not in (4, 5):
        raise ValueError(f"apply_operation: 'feature' must be (B, C, H, W[, D]), got {tuple(feature.shape)}")
    function, low, high = OPERATIONS[name]
    changed = function(feature, low + float(magnitude.detach()) * (high - low), generator)
    return changed + (magnitude - magnitude.detach()).to(changed)
