"""A medical-imaging toolkit on MONAI; each room (``medkit.mri``, ``medkit.data``, …) is imported on its own."""

__version__ = "0.1.0"
