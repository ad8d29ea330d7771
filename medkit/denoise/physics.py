"""What noise does to an image in each modality, as a function of one field of standard normal numbers.

The field is given and the level is an argument: the same field at another level is the same noise, weaker or stronger.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.special import ndtr, pdtr, pdtrik
from skimage.measure import block_reduce
from skimage.transform import iradon, radon, resize
from torch import Tensor

MODES = ("float", "uint8_clip")
WATER = 0.0193  # linear attenuation of water at 70 keV, per mm
_MANY = 50.0  # expected counts from which the expansion of the quantile is closer than rounding to whole counts
_COARSE = 128  # side in pixels at which line integrals are computed: only the smooth variance follows from them


def gaussian_noise(image: Tensor, sigma: float | Tensor, field: Tensor, noise_mode: str = "float") -> Tensor:
    """Add white Gaussian noise.

    Args:
        image: clean image, real, any shape.
        sigma: standard deviation in units of the image; a number, or a map that broadcasts.
        field: standard normal, shape of ``image``.
        noise_mode: ``"float"``, or ``"uint8_clip"``: what a file of 8 bits keeps of images from 0 to 1. Clipping lowers
            the error of the noisy image (by 0.3 dB at 15/255, 1.0 dB at 50/255) and lifts dark areas: results of the
            two modes cannot be compared.

    Returns:
        Noisy image, shape of ``image``.

    Raises:
        ValueError: if the shapes differ, ``sigma`` is negative, or the mode is unknown.
    """
    _check("gaussian_noise", "sigma", sigma, field, tuple(image.shape))
    if noise_mode not in MODES:
        raise ValueError(f"gaussian_noise: 'noise_mode' must be one of {MODES}, got {noise_mode!r}")
    noisy = image + sigma * field
    return noisy if noise_mode == "float" else (noisy.clamp(0, 1) * 255).round() / 255


def magnitude_noise(image: Tensor, sigma: float | Tensor, field: Tensor) -> Tensor:
    r"""Take the magnitude of a signal with complex Gaussian noise: Rician, or of several coils non-central χ.

    .. math:: y = \Big( \sum_{l=1}^{L} (x / \sqrt L + \sigma n_l)^2 + (\sigma n_{L+l})^2 \Big)^{1/2}, \qquad
        E[y^2] = x^2 + 2 L \sigma^2

    Coils see the object equally and their noise is independent, as after whitening; L = 1 is Rician.

    Args:
        image: clean magnitude, real, any shape.
        sigma: standard deviation of the real and of the imaginary part in each coil, in units of the image.
        field: standard normal, ``(2 L, *image.shape)``: real parts of the coils' noise, then imaginary ones.

    Returns:
        Noisy magnitude, shape of ``image``.

    Raises:
        ValueError: if the shapes differ, the number of fields is odd, or ``sigma`` is negative.
    """
    _check("magnitude_noise", "sigma", sigma, field[0] if len(field) else field, tuple(image.shape))
    if len(field) % 2:
        raise ValueError(f"magnitude_noise: 'field' must hold two fields for each coil, got {len(field)}")
    real, imaginary = field[: len(field) // 2], field[len(field) // 2 :]
    signal = image / math.sqrt(len(real))
    return ((signal + sigma * real).square() + (sigma * imaginary).square()).sum(0).sqrt()


def poisson_quantile(rate: Tensor, field: Tensor) -> Tensor:
    """Turn standard normal numbers into counts of a Poisson process, the larger the number the larger the count.

    Exact below 50 expected counts; above, the expansion of Cornish and Fisher to third order, rounded: its mean and
    variance are ``rate`` to a hundredth of a count.

    Args:
        rate: expected counts, real, at least 0.
        field: standard normal, shape of ``rate``.

    Returns:
        Whole numbers, float64, shape of ``rate``.
    """
    rate, field = rate.double(), field.double()
    root = rate.clamp(min=_MANY).sqrt()
    counts = (rate + root * field + (field**2 - 1) / 6 + (field - field**3) / (72 * root)).round()
    few = rate < _MANY
    share, low = ndtr(field[few].cpu().numpy()), rate[few].cpu().numpy()
    # The smallest whole number whose distribution function reaches the share; pdtrik is that up to its last bits.
    upper = np.ceil(np.nan_to_num(pdtrik(share, np.maximum(low, 1e-300))).clip(min=0))
    below = (upper - 1).clip(min=0)
    counts[few] = torch.from_numpy(np.where(pdtr(below, low) >= share, below, upper)).to(counts)
    return counts


def count_noise(image: Tensor, peak: float | Tensor, field: Tensor) -> Tensor:
    """Count photons or decays: an image of 1 is ``peak`` expected counts, its variance then is ``1 / peak``.

    Args:
        image: clean image, real, at least 0, any shape.
        peak: expected counts where the image is 1.
        field: standard normal, shape of ``image``.

    Returns:
        Counts divided by ``peak``, dtype and shape of ``image``; its mean is ``image``.

    Raises:
        ValueError: if the shapes differ, ``peak`` is not positive, or the image is negative somewhere.
    """
    _check("count_noise", "peak", peak, field, tuple(image.shape), positive=True)
    if image.numel() and float(image.min()) < 0:
        raise ValueError(f"count_noise: 'image' must be at least 0 everywhere, got {float(image.min()):.4g}")
    return (poisson_quantile(image * peak, field) / peak).to(image.dtype)


def sinogram_size(height: int, width: int, n_views: int) -> tuple[int, int]:
    """Return the shape of the field that :func:`dose_noise` needs: detector elements and views.

    Args:
        height: rows of the image.
        width: columns of the image.
        n_views: views in half a turn.

    Returns:
        Detector elements, views.
    """
    return math.ceil(math.sqrt(2) * max(height, width)), n_views


def dose_noise(
    image: Tensor,
    dose: float,
    field: Tensor,
    photons: float = 3e8,
    pixel_spacing: float = 0.8,
    measured: bool = False,
    kernel: str = "hann",
) -> Tensor:
    r"""Add to a CT slice the noise of a scan at a dose: correlated, stronger behind bone, with mean 0 in HU.

    A simple model of the scanner. HU become attenuation, :math:`\mu = \mu_w (1 + HU / 1000)`, at least 0; rays of a
    parallel beam of one energy count :math:`N \sim Poisson(\lambda)`, :math:`\lambda = d I_0 e^{-p}`; the error of the
    logarithm to first order, :math:`\delta = (\lambda - N) / \lambda`, has mean 0 and variance :math:`1 / \lambda`; its
    filtered back-projection, in HU, is added. The clean image itself is not projected, so that it stays sharp, and
    values below -1024 (padding) stay as they are. Left out: the bias of the logarithm in starved rays, electronic
    noise, scatter, the bow-tie filter and the automatic exposure.

    Args:
        image: slice in HU, real, ``(H, W)``, the whole cross-section of the body.
        dose: d, share of the full dose; above 0.
        field: standard normal, of :func:`sinogram_size`, detector elements by views.
        photons: :math:`I_0`: quanta at full dose on a detector element of a pixel's width in air, in all views
            together: the noise hardly depends on the number of views. With the defaults, a cylinder of water with a
            diameter of 300 mm has a standard deviation of about 16 HU in its middle.
        pixel_spacing: in mm.
        measured: whether the image has the noise of the full dose already: the noise that is missing at dose d below 1
            is added, of variance :math:`(1 - d) / \lambda`.
        kernel: filter of the back-projection, as in scikit-image's ``iradon``: ``"ramp"`` is sharpest.

    Returns:
        Noisy slice in HU, dtype and shape of ``image``.

    Raises:
        ValueError: if the shapes do not fit, a number is not positive, or ``measured`` with a dose above 1.
    """
    if image.ndim != 2:
        raise ValueError(f"dose_noise: 'image' must be one slice (H, W), got {tuple(image.shape)}")
    shape = sinogram_size(image.shape[0], image.shape[1], field.shape[-1])
    _check("dose_noise", "dose", dose, field, shape, positive=True)
    for name, value in (("photons", photons), ("pixel_spacing", pixel_spacing)):
        if not value > 0:
            raise ValueError(f"dose_noise: '{name}' must be positive, got {value}")
    if measured and dose > 1:
        raise ValueError(f"dose_noise: 'dose' must be at most 1 for an image of the full dose, got {dose}")
    side = max(image.shape)
    angles = np.linspace(0, 180, shape[1], endpoint=False)
    attenuation = (WATER * pixel_spacing * (1 + image.detach().cpu().double() / 1000)).clamp(min=0).numpy()
    step = -(-side // _COARSE)
    margins = [-(-side // step) * step - n for n in attenuation.shape]
    square = np.pad(attenuation, [(n // 2, n - n // 2) for n in margins])
    integrals = step * radon(block_reduce(square, (step, step), np.mean), angles, circle=False)
    integrals = torch.from_numpy(resize(integrals, shape, order=1, mode="edge", anti_aliasing=False))
    rate = (dose * photons / shape[1] * torch.exp(-integrals)).clamp(min=1)
    errors = (rate - poisson_quantile(rate, field.cpu())) / rate * math.sqrt(1 - dose if measured else 1)
    noise = iradon(errors.numpy(), angles, output_size=side, filter_name=kernel, circle=False)
    top, left = ((side - n) // 2 for n in image.shape)
    noise = noise[top : top + image.shape[0], left : left + image.shape[1]] / pixel_spacing / WATER * 1000
    return image + torch.from_numpy(noise).to(image)


def _check(
    name: str, argument: str, level: float | Tensor, field: Tensor, shape: tuple[int, ...], positive: bool = False
) -> None:
    lowest = float(torch.as_tensor(level).min())
    if not (lowest > 0 if positive else lowest >= 0):
        wanted = "positive" if positive else "at least 0"
        raise ValueError(f"{name}: '{argument}' must be {wanted}, got {lowest:.6g}")
    if tuple(field.shape) != shape:
        raise ValueError(f"{name}: 'field' must be {shape}, got {tuple(field.shape)}")
