"""Data that every wing shares: keys, phantoms and the simulated cohort."""

from medkit.data.acquisition import coil_maps, smooth_phase
from medkit.data.cohort import BrainCohort, Subject
from medkit.data.phantoms import Ellipsoid, EllipsoidPhantom, head_phantom

__all__ = [
    "BrainCohort",
    "Ellipsoid",
    "EllipsoidPhantom",
    "Subject",
    "coil_maps",
    "head_phantom",
    "smooth_phase",
]
