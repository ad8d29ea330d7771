"""Half spectra as real channels: fast to differentiate, and as matrix products that all layers of a network share.

A spectrum is ``(B, C, 2, H, W // 2 + 1)``, real and imaginary part on axis 2, orthonormal, frequency 0 at index 0.
"""

from typing import Any

import torch
from torch import Tensor

from medkit.ops import irfft2_real, rfft2_real


def fourier_matrices(height: int, width: int, like: Tensor) -> list[Tensor]:
    """Matrices that transform images of one size by real products, made once for all layers of a network.

    Args:
        height: H in pixels.
        width: W in pixels.
        like: tensor on the device to use.

    Returns:
        Right factor ``(W, 2 (W // 2 + 1))`` and left factor ``(2 H, 2 H)`` of the transform, then left and right factor
        of its inverse, float32.
    """
    cos, sin = _cos_sin(height, like)
    left = torch.cat([torch.cat([cos, sin], 1), torch.cat([-sin, cos], 1)], 0)
    half = width // 2 + 1
    cos, sin = _cos_sin(width, like)
    right = torch.cat([cos[:, :half], -sin[:, :half]], 1)
    # A column of the half spectrum also stands for its mirror image, but for the first and, of an even width, the last.
    index = torch.arange(half, device=like.device)
    weight = 2.0 - (index * (2 * index - width) == 0).to(torch.float32)
    return [right, left, left.t(), right.t() * torch.cat([weight, weight]).unsqueeze(1)]


def _cos_sin(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the orthonormal transform, (n, n); the phase is reduced to one turn before it is rounded."""
    # The size is a tensor and the remainder a floor, so that ONNX takes sizes that are known only at run time.
    size = torch.full([], n, dtype=torch.float64, device=like.device)
    index = torch.arange(n, device=like.device)
    turns = (index.unsqueeze(1) * index.unsqueeze(0)).to(torch.float64) / size
    angle = ((turns - torch.floor(turns)) * 6.283185307179586).to(torch.float32)
    scale = torch.rsqrt(size).to(torch.float32)
    return torch.cos(angle) * scale, torch.sin(angle) * scale


def to_spectrum(z: Tensor, matrices: list[Tensor] | None = None) -> Tensor:
    """Transform features to their half spectrum.

    Args:
        z: float32, ``(B, C, H, W)``.
        matrices: of :func:`fourier_matrices`; ``None``: by FFT.

    Returns:
        ``(B, C, 2, H, W // 2 + 1)``.
    """
    if matrices is not None:
        product = torch.matmul(z, matrices[0])
        half = product.shape[-1] // 2
        stacked = torch.cat([product[..., :half], product[..., half:]], 2)
        return torch.matmul(matrices[1], stacked).reshape(z.shape[0], z.shape[1], 2, z.shape[2], half)
    if not (torch.jit.is_scripting() or torch.jit.is_tracing()):
        if z.requires_grad and not torch.compiler.is_compiling():
            return _ToSpectrum.apply(z)
    return torch.stack(rfft2_real(z), 2)


def from_spectrum(spectrum: Tensor, width: int, matrices: list[Tensor] | None = None) -> Tensor:
    """Transform a half spectrum back to features: the inverse of :func:`to_spectrum`.

    Args:
        spectrum: float32, ``(B, C, 2, H, width // 2 + 1)``.
        width: W in pixels.
        matrices: of :func:`fourier_matrices`; ``None``: by FFT.

    Returns:
        ``(B, C, H, W)``.
    """
    height = spectrum.shape[3]
    if matrices is not None:
        stacked = torch.matmul(matrices[2], spectrum.flatten(2, 3))
        stacked = torch.cat([stacked[:, :, :height], stacked[:, :, height:]], 3)
        return torch.matmul(stacked, matrices[3])
    if not (torch.jit.is_scripting() or torch.jit.is_tracing()):
        if spectrum.requires_grad and not torch.compiler.is_compiling():
            return _FromSpectrum.apply(spectrum, width)
    return irfft2_real(spectrum[:, :, 0], spectrum[:, :, 1], height, width)


def _weigh_columns(spectrum: Tensor, width: int, factor: float) -> Tensor:
    """Multiply, in place, the columns that stand for their mirror images as well."""
    spectrum[..., 1 : (width + 1) // 2].mul_(factor)
    return spectrum


class _ToSpectrum(torch.autograd.Function):
    """Real FFT whose derivative is an inverse real FFT; autograd's own takes a complex one of the full size."""

    @staticmethod
    def forward(ctx: Any, z: Tensor) -> Tensor:
        ctx.width = z.shape[-1]
        return torch.stack(rfft2_real(z), 2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        height, width = gradient.shape[3], ctx.width
        spectrum = torch.complex(gradient[:, :, 0], gradient[:, :, 1])
        return torch.fft.irfft2(_weigh_columns(spectrum, width, 0.5), s=(height, width), norm="ortho")


class _FromSpectrum(torch.autograd.Function):
    """Inverse real FFT from separate real and imaginary parts, without their derivatives as complex numbers."""

    @staticmethod
    def forward(ctx: Any, spectrum: Tensor, width: int) -> Tensor:
        ctx.width = width
        return irfft2_real(spectrum[:, :, 0], spectrum[:, :, 1], spectrum.shape[3], width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        spectrum = torch.fft.rfft2(gradient, norm="ortho")
        spectrum = _weigh_columns(spectrum, ctx.width, 2.0)
        return torch.stack((spectrum.real, spectrum.imag), 2), None
