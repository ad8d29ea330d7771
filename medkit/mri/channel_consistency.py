"""Data consistency inside a network: un-centred, in real channels, in float32, so that it scripts and exports.

The formulas are those of ``medkit.mri.data_consistency``; the estimate, the zero-filled image and the maps come as
pairs of real channels, and the mask has frequency 0 at index 0.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from medkit.ops import fft_real, ifft_real, irfft2_real, rfft2_real

KINDS = ("soft", "hard", "grad", "cg", "none")


def normal_channels(x: Tensor, mask: Tensor, sens_maps: Tensor | None, is_real: bool, backend: str) -> Tensor:
    r"""Measure and go back, :math:`A^H A x`, on real channels.

    Args:
        x: float32, ``(B, 2, H, W)`` for Re and Im, or ``(B, 1, H, W)`` for a real image.
        mask: 0/1, float32, ``(B, 1, H, W)``, frequency 0 at index 0; symmetric in frequency for a real image.
        sens_maps: float32, ``(B, 2 coil, H, W)``, or ``None`` for one uniform coil.
        is_real: whether the image is real, one channel.
        backend: ``"fft"`` or ``"matmul"``.

    Returns:
        Same shape as ``x``.
    """
    height, width = x.shape[-2], x.shape[-1]
    if is_real:
        re, im = rfft2_real(x, backend)
        half = mask[..., : width // 2 + 1]
        return irfft2_real(re * half, im * half, height, width, backend)
    re, im = x[:, 0:1], x[:, 1:2]
    if sens_maps is None:
        re, im = fft_real(re, im, 2, backend)
        re, im = ifft_real(re * mask, im * mask, 2, backend)
    else:
        maps_re, maps_im = sens_maps[:, 0::2], sens_maps[:, 1::2]
        coil_re, coil_im = fft_real(re * maps_re - im * maps_im, re * maps_im + im * maps_re, 2, backend)
        coil_re, coil_im = ifft_real(coil_re * mask, coil_im * mask, 2, backend)
        re = (coil_re * maps_re + coil_im * maps_im).sum(1, keepdim=True)
        im = (coil_im * maps_re - coil_re * maps_im).sum(1, keepdim=True)
    return torch.cat([re, im], 1)


def symmetrised(zero_filled: Tensor, mask: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """Use that the k-space of a real image is Hermitian: a sample at k is also one at -k.

    Args:
        zero_filled: real part of the zero-filled image, float32, ``(B, 1, H, W)``.
        mask: 0/1, float32, ``(B, 1, H, W)``, frequency 0 at index 0.
        backend: ``"fft"`` or ``"matmul"``.

    Returns:
        The zero-filled image of the symmetrised mask, and that mask.
    """
    # Index -k of an un-centred axis: reverse it, then bring index 0 back to the front.
    mirrored = torch.roll(torch.flip(mask, [-2, -1]), [1, 1], [-2, -1])
    both = torch.maximum(mask, mirrored)
    height, width = mask.shape[-2], mask.shape[-1]
    # Taking the real part halved every sample whose mirror image was not sampled.
    gain = (2.0 * both / (mask + mirrored).clamp(min=1.0))[..., : width // 2 + 1]
    re, im = rfft2_real(zero_filled, backend)
    return irfft2_real(re * gain, im * gain, height, width, backend), both


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum([1, 2, 3], keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, and 0 with a zero gradient where a sample has converged."""
    alive = b > 1e-30
    return torch.where(alive, a / torch.where(alive, b, torch.ones_like(b)), torch.zeros_like(a))


