"""Images to denoise: which there are, and what is in them."""

from medkit.denoise.readers.listing import image_list
from medkit.denoise.readers.loading import LoadNoisyd, UnscaleWindowd

__all__ = ["LoadNoisyd", "UnscaleWindowd", "image_list"]
