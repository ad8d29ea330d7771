"""Total variation: few steps in the image, by the primal-dual method of Chambolle and Pock."""

import torch
from torch import Tensor

from medkit.mri.classical.problem import check_problem, largest_eigenvalue, narrowed
from medkit.mri.physics import sense_normal


def _differences(x: Tensor) -> Tensor:
    """Differences to the neighbour before, periodic: (B, 1, H, W) to (B, 2, H, W), along H and along W."""
    return torch.cat([x - x.roll(1, -2), x - x.roll(1, -1)], 1)


def _differences_adjoint(u: Tensor) -> Tensor:
    rows, columns = u[:, :1], u[:, 1:]
    return rows - rows.roll(-1, -2) + columns - columns.roll(-1, -1)


def _clipped(u: Tensor, radius: float) -> Tensor:
    """Move complex numbers onto the disc of a radius: the proximal map of the conjugate of the absolute value."""
    squared = u.real.square() + u.imag.square()
    return u * (radius * torch.rsqrt(squared.clamp(min=max(radius**2, torch.finfo(squared.dtype).tiny))))


def total_variation(
    zero_filled: Tensor,
    mask: Tensor,
    sens_maps: Tensor | None = None,
    weight: float = 0.001,
    n_iterations: int = 100,
) -> Tensor:
    r"""Find the image with the least total variation that fits the measurement.

    .. math:: \min_x \tfrac12 \|A x - y\|^2 + \lambda \, \|G x\|_1

    with the periodic differences :math:`G` along both axes and the sum of their magnitudes (the anisotropic form, as
    in sigpy). Sources: Block et al. 2007, doi:10.1002/mrm.21236; Chambolle and Pock 2011,
    doi:10.1007/s10851-010-0251-1. The dual variable of the data enters as its image :math:`A^H u` alone, so that no
    k-space is held.

    Args:
        zero_filled: :math:`A^H y`, complex, ``(B, 1, H, W)``, scaled to about 1.
        mask: bool, broadcastable to ``(B, 1, H, W)``, centred.
        sens_maps: complex, ``(B, coil, H, W)``; ``None``: one uniform coil.
        weight: :math:`\lambda`, at least 0, in the unit of ``zero_filled``.
        n_iterations: number of steps, at least 1.

    Returns:
        Image, complex, ``(B, 1, H, W)``, same unit.

    Raises:
        ValueError: if the shapes do not fit together or a number is out of its range.

    Example:
        >>> x0 = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> total_variation(x0, torch.ones(1, 1, 1, 4, dtype=torch.bool))[0, 0, 0, 0].abs().round(decimals=3)
        tensor(1.)
    """
    check_problem("total_variation", zero_filled, mask, weight, n_iterations)
    mask = narrowed(mask)
    # The norm of both operators together: differences of neighbours have at most 4 along each of the two axes.
    step = 1 / (largest_eigenvalue(zero_filled, sens_maps) + 8)
    x = torch.zeros_like(zero_filled)
    ahead = x
    data_dual = x
    edge_dual = torch.cat([x, x], 1)
    for _ in range(n_iterations):
        data_dual = (data_dual + sense_normal(ahead, mask, sens_maps) - zero_filled) / 2
        edge_dual = _clipped(edge_dual + _differences(ahead), weight)
        previous = x
        x = x - step * (data_dual + _differences_adjoint(edge_dual))
        ahead = 2 * x - previous
    return x
