"""The calibration region: the centre of k-space that a mask samples fully, and the patches in it."""

import torch
from torch import Tensor

# Fewer lines than this tell nothing of how a sensitivity varies.
MIN_CALIBRATION = 4
# Bytes of patches held at once while their Gram matrix is summed.
_PATCH_BYTES = 2**26


def centre_start(n: int, size: int) -> int:
    """First index of the ``size`` samples nearest to frequency 0 of ``n``, as in MONAI's masks."""
    return (n - size + 1) // 2


def _centre_run(sampled: Tensor) -> int:
    """Largest size of a centred block of ``sampled`` (n,) without a gap."""
    n = sampled.shape[0]
    offset = torch.arange(n, device=sampled.device) - n // 2
    # The smallest centred block that holds each index: even n grow to the left first, odd n to the right.
    left, right = (2 * offset.abs(), 2 * offset + 1) if n % 2 == 0 else (2 * offset.abs() + 1, 2 * offset)
    block = torch.where(offset < 0, left, right).clamp(min=1)
    return int(torch.where(sampled, n + 1, block).min()) - 1


def sampled_centre(mask: Tensor) -> tuple[int, int]:
    """Find the largest fully sampled centre of a mask: whole lines, or a block of the aspect of k-space.

    Args:
        mask: bool, ``(H, W)``, centred.

    Returns:
        Rows and columns of the centre.
    """
    height, width = mask.shape
    candidates = [(height, _centre_run(mask.all(0))), (_centre_run(mask.all(1)), width)]
    # Blocks of the aspect of k-space, hence of one resolution along both axes, contain each other: bisect.
    low, high = 0, width
    while low < high:
        middle = (low + high + 1) // 2
        rows = max(1, round(middle * height / width))
        top, left = centre_start(height, rows), centre_start(width, middle)
        if bool(mask[top : top + rows, left : left + middle].all()):
            low = middle
        else:
            high = middle - 1
    candidates.append((max(1, round(low * height / width)) if low else 0, low))
    return max(candidates, key=lambda size: (suffices(size, mask.shape), size[0] * size[1]))


def suffices(size: tuple[int, int], full: torch.Size) -> bool:
    """Tell whether a region of ``size`` is whole or has enough samples along each axis."""
    return all(n == whole or n >= MIN_CALIBRATION for n, whole in zip(size, full, strict=True))


def check_calibration(name: str, kspace: Tensor, mask: Tensor | None, n_calibration: int | None) -> None:
    """Refuse k-space, a mask or a number of lines from which nothing can be calibrated.

    Args:
        name: the function that asks.
        kspace: complex ``(B, coil, H, W)``.
        mask: real, broadcastable to ``(B, 1, H, W)``, or ``None``.
        n_calibration: number of lines, or ``None``.

    Raises:
        ValueError: if an argument is of another form, or k-space is not finite.
    """
    if not kspace.is_complex() or kspace.ndim != 4:
        raise ValueError(f"{name}: 'kspace' must be complex (B, coil, H, W), got {kspace.dtype} {tuple(kspace.shape)}")
    if mask is None and n_calibration is None:
        raise ValueError(f"{name}: one of 'mask' and 'n_calibration' must be given, got neither")
    if n_calibration is not None and n_calibration < MIN_CALIBRATION:
        raise ValueError(f"{name}: 'n_calibration' must be at least {MIN_CALIBRATION}, got {n_calibration}")
    batch, _, height, width = kspace.shape
    if mask is not None and not (
        mask.ndim == 4
        and mask.shape[0] in (1, batch)
        and mask.shape[1] == 1
        and mask.shape[2] in (1, height)
        and mask.shape[3] in (1, width)
    ):
        raise ValueError(f"{name}: 'mask' must broadcast to {(batch, 1, height, width)}, got {tuple(mask.shape)}")
    if not bool(torch.isfinite(torch.view_as_real(kspace)).all()):
        raise ValueError(f"{name}: 'kspace' must be finite, got NaN or infinity; check the file or mask bad samples")


def sampled_centres(kspace: Tensor, mask: Tensor | None) -> list[tuple[int, int]]:
    """Find the fully sampled centre of each mask.

    Args:
        kspace: complex ``(B, coil, H, W)``.
        mask: real, broadcastable to ``(B, 1, H, W)``; ``None``: all of k-space is sampled.

    Returns:
        Rows and columns, one pair for all samples or one for each.
    """
    full = kspace.shape[-2:]
    if mask is None:
        return [(full[0], full[1])]
    return [sampled_centre(m[0].expand(full).cpu()) for m in mask.to(torch.bool)]


def calibration_blocks(
    name: str, kspace: Tensor, mask: Tensor | None, n_calibration: int | None, kernel: tuple[int, int]
) -> list[Tensor]:
    """Cut out of each sample the region that a kernel is calibrated in.

    Args:
        name: the function that asks.
        kspace: complex ``(B, coil, H, W)``.
        mask: real, broadcastable to ``(B, 1, H, W)``, or ``None``.
        n_calibration: at most so many samples along each axis; ``None``: all that the mask samples.
        kernel: rows and columns of the kernel that must fit into the region.

    Returns:
        The region of each sample, complex ``(coil, rows, columns)``.

    Raises:
        ValueError: if an argument is of another form, or a region is smaller than the kernel.
    """
    check_calibration(name, kspace, mask, n_calibration)
    sizes = sampled_centres(kspace, mask)
    blocks = []
    for i, sample in enumerate(kspace):
        size = sizes[i if len(sizes) > 1 else 0]
        if n_calibration is not None:
            size = min(size[0], n_calibration), min(size[1], n_calibration)
        if size[0] < kernel[0] or size[1] < kernel[1]:
            raise ValueError(
                f"{name}: the fully sampled centre must be at least as large as the kernel {kernel}, sample {i} has "
                f"{size}; take a smaller kernel or raise the mask's center_fractions"
            )
        top, left = (centre_start(n, m) for n, m in zip(sample.shape[-2:], size, strict=True))
        blocks.append(sample[:, top : top + size[0], left : left + size[1]])
    return blocks


def patch_gram(block: Tensor, kernel: tuple[int, int]) -> Tensor:
    r"""Sum :math:`p \, p^H` over all patches :math:`p` of a region: what every local kernel is calibrated from.

    Args:
        block: complex, ``(coil, rows, columns)``, any unit.
        kernel: rows and columns of a patch.

    Returns:
        Hermitian matrix, complex128, ``(n, n)`` with ``n = coil * rows * columns`` of the kernel, in this order.
    """
    patches = block.unfold(-2, kernel[0], 1).unfold(-2, kernel[1], 1)
    n = block.shape[0] * kernel[0] * kernel[1]
    gram = torch.zeros(n, n, dtype=torch.complex128, device=block.device)
    step = max(1, _PATCH_BYTES // (patches.shape[2] * n * block.element_size()))
    for i in range(0, patches.shape[1], step):
        part = patches[:, i : i + step].movedim(0, 2).reshape(-1, n)
        gram += (part.mT @ part.conj()).to(gram.dtype)
    return gram
