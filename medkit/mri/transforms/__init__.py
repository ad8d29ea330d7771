"""Dictionary transforms from an exam to a network's input and back."""

from medkit.mri.transforms.packing import (
    CoilCombined,
    PackReconstructiond,
    ScaleByPercentiled,
    SensitivityMapsd,
    UnpackReconstructiond,
)
from medkit.mri.transforms.sampling import SimulateKspaced, ToKspaced, Undersampled

__all__ = [
    "CoilCombined",
    "PackReconstructiond",
    "ScaleByPercentiled",
    "SensitivityMapsd",
    "SimulateKspaced",
    "ToKspaced",
    "Undersampled",
    "UnpackReconstructiond",
]
