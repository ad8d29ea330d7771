"""GRAPPA: missing samples of k-space as weighted sums of measured neighbours, with weights from the centre."""

import logging
import math
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import pad

from medkit.mri.calibration import calibration_blocks, patch_gram

logger = logging.getLogger(__name__)


def _warn_of_small_centre(blocks: list[Tensor], kernel: tuple[int, int]) -> None:
    """Say that weights are fitted to too little: to fewer patches than weights, or to the same few lines again."""
    for n_coils, rows, columns in {tuple(block.shape) for block in blocks}:
        places = rows - kernel[0] + 1, columns - kernel[1] + 1
        n_weights = math.prod(kernel) * n_coils
        if math.prod(places) < n_weights or places[0] <= kernel[0] or places[1] <= kernel[1]:
            _log_small_centre(rows, columns, kernel, math.prod(places), n_weights)


@cache
def _log_small_centre(rows: int, columns: int, kernel: tuple[int, int], n_patches: int, n_weights: int) -> None:
    """Log it once in a process, not for each slice of an exam, which are all alike."""
    logger.warning(
        "GRAPPA fits up to %d weights to the %d patches of %d x %d that a fully sampled centre of %d x %d has, and its "
        "image may be worse than the zero-filled one: sample more central lines, or take a smaller kernel_size",
        *(n_weights, n_patches, *kernel, rows, columns),
    )


def _neighbourhoods(mask: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Number (H, W) of the pattern of sampled neighbours of each point: one bit for each place of the kernel."""
    height, width = mask.shape
    padded = _framed(mask.to(torch.int64), kernel)
    code = torch.zeros_like(mask, dtype=torch.int64)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            code += padded[i : i + height, j : j + width] << (i * kernel[1] + j)
    return code


def _framed(x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Zeros around the last two axes, so that the kernel fits everywhere."""
    top, left = kernel[0] // 2, kernel[1] // 2
    return pad(x, (left, left, top, top))


def _fill(kspace: Tensor, mask: Tensor, grams: Tensor, kernel: tuple[int, int], weight: float) -> Tensor:
    """Fill samples (B, coil, H, W) that share one mask (H, W), with their Gram matrices (B, n, n)."""
    batch, n_coils, _, width = kspace.shape
    area = kernel[0] * kernel[1]
    filled = kspace * mask
    padded = _framed(filled, kernel).flatten(2)
    stride = width + 2 * (kernel[1] // 2)
    code = torch.where(mask, 0, _neighbourhoods(mask, kernel))
    coil = torch.arange(n_coils, device=kspace.device) * area
    place = torch.arange(area, device=kspace.device)
    target = coil + area // 2
    for pattern in code.unique().tolist():
        if pattern == 0:
            continue
        row, column = torch.nonzero(code == pattern, as_tuple=True)
        near = place[(pattern >> place) & 1 == 1]
        source = (coil[:, None] + near).flatten()
        normal = grams[:, source[:, None], source]
        strength = normal.diagonal(dim1=-2, dim2=-1).real.mean(-1)
        # Of nothing nothing can be fitted: any ridge then gives weights of 0.
        strength = torch.where(strength > 0, strength, 1 / max(weight, 1e-12))
        ridge = (weight * strength)[:, None, None] * torch.eye(len(source), dtype=normal.dtype, device=normal.device)
        # Rows of the Gram matrix are p_a conj(p_b): targets = weights @ sources gives weights = G_ts G_ss^-1.
        weights = _solved(normal + ridge, grams[:, target[:, None], source]).to(kspace.dtype)
        offset = (near // kernel[1]) * stride + near % kernel[1]
        neighbours = padded[:, :, (row * stride + column) + offset[:, None]]
        filled[:, :, row, column] = weights @ neighbours.reshape(batch, len(source), -1)
    return filled


def _solved(normal: Tensor, targets: Tensor) -> Tensor:
    try:
        return torch.linalg.solve(normal, targets, left=False)
    except torch.linalg.LinAlgError as error:
        raise ValueError(
            "grappa: 'weight' must be above 0 for this k-space, whose centre is empty, has coils that are copies of "
            "others, or fewer patches than the kernel has weights"
        ) from error


@torch.no_grad()
def grappa(
    kspace: Tensor,
    mask: Tensor,
    n_calibration: int | None = None,
    kernel_size: tuple[int, int] = (5, 5),
    weight: float = 0.01,
) -> Tensor:
    r"""Fill the missing samples of k-space from their measured neighbours in all coils.

    Each pattern of measured neighbours that a missing sample has within the kernel gets its own weights, fitted where
    the centre is fully sampled, by least squares with a ridge. Any Cartesian mask will do, lines or points; the more
    regular it is, the fewer patterns and the faster. Samples without any measured neighbour stay 0. Combine the coils
    afterwards, for example by :func:`root_sum_of_squares`. A centre with fewer patches than the kernel has weights
    (its points times the coils), or narrower than two kernels, is logged as a warning. No gradient.
    Source: Griswold et al. 2002, doi:10.1002/mrm.10171.

    Args:
        kspace: complex, ``(B, coil, H, W)``, centred, any unit.
        mask: bool, broadcastable to ``(B, 1, H, W)``, centred; samples of one mask are filled together.
        n_calibration: fit within at most so many central samples along each axis; ``None``: all that ``mask`` samples.
        kernel_size: rows and columns of the neighbourhood, odd, at most 62 points.
        weight: of the ridge, as a part of the mean energy of a neighbour, at least 0.

    Returns:
        K-space, complex, ``(B, coil, H, W)``, measured samples unchanged, those that ``mask`` lacks replaced.

    Raises:
        ValueError: if the shapes do not fit, a value is out of its range or not finite, or the fully sampled centre is
            smaller than the kernel, or cannot be fitted with ``weight`` 0.

    Example:
        >>> mask = (torch.arange(32) % 2 == 0) | ((torch.arange(32) - 16).abs() < 6)
        >>> grappa(torch.randn(1, 4, 32, 32, dtype=torch.complex64), mask.reshape(1, 1, 1, 32)).shape
        torch.Size([1, 4, 32, 32])
    """
    kernel = (int(kernel_size[0]), int(kernel_size[1]))
    if len(kernel_size) != 2 or min(kernel) < 1 or kernel[0] % 2 == 0 or kernel[1] % 2 == 0 or math.prod(kernel) > 62:
        raise ValueError(f"grappa: 'kernel_size' must be two odd sizes with a product of at most 62, got {kernel_size}")
    if not 0 <= weight < math.inf:
        raise ValueError(f"grappa: 'weight' must be at least 0, got {weight}")
    blocks = calibration_blocks("grappa", kspace, mask, n_calibration, kernel)
    _warn_of_small_centre(blocks, kernel)
    grams = torch.stack([patch_gram(block, kernel) for block in blocks])
    masks = mask.to(kspace.device, torch.bool).expand(-1, 1, *kspace.shape[-2:])[:, 0]
    if len(masks) == 1:
        return _fill(kspace, masks[0], grams, kernel, weight)
    samples = range(len(kspace))
    return torch.cat([_fill(kspace[i : i + 1], masks[i], grams[i : i + 1], kernel, weight) for i in samples])
