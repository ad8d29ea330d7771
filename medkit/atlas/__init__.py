"""Registration and atlas building: a cohort in, its template and all transformations out."""

from medkit.atlas.affine_mean import polar, without_mean
from medkit.atlas.descent import Descent, descend, regulariser
from medkit.atlas.linear_velocity import velocity_of_affine
from medkit.atlas.metric import SobolevMetric
from medkit.atlas.named_priors import (
    globalnet_prior,
    registration_network,
    registration_network_prior,
    voxelmorph_prior,
)
from medkit.atlas.networks import AffineNetworkPrior, NetworkPrior, load_weights
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
from medkit.atlas.smoothing import SmoothedVelocity, start_at_rest
from medkit.atlas.stored import CachedVelocities, DisplacementFiles
from medkit.atlas.template import TemplateSums, data_term
from medkit.atlas.training import (
    AntiAliasd,
    ClipGradients,
    PreviewPairs,
    RandPaird,
    RelativeEnergy,
    SavePairs,
    SymmetricPairEnergy,
    subject_list,
    subject_pairs,
)
from medkit.atlas.transform_files import (
    read_affine,
    read_displacement,
    write_affine,
    write_composite,
    write_displacement,
)
from medkit.atlas.transformation import StationaryVelocity, Transformation

__all__ = [
    "AffineNetworkPrior",
    "AntiAliasd",
    "CachedVelocities",
    "ClipGradients",
    "Descent",
    "DisplacementFiles",
    "GeodesicShooting",
    "Grid",
    "IdentityPrior",
    "NetworkPrior",
    "PairEnergy",
    "PreviewPairs",
    "PriorSpec",
    "RandPaird",
    "Registration",
    "RegistrationModel",
    "RegistrationPrior",
    "RelativeEnergy",
    "SavePairs",
    "SmoothedVelocity",
    "SobolevMetric",
    "StationaryVelocity",
    "SymmetricPairEnergy",
    "TemplateSums",
    "Transformation",
    "data_term",
    "descend",
    "downsampled",
    "globalnet_prior",
    "load_weights",
    "make_prior",
    "polar",
    "predict_velocity",
    "read_affine",
    "read_displacement",
    "register_pair",
    "register_prior",
    "registration_network",
    "registration_network_prior",
    "regulariser",
    "start_at_rest",
    "subject_list",
    "subject_pairs",
    "velocity_of_affine",
    "velocity_step",
    "voxelmorph_prior",
    "without_mean",
    "write_affine",
    "write_composite",
    "write_displacement",
]
