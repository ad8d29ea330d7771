"""The problem that the classical methods share: its checks, its fastest mask, and the largest eigenvalue of it."""

import math

import torch
from torch import Tensor


def check_problem(name: str, zero_filled: Tensor, mask: Tensor, weight: float, n_iterations: int) -> None:
    """Refuse an image, a mask, a weight or a number of iterations that no method can use.

    Args:
        name: the method.
        zero_filled: complex ``(B, 1, H, W)``.
        mask: real, broadcastable to it.
        weight: of the regularisation, at least 0.
        n_iterations: at least 1.

    Raises:
        ValueError: if an argument is of another form.
    """
    if not zero_filled.is_complex() or zero_filled.ndim != 4 or zero_filled.shape[1] != 1:
        raise ValueError(
            f"{name}: 'zero_filled' must be complex (B, 1, H, W), got {zero_filled.dtype} {tuple(zero_filled.shape)}"
        )
    fits = mask.ndim == 4 and all(m in (1, n) for m, n in zip(mask.shape, zero_filled.shape, strict=True))
    if mask.is_complex() or not fits:
        raise ValueError(
            f"{name}: 'mask' must be real and broadcast to {tuple(zero_filled.shape)}, got {mask.dtype} "
            f"{tuple(mask.shape)}"
        )
    check_settings(name, weight, n_iterations)


def check_settings(name: str, weight: float, n_iterations: int) -> None:
    """Raise ``ValueError`` in the name of a method if its weight is negative or infinite, or it takes no step."""
    if not 0 <= weight < math.inf:
        raise ValueError(f"{name}: 'weight' must be at least 0, got {weight}")
    if n_iterations < 1:
        raise ValueError(f"{name}: 'n_iterations' must be at least 1, got {n_iterations}")


def narrowed(mask: Tensor) -> Tensor:
    """Give each spatial axis that a mask (B, 1, H, W) does not vary on the size 1, which saves Fourier transforms."""
    for dim in (-2, -1):
        first = mask.narrow(dim, 0, 1)
        if mask.shape[dim] > 1 and bool((mask == first).all()):
            mask = first
    return mask


def largest_eigenvalue(zero_filled: Tensor, sens_maps: Tensor | None) -> Tensor:
    """Bound of the normal operator of each sample, real (B or 1, 1, 1, 1): the greatest sum of squares of its maps."""
    if sens_maps is None:
        return zero_filled.real.new_ones(1, 1, 1, 1)
    power = (sens_maps.real.square() + sens_maps.imag.square()).sum(1, keepdim=True)
    bound = power.amax((-2, -1), keepdim=True)
    # Without any coil all is 0, whatever the step.
    return torch.where(bound > 0, bound, 1)
