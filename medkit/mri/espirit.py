"""ESPIRiT: coil sensitivities as the eigenvectors, pixel by pixel, of what the patches of the calibration region span.

Source: Uecker et al. 2014, doi:10.1002/mrm.24751. The sum over all kernels of their images' outer products is a
trigonometric polynomial in the pixel, of a degree below the kernel's size; it is written down once from the
projector on the kernels, and evaluated exactly and a few rows at a time.
"""

import math

import torch
from torch import Tensor

from medkit.mri.calibration import calibration_blocks, patch_gram

# Numbers held at once in the pixel-wise eigenproblem: what a processor's cache holds, or a small part of a GPU.
_CHUNK = {"cpu": 2**18, "cuda": 2**26}


def _lags(block: Tensor, kernel_size: int, threshold: float) -> Tensor:
    """Coefficients (2 k - 1, 2 k - 1, coil, coil) of the polynomial whose values are the matrices of the pixels."""
    gram = patch_gram(block, (kernel_size, kernel_size))
    values, vectors = torch.linalg.eigh(gram)
    # The eigenvalues are squares of singular values. An empty region has no kernel.
    spanned = vectors * (values > threshold**2 * values[-1])
    n_coils, area = block.shape[0], kernel_size**2
    projector = (spanned @ vectors.mH).reshape(n_coils, area, n_coils, area).permute(0, 2, 1, 3)
    index = torch.arange(kernel_size, device=block.device)
    lag = index[:, None] - index + kernel_size - 1
    size = 2 * kernel_size - 1
    flat = (lag[:, None, :, None] * size + lag[None, :, None, :]).reshape(-1)
    sums = torch.zeros(n_coils, n_coils, size * size, dtype=gram.dtype, device=block.device)
    sums.index_add_(2, flat, projector.reshape(n_coils, n_coils, -1))
    return sums.reshape(n_coils, n_coils, size, size).permute(2, 3, 0, 1) / area


def _waves(n: int, kernel_size: int, device: torch.device) -> Tensor:
    """Waves (n, 2 k - 1) of each lag over centred pixels, complex128."""
    pixel = torch.arange(n, dtype=torch.float64, device=device) - n // 2
    lag = torch.arange(1 - kernel_size, kernel_size, dtype=torch.float64, device=device)
    phase = pixel[:, None] * lag * (2 * math.pi / n)
    return torch.polar(torch.ones_like(phase), phase)


def _power_method(matrices: Tensor, n_iterations: int) -> tuple[Tensor, Tensor]:
    """Largest eigenvalues (n,) and eigenvectors (n, coil) of Hermitian matrices (n, coil, coil), from ones."""
    vector = torch.ones_like(matrices[..., :1])
    value = torch.zeros_like(vector[:, :1].real)
    tiny = torch.finfo(value.dtype).tiny
    squared = torch.bmm(matrices, matrices)
    # Four steps at once with the fourth power; the last ones with the matrix itself, which give the eigenvalue.
    n_fourfold = (n_iterations - 1) // 4
    steps = [(torch.bmm(squared, squared), n_fourfold), (matrices, n_iterations - 4 * n_fourfold)]
    for matrix, repeats in steps:
        for _ in range(repeats):
            vector = torch.bmm(matrix, vector)
            value = torch.linalg.vector_norm(torch.view_as_real(vector), dim=(1, 2, 3))[:, None, None]
            vector = vector / value.clamp(min=tiny)
    return value[:, 0, 0], vector[..., 0]


def _eigenvectors(matrices: Tensor, n_maps: int, n_iterations: int | None) -> tuple[Tensor, Tensor]:
    """Eigenvalues (n, maps) and eigenvectors (n, maps, coil), the largest first."""
    if n_maps == 1 and n_iterations is not None:
        value, vector = _power_method(matrices, n_iterations)
        return value[:, None], vector[:, None]
    values, vectors = torch.linalg.eigh(matrices)
    return values[:, -n_maps:].flip(1), vectors[..., -n_maps:].flip(2).mT


def _strongest(block: Tensor) -> Tensor:
    """Weights (coil,) of the combination of coils with the most signal in a region."""
    flat = block.flatten(1)
    return torch.linalg.eigh(flat @ flat.mH).eigenvectors[:, -1]


