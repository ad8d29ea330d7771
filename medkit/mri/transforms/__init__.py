"""Dictionary transforms from an exam to a network's input and back."""

from medkit.mri.transforms.acquiring import SimulateKspaced, ToKspaced
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
    "PackReconstructiond",
    "ScaleByPercentiled",
    "SensitivityMapsd",
    "SimulateKspaced",
    "ToKspaced",
    "Undersampled",
    "UnpackReconstructiond",
]
