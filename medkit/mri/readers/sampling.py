"""Which samples of a k-space were measured, told from its zeros."""

from __future__ import annotations

from torch import Tensor

# Single zeros occur in fully sampled integer data; a share below this, without a whole line, is no under-sampling.
NEGLIGIBLE = 0.02


def _between(measured: Tensor, dim: int) -> Tensor:
    """Return the points with measured samples on both sides along ``dim``."""
    count = measured.cumsum(dim)
    return (count > 0) & (count < count.amax(dim, keepdim=True))


def find_mask(kspace: Tensor) -> Tensor | None:
    """Find the sampling mask of a k-space that was measured in part.

    A point is *not measured* when it is exactly zero in all coils. It is *missing* when, besides, measured points lie
    on both sides of it in its row or in its column; the other zeros are a border (zero padding, partial Fourier, the
    cut corners of an elliptical scan) and by themselves do not make a scan under-sampled. Fewer than 2 % missing
    points, without a whole missing line, are zeros by chance.

    Args:
        kspace: complex, ``(coil, H, W)``, centred, any unit.

    Returns:
        Bool on the device of ``kspace``, true where measured: ``(1, 1, W)`` when whole columns are missing,
        ``(1, H, W)`` when rows or points are. A border is false in it, except that a mask of columns says nothing of
        border rows. ``None`` when nothing is missing, or everything is zero.

    Raises:
        ValueError: if ``kspace`` is not complex ``(coil, H, W)``.

    Example:
        >>> kspace = torch.ones(2, 4, 6, dtype=torch.complex64)
        >>> kspace[..., 2] = 0
        >>> find_mask(kspace)
        tensor([[[ True,  True, False,  True,  True,  True]]])
    """
    if not kspace.is_complex() or kspace.ndim != 3:
        raise ValueError(f"find_mask: 'kspace' must be complex (coil, H, W), got {kspace.dtype} {tuple(kspace.shape)}")
    measured = kspace[0] != 0
    if bool(measured.all()):
        return None
    measured = (kspace != 0).any(0)
    missing = ~measured & (_between(measured, 0) | _between(measured, 1))
    n_missing = int(missing.sum())
    rows, columns = measured.any(1), measured.any(0)
    whole_line = bool((missing.any(0) & ~columns).any()) or bool((missing.any(1) & ~rows).any())
    if n_missing == 0 or (n_missing < NEGLIGIBLE * (n_missing + int(measured.sum())) and not whole_line):
        return None
    no_row_missing = not bool((missing.any(1) & ~rows).any())
    if no_row_missing and bool(measured[rows][:, columns].float().mean() > 1 - NEGLIGIBLE):
        return columns[None, None]
    return measured[None]
