"""Pure tensor functions that every wing stands on."""

from medkit.ops.fourier import centered_fft, centered_ifft, fft_real, ifft_real, irfft2_real, rfft2_real
from medkit.ops.resizing import center_crop, center_pad, kspace_crop, kspace_pad

__all__ = [
    "center_crop",
    "center_pad",
    "centered_fft",
    "centered_ifft",
    "fft_real",
    "ifft_real",
    "irfft2_real",
    "kspace_crop",
    "kspace_pad",
    "rfft2_real",
]
