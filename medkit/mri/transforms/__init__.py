"""Dictionary transforms from an exam to a network's input and back."""

from medkit.mri.transforms.acquiring import SimulateKspaced, ToKspaced
from medkit.mri.transforms.augmenting import RandCenteredFlipd, RandCenteredRotate90d, RandPhased
from medkit.mri.transforms.coils import CompressCoilsd, PrewhitenKspaced
from medkit.mri.transforms.conditions import OnlyWithd
from medkit.mri.transforms.interpolating import Grappad
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
from medkit.mri.transforms.residual import DataConsistencyResiduald
from medkit.mri.transforms.sampling import Undersampled
from medkit.mri.transforms.splitting import PackHeldd, SplitMeasuredd

__all__ = [
    "ChannelsToComplexd",
    "CoilCombined",
    "ComplexToChannelsd",
    "CompressCoilsd",
    "DataConsistencyResiduald",
    "Grappad",
    "OnlyWithd",
    "PackHeldd",
    "PackMultiContrastd",
    "PackReconstructiond",
    "PrewhitenKspaced",
    "RandCenteredFlipd",
    "RandCenteredRotate90d",
    "RandPhased",
    "ScaleByPercentiled",
    "SensitivityMapsd",
    "SimulateKspaced",
    "SplitMeasuredd",
    "ToKspaced",
    "Undersampled",
    "UnpackMultiContrastd",
    "UnpackReconstructiond",
]
