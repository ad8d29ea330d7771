"""A brain-like phantom given by a formula, and subjects made by evaluating it at moved points: the truth is sharp."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medkit.ops import exponential, identity_points


def intensity(points: Tensor, size: Sequence[int], softness: float = 1.0) -> Tensor:
    """Folded ellipsoids at points ``(B, D, *T)`` in voxels of a grid; ``(B, 1, *T)``, 0 to 0.85.

    A ``softness`` of 2 on a grid of 32 voxels has edges of as many voxels as 1 on one of 64.
    """
    edge_width = 0.03 * softness
    centre = torch.tensor([(n - 1) / 2 for n in size], dtype=points.dtype)
    x = (points - centre.reshape(1, -1, *[1] * len(size))) / (min(size) / 2)
    radius = x.square().sum(1, keepdim=True).sqrt()
    angle = torch.atan2(x[:, 1:2], x[:, :1] + 1e-9)
    third = x[:, 2:3] if len(size) == 3 else torch.zeros_like(angle)
    fold = 0.04 * torch.cos(9 * angle) * torch.cos(6 * third)

    def inside(edge: Tensor | float) -> Tensor:
        return torch.sigmoid((edge - radius) / edge_width)

    long = (x[:, :1].square() * 2 + x[:, 1:2].square() * 6 + third.square()).sqrt()
    ventricle = torch.sigmoid((0.18 - long) / edge_width)
    return 0.45 * inside(0.72) + 0.4 * inside(0.55 + fold) - 0.65 * ventricle * inside(0.5)


def velocities(size: Sequence[int], n: int, amplitude: float, width: float, seed: int) -> Tensor:
    """``n`` smooth velocities ``(n, D, *size)`` of mean 0; ``amplitude`` (RMS) and ``width`` in voxels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(n, len(size), *size, generator=generator)
    axes = tuple(range(2, 2 + len(size)))
    spectrum = torch.fft.rfftn(noise, dim=axes)
    for k, length in enumerate(size):
        last = k == len(size) - 1
        frequency = torch.fft.rfftfreq(length) if last else torch.fft.fftfreq(length)
        decay = torch.exp(-2 * (math.pi * width * frequency) ** 2)
        spectrum = spectrum * decay.reshape([-1 if axis == k + 2 else 1 for axis in range(2 + len(size))])
    v = torch.fft.irfftn(spectrum, s=tuple(size), dim=axes)
    v = v - v.mean(0, keepdim=True)
    return v * amplitude / v.square().sum(1).mean().sqrt()


def cohort(
    size: Sequence[int],
    n: int = 6,
    amplitude: float = 3.0,
    width: float = 6.0,
    noise: float = 0.0085,
    seed: int = 0,
    softness: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Template ``(1, 1, *size)``, subjects ``(n, 1, *size)`` and the velocities that made them.

    A subject is the phantom seen through :math:`exp(-v)`, so that pulling it by ``exponential(v)`` gives the template.
    """
    points = identity_points(size)
    v = velocities(size, n, amplitude, width, seed)
    inverse = exponential(v, inverse=True)
    subjects = torch.cat([intensity(points + u[None], size, softness) for u in inverse])
    generator = torch.Generator().manual_seed(seed + 1000)
    return intensity(points, size, softness), subjects + noise * torch.randn(subjects.shape, generator=generator), v


def correlation(a: Tensor, b: Tensor) -> float:
    """Normalised cross-correlation of two images."""
    a, b = a.flatten().double() - a.double().mean(), b.flatten().double() - b.double().mean()
    return float((a @ b) / (a.norm() * b.norm()))
