"""Whether complex data are k-space or an image, told from how their energy is concentrated."""

from __future__ import annotations

from torch import Tensor

from medkit.ops import centered_fft

# Scanners' k-space has at most 0.02 times as many effective samples as its image (8 and 16 coils, one coil, and
# under-sampled), images have 58 to 6000 times as many as their k-space, noise as many.
CLEAR_RATIO = 10.0
# An image has no fewer than its body's share of all samples: what has fewer is k-space, without a Fourier transform.
FEWEST_OF_AN_IMAGE = 0.01


def effective_samples(x: Tensor) -> float:
    """Return how many samples hold the energy of all coils: one for a peak, all of them for a constant.

    Args:
        x: complex, ``(coil, H, W)``.

    Returns:
        The participation ratio of the energies e, ``(sum e)^2 / sum e^2``; NaN without signal.
    """
    energy = (x.real.double().square() + x.imag.double().square()).sum(0)
    return float(energy.sum().square() / energy.square().sum())


def looks_like_image(x: Tensor) -> bool | None:
    """Tell an image, or sensitivity maps, from k-space: of the two, k-space is by far the more concentrated one.

    Args:
        x: complex, ``(coil, H, W)``; where the zero frequency of k-space lies does not matter.

    Returns:
        ``True`` for an image, ``False`` for k-space, ``None`` where it is not clear (noise, nothing, very few samples).

    Example:
        >>> looks_like_image(torch.ones(1, 32, 32, dtype=torch.complex64))
        True
    """
    if min(x.shape[-2:]) < 16:
        return None
    effective = effective_samples(x)
    if effective < FEWEST_OF_AN_IMAGE * x.shape[-2] * x.shape[-1]:
        return False
    ratio = effective / effective_samples(centered_fft(x))
    if 1 / CLEAR_RATIO < ratio < CLEAR_RATIO or ratio != ratio:
        return None
    return ratio > 1
