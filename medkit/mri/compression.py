"""Coil compression: fewer virtual coils that hold nearly all signal, one mixture for all or one per readout position.

Source: Huang et al. 2008, doi:10.1016/j.mri.2007.04.010 (by singular values); Zhang et al. 2013,
doi:10.1002/mrm.24267 (geometric: per readout position, and aligned).
"""

import torch
from torch import Tensor

from medkit.mri.calibration import centre_start, check_calibration, sampled_centres
from medkit.ops import centered_fft, centered_ifft


def _along_rows(x: Tensor, inverse: bool) -> Tensor:
    """Centred transform of the row axis alone."""
    transform = centered_ifft if inverse else centered_fft
    return transform(x.transpose(-2, -1).contiguous(), 1).transpose(-2, -1)


def _aligned(matrices: Tensor) -> Tensor:
    """Turn each matrix (B, H, n, coil) within its rows to be nearest to its neighbour towards the middle."""
    height = matrices.shape[1]
    turned = list(matrices.unbind(1))
    middle = height // 2
    for i in [*range(middle + 1, height), *range(middle - 1, -1, -1)]:
        neighbour = turned[i - 1] if i > middle else turned[i + 1]
        left, _, right = torch.linalg.svd(neighbour @ turned[i].mH)
        turned[i] = left @ right @ turned[i]
    return torch.stack(turned, 1)


@torch.no_grad()
def coil_compression_matrix(
    kspace: Tensor, n_coils: int, mask: Tensor | None = None, n_calibration: int | None = 24, mode: str = "svd"
) -> Tensor:
    r"""Find the mixtures of coils with the most signal, from the fully sampled centre of k-space.

    The rows of the result are orthonormal, so that noise stays as it is: white noise stays white.

    Args:
        kspace: complex, ``(B, coil, H, W)``, centred, any unit; only its centre is read.
        n_coils: number of virtual coils, at most that of the coils.
        mask: bool, broadcastable to ``(B, 1, H, W)``: its fully sampled centre is used. ``None``: ``kspace`` is fully
            sampled.
        n_calibration: use at most so many central lines; ``None``: all that ``mask`` samples.
        mode: ``"svd"``: one mixture for all samples; ``"geometric"``: one for each position along the readout, the
            axis ``H`` along which lines are sampled whole, each turned to be near its neighbours. The latter needs
            fewer virtual coils.

    Returns:
        Complex, ``(B, n_coils, coil)``, or ``(B, H, n_coils, coil)`` for ``"geometric"``, same dtype as ``kspace``.

    Raises:
        ValueError: if the shapes do not fit, a value is not finite, ``mode`` is unknown, there are fewer coils than
            ``n_coils``, or no centre is fully sampled (in mode ``"geometric"``, by whole lines along ``H``).

    Example:
        >>> matrix = coil_compression_matrix(torch.randn(1, 8, 32, 32, dtype=torch.complex64), 3)
        >>> matrix.shape
        torch.Size([1, 3, 8])
    """
    name = "coil_compression_matrix"
    check_calibration(name, kspace, mask, n_calibration)
    if mode not in ("svd", "geometric"):
        raise ValueError(f"{name}: 'mode' must be 'svd' or 'geometric', got {mode!r}")
    if not 1 <= n_coils <= kspace.shape[1]:
        raise ValueError(f"{name}: 'n_coils' must be 1 to the number of coils {kspace.shape[1]}, got {n_coils}")
    sizes = sampled_centres(kspace, mask)
    height, width = kspace.shape[-2:]
    covariances = []
    for i, sample in enumerate(kspace):
        rows, columns = sizes[i if len(sizes) > 1 else 0]
        if mode == "geometric" and rows < height:
            raise ValueError(
                f"{name}: mode 'geometric' needs a mask of whole lines along H, sample {i} has a centre of {rows} of "
                f"{height} rows; take mode 'svd'"
            )
        if n_calibration is not None:
            rows = rows if mode == "geometric" else min(rows, n_calibration)
            columns = min(columns, n_calibration)
        if min(rows, columns) < 1:
            raise ValueError(f"{name}: 'mask' must sample a centre fully, sample {i} has none")
        top, left = centre_start(height, rows), centre_start(width, columns)
        block = sample[:, top : top + rows, left : left + columns]
        if mode == "geometric":
            block = _along_rows(block, inverse=True).transpose(0, 1)
            covariances.append(block @ block.mH)
        else:
            covariances.append(block.flatten(1) @ block.flatten(1).mH)
    # The largest last, hence the strongest mixture first after the flip.
    vectors = torch.linalg.eigh(torch.stack(covariances)).eigenvectors[..., -n_coils:].flip(-1)
    return _aligned(vectors.mH) if mode == "geometric" else vectors.mH.resolve_conj()


def compress_coils(kspace: Tensor, matrix: Tensor) -> Tensor:
    """Mix coils to virtual ones.

    Args:
        kspace: complex, ``(B, coil, H, W)``, centred. Zeros where lines are missing stay zeros.
        matrix: complex, of :func:`coil_compression_matrix`: ``(B, n_coils, coil)`` or ``(B, H, n_coils, coil)``.

    Returns:
        Complex, ``(B, n_coils, H, W)``, same unit.

    Raises:
        ValueError: if the two do not fit together.

    Example:
        >>> kspace = torch.randn(1, 8, 32, 32, dtype=torch.complex64)
        >>> compress_coils(kspace, coil_compression_matrix(kspace, 3)).shape
        torch.Size([1, 3, 32, 32])
    """
    fits = kspace.ndim == 4 and matrix.ndim in (3, 4) and kspace.is_complex() and matrix.is_complex()
    if fits:
        fits = matrix.shape[-1] == kspace.shape[1] and matrix.shape[0] in (1, kspace.shape[0])
    if not fits or (matrix.ndim == 4 and matrix.shape[1] != kspace.shape[2]):
        raise ValueError(
            "compress_coils: 'matrix' must be complex (B, n_coils, coil) or (B, H, n_coils, coil) for complex 'kspace' "
            f"(B, coil, H, W), got {matrix.dtype} {tuple(matrix.shape)} and {kspace.dtype} {tuple(kspace.shape)}"
        )
    if matrix.ndim == 3:
        return torch.einsum("bnc,bchw->bnhw", matrix.expand(kspace.shape[0], -1, -1), kspace)
    rows = _along_rows(kspace, inverse=True)
    mixed = torch.einsum("bhnc,bchw->bnhw", matrix.expand(kspace.shape[0], -1, -1, -1), rows)
    return _along_rows(mixed, inverse=False)
