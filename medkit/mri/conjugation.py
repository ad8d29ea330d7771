"""Conjugate gradients for a Hermitian system of each sample of a batch, shared by all that solve one."""

from collections.abc import Callable

import torch
from torch import Tensor


def solve_hermitian(system: Callable[[Tensor], Tensor], start: Tensor, residual: Tensor, n_iterations: int) -> Tensor:
    """Take steps of conjugate gradients from an estimate; differentiable through all of them.

    Args:
        system: linear, Hermitian and positive semi-definite, from an image to an image.
        start: estimate, complex, ``(B, 1, *S)``.
        residual: right side less the system's value at ``start``, same shape.
        n_iterations: number of steps, at least 1; a sample that has converged stays.

    Returns:
        New estimate, complex, ``(B, 1, *S)``.
    """
    x = start
    direction = residual
    energy = _dot(residual, residual)
    for _ in range(n_iterations):
        step_image = system(direction)
        step = _ratio(energy, _dot(direction, step_image))
        x = x + step * direction
        residual = residual - step * step_image
        previous, energy = energy, _dot(residual, residual)
        direction = residual + _ratio(energy, previous) * direction
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Real part of <a, b> for each sample, kept broadcastable."""
    return (a.conj() * b).real.sum(dim=tuple(range(1, a.ndim)), keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 with a zero gradient where a sample has converged."""
    alive = b > torch.finfo(b.dtype).tiny
    return torch.where(alive, a / torch.where(alive, b, 1), 0)
