"""Pure tensor functions that every wing stands on."""

from medkit.ops.diffeomorphisms import (
    Folding,
    exponential,
    folding,
    invert,
    jacobian_determinant,
    logarithm,
    resize_field,
)
from medkit.ops.fourier import centered_fft, centered_ifft, fft_real, ifft_real, irfft2_real, rfft2_real
from medkit.ops.resizing import center_crop, center_pad, kspace_crop, kspace_pad
from medkit.ops.warping import compose, displaced, identity_points, sample, splat, warp, warp_adjoint

__all__ = [
    "Folding",
    "center_crop",
    "center_pad",
    "centered_fft",
    "centered_ifft",
    "compose",
    "displaced",
    "exponential",
    "fft_real",
    "folding",
    "identity_points",
    "ifft_real",
    "invert",
    "irfft2_real",
    "jacobian_determinant",
    "kspace_crop",
    "kspace_pad",
    "logarithm",
    "resize_field",
    "rfft2_real",
    "sample",
    "splat",
    "warp",
    "warp_adjoint",
]