class ChannelDataConsistency(nn.Module):
    r"""Pull an estimate back to the measurement, which enters as :math:`x_0 = A^H y` alone.

    ``soft``: :math:`x - (A^H A x - x_0) / (1 + \nu)`; ``hard``: the same with :math:`\nu = 0`, which puts the samples
    of one coil back; ``grad``: :math:`x - \mu (A^H A x - x_0)`; ``cg``: solve
    :math:`(A^H A + \nu) \hat x = x_0 + \nu x`; ``none``: :math:`x`. :math:`\nu` and :math:`\mu` are learned.

    Args:
        kind: ``"soft"``, ``"hard"``, ``"grad"``, ``"cg"`` or ``"none"``.
        noise_weight: initial :math:`\nu`, greater than 0, kept positive by a softplus; :math:`\mu` starts at 1/2 and is
            kept positive by an exponential.
        n_iterations: conjugate-gradient steps of ``"cg"``.
        is_real: for real images, given as one channel instead of two.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> x0 = torch.ones(1, 2, 4, 4)
        >>> ChannelDataConsistency("hard")(torch.zeros_like(x0), x0, torch.ones(1, 1, 4, 4), None, "fft").shape
        torch.Size([1, 2, 4, 4])
    """

    def __init__(self, kind: str = "soft", noise_weight: float = 0.1, n_iterations: int = 6, is_real: bool = False):
        super().__init__()
        if kind not in KINDS:
            raise ValueError(f"ChannelDataConsistency: 'kind' must be one of {KINDS}, got {kind!r}")
        if not 0 < noise_weight < math.inf:
            raise ValueError(f"ChannelDataConsistency: 'noise_weight' must be positive, got {noise_weight}")
        if n_iterations < 1:
            raise ValueError(f"ChannelDataConsistency: 'n_iterations' must be at least 1, got {n_iterations}")
        self.kind = kind
        self.n_iterations = n_iterations
        self.is_real = is_real
        raw = torch.tensor(noise_weight + math.log(-math.expm1(-noise_weight)))
        self.raw_weight = nn.Parameter(raw) if kind in ("soft", "cg") else None
        self.log_step = nn.Parameter(torch.tensor(math.log(0.5))) if kind == "grad" else None

    def forward(self, x: Tensor, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None, backend: str) -> Tensor:
        """Apply it to the estimate, in the precision of the measurement whatever autocast says.

        Args:
            x: estimate, real, ``(B, 2 or 1, H, W)``.
            zero_filled: :math:`A^H y`, same shape, float32 (in tests float64).
            mask: 0/1, ``(B, 1, H, W)``, frequency 0 at index 0.
            sens_maps: ``(B, 2 coil, H, W)`` or ``None``.
            backend: ``"fft"`` or ``"matmul"``.

        Returns:
            New estimate, same shape, dtype of ``zero_filled``.
        """
        x = x.to(zero_filled.dtype)
        if not torch.jit.is_scripting():
            if torch.is_autocast_enabled(x.device.type):
                with torch.autocast(x.device.type, enabled=False):
                    return self._consistent(x, zero_filled, mask, sens_maps, backend)
        return self._consistent(x, zero_filled, mask, sens_maps, backend)

    def _consistent(
        self, x: Tensor, zero_filled: Tensor, mask: Tensor, sens_maps: Tensor | None, backend: str
    ) -> Tensor:
        if self.kind == "none":
            return x
        residual = zero_filled - normal_channels(x, mask, sens_maps, self.is_real, backend)
        log_step = self.log_step
        if log_step is not None:
            return x + log_step.exp() * residual
        raw_weight = self.raw_weight
        if raw_weight is None:
            return x + residual
        weight = softplus(raw_weight)
        if self.kind == "soft":
            return x + residual / (1.0 + weight)
        direction = residual
        energy = _dot(residual, residual)
        for _ in range(self.n_iterations):
            step_image = normal_channels(direction, mask, sens_maps, self.is_real, backend) + weight * direction
            step = _ratio(energy, _dot(direction, step_image))
            x = x + step * direction
            residual = residual - step * step_image
            new_energy = _dot(residual, residual)
            direction = residual + _ratio(new_energy, energy) * direction
            energy = new_energy
        return x
