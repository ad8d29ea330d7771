"""The normal operator of a non-uniform Fourier transform as a convolution: two FFTs of about twice the size.

Source: Fessler et al. 2005, doi:10.1109/TSP.2005.853152. There and back, an image is convolved with the point spread
function of the trajectory, whose values are needed over differences of pixels, n - 1 to each side.
"""

from collections.abc import Sequence
from typing import Any

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from medkit.mri.noncartesian.fourier import to_angles, transform


def convolution_kernel(name: str, trajectory: Tensor, size: Sequence[int], density_weights: Tensor | None) -> Tensor:
    """Transform the point spread function of a trajectory, in float64 on the CPU.

    Args:
        name: the function that asks.
        trajectory: ``(n_samples, dims)`` or ``(B, n_samples, dims)``, checked.
        size: pixels along each axis.
        density_weights: real, ``(n_samples,)`` or ``(B, n_samples)``; ``None``: 1.

    Returns:
        Real, since the point spread function is Hermitian; ``(1 or B, 1, *L)`` with lengths L of at least ``2 n - 1``,
        for :func:`convolved`.
    """
    angles = to_angles(trajectory, size)
    shape = (1, trajectory.shape[-2])
    weights = torch.ones(shape) if density_weights is None else density_weights.detach().reshape(-1, shape[1])
    n_batch = max(angles.shape[0], weights.shape[0])
    samples = weights.to("cpu", torch.complex128).expand(n_batch, -1)[:, None]
    span = [2 * n - 1 for n in size]
    psf = transform(name, samples, angles, span, True)
    # Orthonormal over the span becomes orthonormal over the image, whose transform is scaled twice by 1/sqrt(N).
    scale = 1.0
    for n, m in zip(size, span, strict=True):
        scale *= m**0.5 / n
    # Zeros between the ends, which meet on the circle, cost nothing but give a length that transforms fast.
    circle = psf.new_zeros(*psf.shape[:2], *(next_fast_len(m) for m in span))
    within: tuple[Any, ...] = (..., *(slice(m) for m in span))
    circle[within] = psf * scale
    dims = tuple(range(-len(span), 0))
    circle = circle.roll([-(n - 1) for n in size], dims)
    return torch.fft.fftn(circle, dim=dims).real


def convolved(images: Tensor, kernel: Tensor) -> Tensor:
    """Convolve images with a point spread function, axis by axis so that no zeros are transformed needlessly.

    Args:
        images: complex, ``(B, C, *S)``.
        kernel: what :func:`convolution_kernel` returned, in the precision and on the device of ``images``.

    Returns:
        Complex, ``(B, C, *S)``.
    """
    dims = range(-1, 1 - images.ndim, -1)
    x = images
    for dim in dims:
        x = torch.fft.fft(x, n=kernel.shape[dim], dim=dim)
    x = x * kernel
    for dim in reversed(dims):
        x = torch.fft.ifft(x, dim=dim).narrow(dim, 0, images.shape[dim])
    return x
