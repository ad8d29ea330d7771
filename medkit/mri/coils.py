"""Several receive coils: combine their images, and estimate their sensitivities from the centre of k-space."""

import math

import torch
from torch import Tensor

from medkit.mri.calibration import MIN_CALIBRATION, centre_start, check_calibration, sampled_centres, suffices
from medkit.ops import centered_ifft


def root_sum_of_squares(x: Tensor, dim: int = 1, keepdim: bool = False) -> Tensor:
    """Combine coil images by the root of the sum of their squared magnitudes.

    Args:
        x: real or complex coil images, any shape, any unit.
        dim: the coil axis.
        keepdim: keep the coil axis with size 1.

    Returns:
        Real, non-negative magnitude image, same unit.

    Example:
        >>> root_sum_of_squares(torch.tensor([[3.0, 4.0]]))
        tensor([5.])
    """
    if x.is_complex() and not x.requires_grad:
        # Twenty times faster on CPUs than the norm of complex numbers, which alone has a gradient at 0.
        return (x.real.square() + x.imag.square()).sum(dim, keepdim=keepdim).sqrt()
    return torch.linalg.vector_norm(x, dim=dim, keepdim=keepdim)


def sense_combine(coil_images: Tensor, sens_maps: Tensor) -> Tensor:
    r"""Combine coil images by their sensitivities: :math:`\sum_c \bar S_c x_c`, which keeps the phase of the object.

    Args:
        coil_images: complex, ``(B, coil, H, W)``, any unit.
        sens_maps: complex, ``(B, coil, H, W)``, sum of squared magnitudes 1 where there is signal.

    Returns:
        Image, complex, ``(B, 1, H, W)``.

    Raises:
        ValueError: if the two differ in shape or are not complex.

    Example:
        >>> x = torch.ones(1, 4, 8, 8, dtype=torch.complex64)
        >>> sense_combine(x, x / 2)[0, 0, 0, 0]
        tensor(2.+0.j)
    """
    if coil_images.shape != sens_maps.shape or not (coil_images.is_complex() and sens_maps.is_complex()):
        raise ValueError(
            "sense_combine: 'coil_images' and 'sens_maps' must be complex and of one shape (B, coil, H, W), got "
            f"{coil_images.dtype} {tuple(coil_images.shape)} and {sens_maps.dtype} {tuple(sens_maps.shape)}"
        )
    return (coil_images * sens_maps.conj()).sum(1, keepdim=True)


