"""Compressed sensing: an image of few wavelets, by the fast iterative shrinkage algorithm (FISTA)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from medkit.mri.channels import channels_to_complex, complex_to_channels
from medkit.mri.classical.problem import check_problem, largest_eigenvalue, narrowed
from medkit.mri.classical.wavelets import wavelet_adjoint, wavelet_forward
from medkit.mri.physics import sense_normal


def _default_levels(size: tuple[int, int], order: int) -> int:
    """As many levels as leave the coarsest longer than the filter, at least 1."""
    return max(1, int(math.log2(max(2.0, min(size) / (2 * order - 1)))))


def shrunk(x: Tensor, radius: Tensor, order: int, n_levels: int) -> Tensor:
    """Draw the wavelet coefficients of complex images (B, 1, H, W) towards 0 by a radius, (B or 1, 1, 1, 1)."""
    channels = wavelet_forward(complex_to_channels(x), order, n_levels)
    squared = channels.square().sum(1, keepdim=True)
    # 1 - radius / magnitude where that is positive.
    factor = (1 - radius * torch.rsqrt(squared.clamp(min=torch.finfo(squared.dtype).tiny))).clamp(min=0)
    return channels_to_complex(wavelet_adjoint(channels * factor, order, n_levels))


def l1_wavelet(
    zero_filled: Tensor,
    mask: Tensor,
    sens_maps: Tensor | None = None,
    weight: float = 0.001,
    n_iterations: int = 100,
    order: int = 4,
    n_levels: int | None = None,
) -> Tensor:
    r"""Find the image of few wavelet coefficients that fits the measurement.

    .. math:: \min_x \tfrac12 \|A x - y\|^2 + \lambda \, \|W x\|_1

    with orthogonal Daubechies wavelets :math:`W`, periodic. An image whose size the levels do not divide is continued
    to the next that they do, by samples that are free and that no data reach. Sources: Lustig et al. 2007,
    doi:10.1002/mrm.21391; Beck and Teboulle 2009, doi:10.1137/080716542.

    Args:
        zero_filled: :math:`A^H y`, complex, ``(B, 1, H, W)``, scaled to about 1.
        mask: bool, broadcastable to ``(B, 1, H, W)``, centred.
        sens_maps: complex, ``(B, coil, H, W)``; ``None``: one uniform coil.
        weight: :math:`\lambda`, at least 0, in the unit of ``zero_filled``. All coefficients are drawn to 0 alike.
        n_iterations: number of steps, at least 1.
        order: vanishing moments of the wavelet, 1 to 10.
        n_levels: number of levels, at least 1; ``None``: as many as leave the coarsest longer than the filter.

    Returns:
        Image, complex, ``(B, 1, H, W)``, same unit.

    Raises:
        ValueError: if the shapes do not fit together or a number is out of its range.

    Example:
        >>> x0 = torch.ones(1, 1, 8, 8, dtype=torch.complex64)
        >>> l1_wavelet(x0, torch.ones(1, 1, 1, 8, dtype=torch.bool))[0, 0, 0, 0].abs().round(decimals=2)
        tensor(1.)
    """
    check_problem("l1_wavelet", zero_filled, mask, weight, n_iterations)
    if n_levels is not None and n_levels < 1:
        raise ValueError(f"l1_wavelet: 'n_levels' must be at least 1, or None, got {n_levels}")
    height, width = zero_filled.shape[-2:]
    levels = _default_levels((height, width), order) if n_levels is None else n_levels
    border = (0, -width % 2**levels, 0, -height % 2**levels)
    mask = narrowed(mask)
    step = 1 / largest_eigenvalue(zero_filled, sens_maps)
    x = pad(torch.zeros_like(zero_filled), border)
    ahead, momentum = x, 1.0
    for _ in range(n_iterations):
        gradient = sense_normal(ahead[..., :height, :width], mask, sens_maps) - zero_filled
        previous = x
        x = shrunk(ahead - step * pad(gradient, border), weight * step, order, levels)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        ahead = x + ((momentum - 1) / following) * (x - previous)
        momentum = following
    return x[..., :height, :width]
