"""CLGNet: reconstruction that learns in the image and in its Fourier transform at once."""

from medkit.mri.clgnet.layers import SpatialFourierLayer, SpatialFourierResidualBlock
from medkit.mri.clgnet.network import CLGNet

__all__ = ["CLGNet", "SpatialFourierLayer", "SpatialFourierResidualBlock"]
