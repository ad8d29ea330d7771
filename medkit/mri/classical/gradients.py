"""CG-SENSE: least squares by conjugate gradients."""

import torch
from torch import Tensor

from medkit.mri.classical.problem import check_problem, narrowed
from medkit.mri.data_consistency import conjugate_gradient_data_consistency


def cg_sense(
    zero_filled: Tensor,
    mask: Tensor,
    sens_maps: Tensor | None = None,
    weight: float = 0.01,
    n_iterations: int = 30,
) -> Tensor:
    r"""Solve for the image that fits the measurement, with its energy held down, by conjugate gradients from 0.

    .. math:: \min_x \tfrac12 \|A x - y\|^2 + \tfrac{\lambda}{2} \|x\|^2

    Source: Pruessmann et al. 2001, doi:10.1002/mrm.1241.

    Args:
        zero_filled: :math:`A^H y`, complex, ``(B, 1, H, W)``, any unit.
        mask: bool, broadcastable to ``(B, 1, H, W)``, centred.
        sens_maps: complex, ``(B, coil, H, W)``; ``None``: one uniform coil.
        weight: :math:`\lambda`, at least 0; with maps of sum of squares 1 the data weigh at most 1.
        n_iterations: number of steps, at least 1. Fewer regularise too.

    Returns:
        Image, complex, ``(B, 1, H, W)``, same unit.

    Raises:
        ValueError: if the shapes do not fit together or a number is out of its range.

    Example:
        >>> x0 = torch.ones(1, 1, 4, 4, dtype=torch.complex64)
        >>> cg_sense(x0, torch.ones(1, 1, 1, 4, dtype=torch.bool), weight=1.0)[0, 0, 0, 0]
        tensor(0.5000+0.j)
    """
    check_problem("cg_sense", zero_filled, mask, weight, n_iterations)
    start = torch.zeros_like(zero_filled)
    return conjugate_gradient_data_consistency(start, zero_filled, narrowed(mask), sens_maps, weight, n_iterations)