def _check(
    kspace: Tensor, kernel_size: int, threshold: float, crop: float, n_iterations: int | None, n_maps: int
) -> None:
    name = "espirit_maps"
    if kernel_size < 2:
        raise ValueError(f"{name}: 'kernel_size' must be at least 2, got {kernel_size}")
    if not 0 < threshold < 1:
        raise ValueError(f"{name}: 'threshold' must lie between 0 and 1, got {threshold}")
    if not 0 <= crop < 1:
        raise ValueError(f"{name}: 'crop' must be at least 0 and below 1, got {crop}")
    if n_iterations is not None and n_iterations < 1:
        raise ValueError(f"{name}: 'n_iterations' must be at least 1, or None, got {n_iterations}")
    if kspace.ndim == 4 and not 1 <= n_maps <= kspace.shape[1]:
        raise ValueError(f"{name}: 'n_maps' must be 1 to the number of coils {kspace.shape[1]}, got {n_maps}")


@torch.no_grad()
def espirit_maps(
    kspace: Tensor,
    mask: Tensor | None = None,
    n_calibration: int | None = 24,
    kernel_size: int = 6,
    threshold: float = 0.02,
    crop: float = 0.95,
    n_iterations: int | None = 100,
    n_maps: int = 1,
) -> tuple[Tensor, Tensor]:
    r"""Estimate coil sensitivities by ESPIRiT, for a batch of slices.

    All patches of the fully sampled centre are weighted sums of a few kernels :math:`v_k`. True sensitivities are
    what the projection on these leaves as it is: with :math:`a_k(r)` the kernel's image, one value for each coil,

    .. math:: \Big(\tfrac{1}{n} \sum_k a_k(r) \, a_k(r)^H\Big) \, S(r) = \lambda(r) \, S(r), \qquad \lambda(r) = 1.

    Where there is no signal the eigenvalue is smaller, and the maps are cropped there. Where the image is folded by too
    small a field of view, two eigenvalues are 1, and two sets of maps describe the coils. Each set has
    :math:`\sum_c |S_c|^2 = 1`, with its phase relative to the strongest combination of all coils, so that the phase of
    the object stays in the image.

    Memory is bounded: apart from input and output a few MB on CPUs and about 1 GB on GPUs. No gradient.

    Args:
        kspace: complex, ``(B, coil, H, W)``, centred, any unit; only its centre is read.
        mask: bool, broadcastable to ``(B, 1, H, W)``: the largest centre that it samples fully is used. ``None``:
            ``kspace`` is fully sampled.
        n_calibration: use at most so many central samples along each axis; ``None``: all that ``mask`` samples.
        kernel_size: rows and columns of a patch, at least 2.
        threshold: kernels with singular values below this part of the largest are noise.
        crop: maps are 0 where the eigenvalue is not above it, 0 to 1.
        n_iterations: of the power method, for one set of maps. ``None``: exact eigenvectors, as for several sets.
        n_maps: number of sets, at most the number of coils.

    Returns:
        Maps, complex, ``(B, n_maps, coil, H, W)``, and their eigenvalues, real, ``(B, n_maps, H, W)``, 0 to 1, largest
        first, not cropped.

    Raises:
        ValueError: if the shapes do not fit, a value is out of its range or not finite, or the fully sampled centre is
            smaller than the kernel.

    Example:
        >>> maps, values = espirit_maps(torch.randn(1, 4, 32, 32, dtype=torch.complex64))
        >>> maps.shape, values.shape
        (torch.Size([1, 1, 4, 32, 32]), torch.Size([1, 1, 32, 32]))
    """
    _check(kspace, kernel_size, threshold, crop, n_iterations, n_maps)
    blocks = calibration_blocks("espirit_maps", kspace, mask, n_calibration, (kernel_size, kernel_size))
    batch, n_coils, height, width = kspace.shape
    maps = kspace.new_empty(batch, n_maps, n_coils, height, width)
    values = maps.real.new_empty(batch, n_maps, height, width)
    along_rows = _waves(height, kernel_size, kspace.device).to(kspace.dtype)
    along_columns = _waves(width, kernel_size, kspace.device)
    step = max(1, _CHUNK.get(kspace.device.type, _CHUNK["cuda"]) // (width * n_coils**2))
    for i, block in enumerate(blocks):
        lags = _lags(block, kernel_size, threshold)
        # (2 k - 1, W * coil * coil): the polynomial of each column, in the row.
        columns = torch.einsum("wk,lkcd->lwcd", along_columns, lags).flatten(1).to(kspace.dtype)
        reference = _strongest(block).conj()
        for top in range(0, height, step):
            rows = slice(top, min(top + step, height))
            matrices = (along_rows[rows] @ columns).reshape(-1, n_coils, n_coils)
            value, vector = _eigenvectors(matrices, n_maps, n_iterations)
            phase = (vector @ reference).sgn()
            vector = vector * torch.where(phase == 0, 1, phase.conj())[..., None] * (value > crop)[..., None]
            values[i, :, rows] = value.mT.reshape(n_maps, -1, width)
            maps[i, :, :, rows] = vector.permute(1, 2, 0).reshape(n_maps, n_coils, -1, width)
    return maps, values