def _taper(n: int, size: int, device: torch.device) -> Tensor:
    """Window (n,): 1 over the inner half of ``size`` centred samples, a cosine down at their ends, 0 outside."""
    if size == n:
        return torch.ones(n, device=device)
    offset = (torch.arange(n, device=device) - n // 2).abs() * 2 / (size + 1)
    window = 0.5 + 0.5 * torch.cos(math.pi * (2 * offset.clamp(0.5, 1) - 1))
    inside = torch.zeros_like(window)
    inside[centre_start(n, size) : centre_start(n, size) + size] = 1
    return window * inside


def _limited(size: tuple[int, int], full: torch.Size, n_calibration: int) -> tuple[int, int]:
    """Cut a region down to ``n_calibration`` lines, or to a block of as many columns."""
    rows, columns = size
    if rows == full[0]:
        return rows, min(columns, n_calibration)
    if columns == full[1]:
        return min(rows, n_calibration), columns
    part = min(1.0, n_calibration / columns)
    return max(1, round(rows * part)), max(1, round(columns * part))


def _calibration_window(mask: Tensor | None, kspace: Tensor, n_calibration: int | None) -> Tensor:
    """Weights (B or 1, 1, H, W) that cut the calibration region out of ``kspace``."""
    full = kspace.shape[-2:]
    windows = []
    for i, size in enumerate(sampled_centres(kspace, mask)):
        if n_calibration is not None:
            size = _limited(size, full, n_calibration)
        if not suffices(size, full):
            raise ValueError(
                f"estimate_sens_maps: 'mask' must sample a centre of at least {MIN_CALIBRATION} lines fully, sample "
                f"{i} has {min(size)}; raise the mask's center_fractions or, where the scanner sampled so, give "
                "'sens_maps'"
            )
        rows, columns = (_taper(n, part, kspace.device) for n, part in zip(full, size, strict=True))
        windows.append(rows[:, None] * columns[None, :])
    return torch.stack(windows)[:, None]


def estimate_sens_maps(
    kspace: Tensor, mask: Tensor | None = None, n_calibration: int | None = None, threshold: float = 0.01
) -> Tensor:
    r"""Estimate coil sensitivities from the fully sampled centre of k-space.

    The centre, tapered at its ends, gives smooth images :math:`m_c`; their phase is taken relative to the strongest
    combination of all coils, so that the maps stay smooth and the phase of the object stays in the image, then

    .. math:: S_c = m_c / \max(\mathrm{rss}(m), \tau \, \mathrm{rss}_{99\%}).

    Hence :math:`\sum_c |S_c|^2` is 1 wherever the smooth image exceeds the threshold and falls to 0 in the background;
    it is never above 1. One coil gets ones.

    Args:
        kspace: complex, ``(B, coil, H, W)``, centred, any unit; only its centre is read.
        mask: bool, broadcastable to ``(B, 1, H, W)``: the largest centre that it samples fully is used, whole lines
            where lines are sampled whole. ``None``: ``kspace`` is fully sampled.
        n_calibration: use at most so many central lines; ``None``: all that ``mask`` samples.
        threshold: :math:`\tau`, part of the 99th percentile of the smooth image below which there is no signal.

    Returns:
        Maps, complex, ``(B, coil, H, W)``.

    Raises:
        ValueError: if the shapes do not fit, values are not finite, or fewer than 4 central lines are fully sampled.

    Example:
        >>> estimate_sens_maps(torch.ones(1, 2, 16, 16, dtype=torch.complex64), n_calibration=8).abs()[0, 0, 8, 8]
        tensor(0.7071)
    """
    check_calibration("estimate_sens_maps", kspace, mask, n_calibration)
    if kspace.shape[1] == 1:
        return torch.ones_like(kspace)
    smooth = centered_ifft(kspace * _calibration_window(mask, kspace, n_calibration))
    flat = smooth.flatten(2)
    # The strongest combination of coils, as a sum over space of m m^H, and its overall phase set to zero.
    strongest = torch.linalg.eigh(flat @ flat.mH).eigenvectors[..., -1]
    virtual = (smooth * strongest.conj()[..., None, None]).sum(1, keepdim=True)
    virtual = virtual * torch.sgn(virtual.sum((-2, -1), keepdim=True)).conj()
    phase = torch.where(virtual == 0, 1, torch.sgn(virtual))
    combined = root_sum_of_squares(smooth, dim=1, keepdim=True)
    level = torch.quantile(combined.flatten(1), 0.99, dim=1)[:, None, None, None] * threshold
    return smooth * phase.conj() / torch.maximum(combined, level).clamp(min=torch.finfo(combined.dtype).tiny)


def with_object_phase(
    sens_maps: Tensor, kspace: Tensor, mask: Tensor | None = None, n_calibration: int | None = None
) -> Tensor:
    r"""Put the phase of the object, as far as the centre of k-space shows it, into coil sensitivities.

    .. math:: S'_c = S_c \, e^{i \arg \sum_j \bar S_j m_j}, \quad m_c \text{ the smooth images of the centre}

    The image combined with such maps is nearly real: it looks like the magnitude images of other contrasts.

    Args:
        sens_maps: complex, ``(B, coil, H, W)``; of one coil usually ones.
        kspace: complex, same shape, centred, any unit; only its centre is read.
        mask: as for :func:`estimate_sens_maps`.
        n_calibration: as for :func:`estimate_sens_maps`.

    Returns:
        Maps of the same magnitude, same shape.

    Raises:
        ValueError: as :func:`estimate_sens_maps`.

    Example:
        >>> kspace = torch.full((1, 1, 16, 16), 1j)
        >>> with_object_phase(torch.ones_like(kspace), kspace)[0, 0, 8, 8]
        tensor(0.+1.j)
    """
    check_calibration("with_object_phase", kspace, mask, n_calibration)
    smooth = centered_ifft(kspace * _calibration_window(mask, kspace, n_calibration))
    combined = (sens_maps.conj() * smooth).sum(1, keepdim=True)
    return sens_maps * torch.where(combined == 0, 1, torch.sgn(combined))
