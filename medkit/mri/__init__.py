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

__all__ = [
    "CLGNet",
    "ContrastiveReconstructionLoss",
    "FeatureExtractor",
    "GradientFeatures",
    "PackedReconstructor",
    "PerceptualFeatures",
    "SpatialFourierLayer",
    "SpatialFourierResidualBlock",
    "VGGFeatures",
    "channels_to_complex",
    "channels_to_magnitude",
    "complex_to_channels",
    "pack_reconstruction",
    "pack_target",
    "unpack_reconstruction",
]
