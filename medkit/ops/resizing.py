"""Crop and pad about the centre, in image space and in k-space."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medkit.ops.fourier import centered_fft, centered_ifft


def _offsets(name: str, x: Tensor, size: Sequence[int], grow: bool) -> list[int]:
    if not 0 < len(size) <= x.ndim:
        raise ValueError(f"{name}: 'size' must name 1 to {x.ndim} trailing axes of {tuple(x.shape)}, got {tuple(size)}")
    have = x.shape[-len(size) :]
    if any(s < 1 or (s < n if grow else s > n) for s, n in zip(size, have, strict=True)):
        limit = "at least" if grow else "from 1 to"
        raise ValueError(f"{name}: 'size' must be {limit} {tuple(have)} on each axis, got {tuple(size)}")
    # The origin, index n // 2, must stay the origin.
    return [abs(n // 2 - s // 2) for s, n in zip(size, have, strict=True)]


def center_crop(x: Tensor, size: Sequence[int]) -> Tensor:
    """Cut the trailing axes to ``size`` so that index ``n // 2`` stays the centre.

    Args:
        x: any dtype, ``(..., *S)``.
        size: wanted size of the last ``len(size)`` axes, in pixels, not larger than they are.

    Returns:
        View ``(..., *size)`` of ``x``.

    Raises:
        ValueError: if ``size`` is larger than ``x`` or names too many axes.

    Example:
        >>> center_crop(torch.arange(5), [3])
        tensor([1, 2, 3])
    """
    start = _offsets("center_crop", x, size, grow=False)
    for axis, (first, n) in enumerate(zip(start, size, strict=True), -len(size)):
        x = x.narrow(axis, first, n)
    return x


def center_pad(x: Tensor, size: Sequence[int]) -> Tensor:
    """Surround with zeros up to ``size`` so that index ``n // 2`` stays the centre: the adjoint of :func:`center_crop`.

    Args:
        x: any dtype, ``(..., *S)``.
        size: wanted size of the last ``len(size)`` axes, in pixels, not smaller than they are.

    Returns:
        New tensor ``(..., *size)``.

    Raises:
        ValueError: if ``size`` is smaller than ``x`` or names too many axes.

    Example:
        >>> center_pad(torch.ones(3), [5])
        tensor([0., 1., 1., 1., 0.])
    """
    start = _offsets("center_pad", x, size, grow=True)
    out = x.new_zeros([*x.shape[: x.ndim - len(size)], *size])
    window = out
    for axis, (first, n) in enumerate(zip(start, x.shape[-len(size) :], strict=True), -len(size)):
        window = window.narrow(axis, first, n)
    window.copy_(x)
    return out


def kspace_crop(image: Tensor, size: Sequence[int]) -> Tensor:
    """Lower the resolution of an image by keeping the centre of its k-space; intensities keep their level.

    Args:
        image: complex, ``(..., *S)``.
        size: wanted size of the last ``len(size)`` axes (1 to 3 of them), in pixels, not larger than they are.

    Returns:
        Band-limited image ``(..., *size)`` over the same field of view.

    Raises:
        ValueError: if ``image`` is not complex or ``size`` is too large.

    Example:
        >>> kspace_crop(torch.ones(8, 8, dtype=torch.complex64), [4, 4]).real.mean()
        tensor(1.)
    """
    n_dims = len(size)
    level = math.sqrt(math.prod(size) / math.prod(image.shape[-n_dims:]))
    return centered_ifft(center_crop(centered_fft(image, n_dims), size), n_dims) * level


def kspace_pad(image: Tensor, size: Sequence[int]) -> Tensor:
    """Interpolate an image by surrounding its k-space with zeros; intensities keep their level.

    Args:
        image: complex, ``(..., *S)``.
        size: wanted size of the last ``len(size)`` axes (1 to 3 of them), in pixels, not smaller than they are.

    Returns:
        Interpolated image ``(..., *size)`` over the same field of view.

    Raises:
        ValueError: if ``image`` is not complex or ``size`` is too small.

    Example:
        >>> kspace_pad(torch.ones(4, 4, dtype=torch.complex64), [8, 8]).real.mean()
        tensor(1.)
    """
    n_dims = len(size)
    level = math.sqrt(math.prod(size) / math.prod(image.shape[-n_dims:]))
    return torch.mul(centered_ifft(center_pad(centered_fft(image, n_dims), size), n_dims), level)
