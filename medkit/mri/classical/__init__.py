"""Reconstruction without learning: conjugate gradients, sparsity, total variation and interpolation of k-space."""

from medkit.mri.classical.gradients import cg_sense
from medkit.mri.classical.interpolation import grappa
from medkit.mri.classical.modules import CGSense, ClassicalReconstruction, L1Wavelet, TotalVariation, ZeroFilled
from medkit.mri.classical.sparsity import l1_wavelet
from medkit.mri.classical.variation import total_variation
from medkit.mri.classical.wavelets import daubechies_filter, wavelet_adjoint, wavelet_forward

__all__ = [
    "CGSense",
    "ClassicalReconstruction",
    "L1Wavelet",
    "TotalVariation",
    "ZeroFilled",
    "cg_sense",
    "daubechies_filter",
    "grappa",
    "l1_wavelet",
    "total_variation",
    "wavelet_adjoint",
    "wavelet_forward",
]
