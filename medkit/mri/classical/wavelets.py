"""Orthogonal Daubechies wavelets in two dimensions, with periodic boundary, as products with orthogonal matrices."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

MAX_ORDER = 10


@lru_cache(maxsize=16)
def daubechies_filter(order: int) -> tuple[float, ...]:
    """Low-pass filter of the Daubechies wavelet with so many vanishing moments.

    Found as Daubechies did (1988, doi:10.1002/cpa.3160410705): the filter's squared magnitude is a known polynomial;
    the roots inside the unit circle make the filter.

    Args:
        order: number of vanishing moments, 1 (Haar) to 10.

    Returns:
        ``2 * order`` coefficients with sum √2 and sum of squares 1, the largest first.

    Raises:
        ValueError: if ``order`` is out of range.

    Example:
        >>> [round(c, 4) for c in daubechies_filter(1)]
        [0.7071, 0.7071]
    """
    if not 1 <= order <= MAX_ORDER:
        raise ValueError(f"daubechies_filter: 'order' must be 1 to {MAX_ORDER}, got {order}")
    binomial = [1.0]
    for k in range(1, order):
        binomial.append(binomial[-1] * (order - 1 + k) / k)
    coefficients = np.array([1.0])
    # With y = sin^2(w / 2) = (2 - z - 1/z) / 4 each root y gives two z, one of them inside the circle.
    for y in np.roots(binomial[::-1]):
        pair = np.roots([1, 4 * y - 2, 1])
        coefficients = np.convolve(coefficients, [1, -pair[np.argmin(np.abs(pair))]])
    for _ in range(order):
        coefficients = np.convolve(coefficients, [1, 1])
    low = coefficients.real
    return tuple((low * (np.sqrt(2) / low.sum())).tolist())


@lru_cache(maxsize=64)
def _analysis(n: int, order: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthogonal matrix (n, n) of one level: n / 2 averages, then n / 2 details."""
    low = np.array(daubechies_filter(order))
    high = low[::-1] * (-1.0) ** np.arange(low.size)
    matrix = np.zeros((n, n))
    for i in range(n // 2):
        column = (2 * i + np.arange(low.size)) % n
        np.add.at(matrix[i], column, low)
        np.add.at(matrix[n // 2 + i], column, high)
    with torch.inference_mode(False):
        return torch.from_numpy(matrix).to(device, dtype)


def _levels(x: Tensor, order: int, n_levels: int) -> list[tuple[Tensor, Tensor, int, int]]:
    """Matrices and sizes of each level, after checks."""
    height, width = x.shape[-2:]
    factor = 2**n_levels if n_levels >= 0 else 0
    if x.is_complex() or x.ndim < 2 or not factor or height % factor or width % factor:
        raise ValueError(
            f"wavelet_forward: 'x' must be real (..., H, W) with sizes that 2^{n_levels} divides, got {x.dtype} "
            f"{tuple(x.shape)}; pad it or take fewer levels"
        )
    sizes = [(height >> i, width >> i) for i in range(n_levels)]

    def analysis(n: int) -> Tensor:
        return _analysis(n, order, x.dtype, x.device)

    return [(analysis(rows), analysis(columns), rows, columns) for rows, columns in sizes]


def wavelet_forward(x: Tensor, order: int = 4, n_levels: int = 3) -> Tensor:
    """Orthogonal wavelet transform of the last two axes, averages of the coarsest level in the first corner.

    Args:
        x: real, ``(..., H, W)``, both divisible by ``2 ** n_levels``. For complex images transform both parts.
        order: vanishing moments of the Daubechies wavelet, 1 to 10.
        n_levels: number of levels, at least 0.

    Returns:
        Coefficients, same shape and unit; :func:`wavelet_adjoint` is both the inverse and the adjoint.

    Raises:
        ValueError: if a size is not divisible or ``order`` is out of range.

    Example:
        >>> wavelet_forward(torch.ones(4, 4), order=1, n_levels=2)[0, 0]
        tensor(4.0000)
    """
    y = x.clone()
    for rows, columns, height, width in _levels(x, order, n_levels):
        y[..., :height, :width] = rows @ y[..., :height, :width] @ columns.mT
    return y


def wavelet_adjoint(y: Tensor, order: int = 4, n_levels: int = 3) -> Tensor:
    """Inverse and adjoint of :func:`wavelet_forward`.

    Args:
        y: coefficients, real, ``(..., H, W)``.
        order: as there.
        n_levels: as there.

    Returns:
        Image, same shape and unit.

    Raises:
        ValueError: as there.

    Example:
        >>> x = torch.rand(8, 8)
        >>> torch.allclose(wavelet_adjoint(wavelet_forward(x)), x, atol=1e-5)
        True
    """
    x = y.clone()
    for rows, columns, height, width in reversed(_levels(y, order, n_levels)):
        x[..., :height, :width] = rows.mT @ x[..., :height, :width] @ columns
    return x
