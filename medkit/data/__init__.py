"""Data that every wing shares: keys, phantoms and the simulated cohort."""

from medkit.data.phantoms import Ellipsoid, EllipsoidPhantom, head_phantom

__all__ = [
    "Ellipsoid",
    "EllipsoidPhantom",
    "head_phantom",
]
