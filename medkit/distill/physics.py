"""What goes wrong while an MR slice is acquired: motion, ghosts, spikes, wrap-around and loss of resolution.

All functions take and give complex images ``(H, W)`` whose rows are the phase-encoding lines of k-space, act in k-space
or on the complex image (as the scanner does, before the magnitude is taken), and change nothing at strength 0.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medkit.ops import centered_fft, centered_ifft


def acquire_moving(poses: Tensor, pose_of_line: Tensor) -> Tensor:
    """Assemble k-space from lines that were acquired while the object was in several poses.

    Args:
        poses: the object in each pose, complex64, ``(P, H, W)``.
        pose_of_line: in which pose each line was acquired, int64, ``(H,)``, 0 to P - 1; line ``H // 2`` is the centre.

    Returns:
        Image, complex64, ``(H, W)``.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> acquire_moving(torch.ones(2, 4, 4) + 0j, torch.tensor([0, 0, 0, 1])).shape
        torch.Size([4, 4])
    """
    if poses.ndim != 3 or pose_of_line.shape != poses.shape[1:2]:
        raise ValueError(
            "acquire_moving: wanted 'poses' (P, H, W) and 'pose_of_line' (H,), "
            f"got {tuple(poses.shape)} and {tuple(pose_of_line.shape)}"
        )
    kspace = centered_fft(poses, 2)
    return centered_ifft(kspace[pose_of_line, torch.arange(len(pose_of_line), device=poses.device)], 2)


def add_ghosts(image: Tensor, strength: float, period: float, phase: float = 0.0) -> Tensor:
    r"""Let the signal pulse from line to line, which leaves ghosts at ``H / period`` rows on either side.

    .. math:: k_h \leftarrow k_h (1 + a \cos(2 \pi h / T + \varphi))

    Args:
        image: complex64, ``(H, W)``.
        strength: amplitude :math:`a`, each ghost is half as bright.
        period: :math:`T` in lines, at least 2.
        phase: :math:`\varphi` in radians.

    Returns:
        Image, complex64, ``(H, W)``.

    Raises:
        ValueError: if ``period`` is below 2.
    """
    if period < 2:
        raise ValueError(f"add_ghosts: 'period' must be at least 2 lines, got {period}")
    line = torch.arange(image.shape[0], device=image.device) - image.shape[0] // 2
    pulse = 1 + strength * torch.cos(2 * math.pi * line / period + phase)
    return centered_ifft(centered_fft(image, 2) * pulse[:, None], 2)


def add_spike(image: Tensor, strength: float, place: tuple[int, int], phase: float = 0.0) -> Tensor:
    """Add a spark to one sample of k-space, which covers the image with stripes.

    Args:
        image: complex64, ``(H, W)``.
        strength: height of the spark in units of the largest magnitude in k-space.
        place: row and column of the sample, seen from the centre of k-space.
        phase: of the spark in radians.

    Returns:
        Image, complex64, ``(H, W)``.

    Raises:
        ValueError: if ``place`` is outside k-space.
    """
    row, column = (offset + n // 2 for offset, n in zip(place, image.shape, strict=True))
    if not (0 <= row < image.shape[0] and 0 <= column < image.shape[1]):
        raise ValueError(f"add_spike: 'place' must be inside k-space of {tuple(image.shape)}, got {place}")
    kspace = centered_fft(image, 2)
    kspace[row, column] += strength * kspace.abs().max() * complex(math.cos(phase), math.sin(phase))
    return centered_ifft(kspace, 2)


def wrap_around(image: Tensor, shift: float) -> Tensor:
    """Shift the field of view along the rows: what leaves it at one edge comes in at the other.

    Args:
        image: complex64, ``(H, W)``.
        shift: in rows, fractions allowed, positive towards higher rows.

    Returns:
        Image, complex64, ``(H, W)``.
    """
    line = torch.arange(image.shape[0], device=image.device) - image.shape[0] // 2
    ramp = torch.exp(-2j * math.pi * shift / image.shape[0] * line)
    return centered_ifft(centered_fft(image, 2) * ramp[:, None], 2)


def lower_resolution(image: Tensor, sigma: float) -> Tensor:
    """Weight k-space with a Gaussian, which smooths the image.

    Args:
        image: complex64, ``(H, W)``.
        sigma: standard deviation of the smoothing in pixels.

    Returns:
        Image, complex64, ``(H, W)``.
    """
    rows, columns = ((torch.arange(n, device=image.device) - n // 2) / n for n in image.shape)
    square = rows[:, None].square() + columns.square()
    return centered_ifft(centered_fft(image, 2) * torch.exp(-2 * (math.pi * sigma) ** 2 * square), 2)


def shade(image: Tensor, field: Tensor, strength: float) -> Tensor:
    r"""Multiply with a receive bias :math:`e^{a f}`.

    Args:
        image: complex64, ``(H, W)``.
        field: :math:`f`, smooth, float32, ``(H, W)``.
        strength: :math:`a`.

    Returns:
        Image, complex64, ``(H, W)``.
    """
    return image * torch.exp(strength * field)
