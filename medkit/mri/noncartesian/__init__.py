"""MRI off the Cartesian grid: non-uniform Fourier transforms, trajectories, their weights and CG-SENSE."""

from medkit.mri.noncartesian.encoding import (
    NonCartesianOperator,
    noncartesian_adjoint,
    noncartesian_forward,
    noncartesian_normal,
)
from medkit.mri.noncartesian.fourier import nufft, nufft_adjoint
from medkit.mri.noncartesian.readouts import radial_trajectory, spiral_trajectory
from medkit.mri.noncartesian.reconstruction import noncartesian_cg_sense
from medkit.mri.noncartesian.weighting import pipe_menon_weights, radial_weights

__all__ = [
    "NonCartesianOperator",
    "noncartesian_adjoint",
    "noncartesian_cg_sense",
    "noncartesian_forward",
    "noncartesian_normal",
    "nufft",
    "nufft_adjoint",
    "pipe_menon_weights",
    "radial_trajectory",
    "radial_weights",
    "spiral_trajectory",
]
