"""Dictionary transforms from an exam to a network's input and back."""

from medkit.mri.transforms.acquiring import SimulateKspaced, ToKspaced
from medkit.mri.transforms.conditions import OnlyWithd
from medkit.mri.transforms.multi_contrast import PackMultiContrastd, UnpackMultiContrastd
from medkit.mri.transforms.packing import (
    ChannelsToComplexd,
    CoilCombined,
    ComplexToChannelsd,
    PackReconstructiond,
    ScaleByPercentiled,
    SensitivityMapsd,
    UnpackReconstructiond,
)
from medkit.mri.transforms.sampling import Undersampled

__all__ = [
    "ChannelsToComplexd",
    "CoilCombined",
    "ComplexToChannelsd",
    "OnlyWithd",
    "PackMultiContrastd",
    "PackReconstructiond",
    "ScaleByPercentiled",
    "SensitivityMapsd",
    "SimulateKspaced",
    "ToKspaced",
    "Undersampled",
    "UnpackMultiContrastd",
    "UnpackReconstructiond",
]
