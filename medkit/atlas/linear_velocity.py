"""The velocity whose flow is a given affine map: linear in space, by the logarithm of its matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medkit.ops import identity_points


def velocity_of_affine(matrix: Tensor, size: Sequence[int]) -> Tensor:
    r"""Turn an affine map into the stationary velocity that flows to it.

    .. math:: v(x) = \log \begin{pmatrix} M & t \\ 0 & 1 \end{pmatrix} \begin{pmatrix} x - c \\ 1 \end{pmatrix},
        \qquad \exp(v)(x) = c + M (x - c) + t, \qquad c = \tfrac12 (S - 1)

    Exact where the flow stays in the grid; outside of it the velocity of the border holds.

    Args:
        matrix: real, ``(B, D, D + 1)``, M and t, in voxels from the centre of the grid.
        size: voxels along each axis.

    Returns:
        ``(B, D, *size)``, float32, in voxels.

    Raises:
        ValueError: if the shapes do not fit, or a matrix is not finite or has no real logarithm, as one that mirrors or
            turns by half a turn.

    Example:
        >>> velocity_of_affine(torch.tensor([[[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]]]), (4, 4))[0, :, 0, 0]
        tensor([2., 0.])
    """
    n_axes = len(size)
    if matrix.ndim != 3 or tuple(matrix.shape[1:]) != (n_axes, n_axes + 1) or not torch.isfinite(matrix).all():
        raise ValueError(
            f"velocity_of_affine: 'matrix' must be finite (B, {n_axes}, {n_axes + 1}), got {tuple(matrix.shape)}"
        )
    points = identity_points(size, matrix.float())
    centre = torch.tensor([(n - 1) / 2 for n in size], device=matrix.device).reshape(1, -1, *[1] * n_axes)
    logarithms = np.stack([_logarithm(m) for m in matrix.detach().double().cpu().numpy()])
    generator = torch.from_numpy(logarithms).to(matrix.device, torch.float32)
    shift = generator[:, :, n_axes].reshape(len(matrix), n_axes, *[1] * n_axes)
    return torch.einsum("bij,j...->bi...", generator[:, :, :n_axes], (points - centre)[0]) + shift


def _logarithm(matrix: np.ndarray) -> np.ndarray:
    """Upper rows of the logarithm of one affine map."""
    from scipy.linalg import logm

    square = np.vstack([matrix, np.eye(len(matrix) + 1)[-1:]])
    eigenvalues = np.linalg.eigvals(square)
    if (np.isclose(eigenvalues.imag, 0) & (eigenvalues.real <= 1e-6)).any():
        raise ValueError(
            f"velocity_of_affine: 'matrix' must be near the identity, without mirroring, to have a logarithm, got "
            f"{matrix.tolist()}"
        )
    return np.real(logm(square))[:-1]
