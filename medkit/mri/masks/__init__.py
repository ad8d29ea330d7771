"""Sampling patterns of k-space, as MONAI mask transforms."""

from medkit.mri.masks.base import SamplingMask, actual_acceleration
from medkit.mri.masks.frames import KtEquispacedMask, KtGaussianMask, KtMask, KtRadialMask
from medkit.mri.masks.from_file import FileMask
from medkit.mri.masks.halves import MagicMask, PartialFourierMask
from medkit.mri.masks.lattices import CaipiMask
from medkit.mri.masks.lines import EquispacedMask, GaussianMask, RandomMask
from medkit.mri.masks.points import GaussianMask2D, RadialMask, SpiralMask
from medkit.mri.masks.poisson import PoissonDiscMask
from medkit.mri.masks.resolution import CentreMask
from medkit.mri.masks.stored import MaskBank
from medkit.mri.masks.tosses import BernoulliMask

__all__ = [
    "BernoulliMask",
    "CaipiMask",
    "CentreMask",
    "EquispacedMask",
    "FileMask",
    "GaussianMask",
    "GaussianMask2D",
    "KtEquispacedMask",
    "KtGaussianMask",
    "KtMask",
    "KtRadialMask",
    "MagicMask",
    "MaskBank",
    "PartialFourierMask",
    "PoissonDiscMask",
    "RadialMask",
    "RandomMask",
    "SamplingMask",
    "SpiralMask",
    "actual_acceleration",
]
