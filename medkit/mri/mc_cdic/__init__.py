"""MC-CDic: two contrasts explained by unique and common codes of learned convolutional dictionaries."""

from medkit.mri.mc_cdic.dictionary import MultiScaleDictionary
from medkit.mri.mc_cdic.loss import MultiContrastLoss
from medkit.mri.mc_cdic.network import MCCDic
from medkit.mri.mc_cdic.packing import PackedMultiContrast, pack_multi_contrast
from medkit.mri.mc_cdic.released import CheckReleasedWeights
from medkit.mri.mc_cdic.super_resolution import KspaceCropOperator

__all__ = [
    "CheckReleasedWeights",
    "KspaceCropOperator",
    "MCCDic",
    "MultiContrastLoss",
    "MultiScaleDictionary",
    "PackedMultiContrast",
    "pack_multi_contrast",
]
