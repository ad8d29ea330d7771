"""Registration and atlas building: a cohort in, its template and all transformations out."""

from medkit.atlas.affine_mean import polar, without_mean
from medkit.atlas.affine_registration import AffineRegistration, register_affine
from medkit.atlas.bias_field import bias_corrected
from medkit.atlas.descent import Descent, descend, regulariser
from medkit.atlas.intensities import match_intensities, normalised
from medkit.atlas.metric import SobolevMetric
from medkit.atlas.misalignment import misaligned
from medkit.atlas.priors import (
    IdentityPrior,
    PriorSpec,
    RegistrationPrior,
    make_prior,
    predict_velocity,
    register_prior,
)
from medkit.atlas.pyramid import Grid, downsampled
from medkit.atlas.registration import PairEnergy, Registration, RegistrationModel, register_pair, velocity_step
from medkit.atlas.shooting import GeodesicShooting
from medkit.atlas.similarities import (
    conditional_entropy,
    local_decorrelation,
    mutual_information,
    similarity_term,
)
from medkit.atlas.template import TemplateSums, data_term
from medkit.atlas.transform_files import (
    read_affine,
    read_displacement,
    write_affine,
    write_composite,
    write_displacement,
)
from medkit.atlas.transformation import StationaryVelocity, Transformation

__all__ = [
    "AffineRegistration",
    "Descent",
    "GeodesicShooting",
    "Grid",
    "IdentityPrior",
    "PairEnergy",
    "PriorSpec",
    "Registration",
    "RegistrationModel",
    "RegistrationPrior",
    "SobolevMetric",
    "StationaryVelocity",
    "TemplateSums",
    "Transformation",
    "bias_corrected",
    "conditional_entropy",
    "data_term",
    "descend",
    "downsampled",
    "local_decorrelation",
    "make_prior",
    "match_intensities",
    "misaligned",
    "mutual_information",
    "normalised",
    "polar",
    "predict_velocity",
    "read_affine",
    "read_displacement",
    "register_affine",
    "register_pair",
    "register_prior",
    "regulariser",
    "similarity_term",
    "velocity_step",
    "without_mean",
    "write_affine",
    "write_composite",
    "write_displacement",
]
