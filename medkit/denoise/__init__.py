"""Denoising: networks, noise of each modality, training without clean images, metrics, tiles."""

from medkit.denoise.dncnn import DnCNN
from medkit.denoise.mdrn import MDRN
from medkit.denoise.tiling import TileInferer

__all__ = ["MDRN", "DnCNN", "TileInferer"]
