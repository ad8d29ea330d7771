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

__all__ = [
    "CLGNet",
    "PackedReconstructor",
    "SpatialFourierLayer",
    "SpatialFourierResidualBlock",
    "channels_to_complex",
    "channels_to_magnitude",
    "complex_to_channels",
    "pack_reconstruction",
    "pack_target",
    "unpack_reconstruction",
]
