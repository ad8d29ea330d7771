"""MRI reconstruction: physics, sampling, coils, networks and losses."""

from medkit.mri.channels import (
    PackedReconstructor,
    channels_to_complex,
    channels_to_magnitude,
    complex_to_channels,
    pack_reconstruction,
    pack_target,
    unpack_reconstruction,
)
from medkit.mri.clgnet import CLGNet, SpatialFourierLayer, SpatialFourierResidualBlock
from medkit.mri.features import FeatureExtractor, GradientFeatures, PerceptualFeatures, VGGFeatures
from medkit.mri.losses import ContrastiveReconstructionLoss
from medkit.mri.readers import Acquisition, LoadAcquisitiond, acquisition_list, find_mask, open_acquisition

__all__ = [
    "Acquisition",
    "CLGNet",
    "ContrastiveReconstructionLoss",
    "FeatureExtractor",
    "GradientFeatures",
    "LoadAcquisitiond",
    "PackedReconstructor",
    "PerceptualFeatures",
    "SpatialFourierLayer",
    "SpatialFourierResidualBlock",
    "VGGFeatures",
    "acquisition_list",
    "channels_to_complex",
    "channels_to_magnitude",
    "complex_to_channels",
    "find_mask",
    "open_acquisition",
    "pack_reconstruction",
    "pack_target",
    "unpack_reconstruction",
]
