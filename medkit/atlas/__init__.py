"""Registration and atlas building: a cohort in, its template and all transformations out."""

from medkit.atlas.adding import MisalignedError, add_scans, align_to_template
from medkit.atlas.affine_mean import polar, without_mean
from medkit.atlas.affine_registration import AffineRegistration, register_affine
from medkit.atlas.bias_field import bias_corrected
from medkit.atlas.building import AtlasSettings, HybridAtlas, finish_atlas
from medkit.atlas.descent import Descent, descend, regulariser
from medkit.atlas.evaluation import AtlasEvaluator
from medkit.atlas.files import apply_transformation, register_files
from medkit.atlas.frame import Frame, common_frame, resampled
from medkit.atlas.intensities import match_intensities, normalised
from medkit.atlas.linear_velocity import velocity_of_affine
from medkit.atlas.metric import SobolevMetric
from medkit.atlas.misalignment import misaligned
from medkit.atlas.named_priors import (
    globalnet_prior,
    registration_network,
    registration_network_prior,
    voxelmorph_prior,
)
from medkit.atlas.networks import AffineNetworkPrior, NetworkPrior, load_weights
from medkit.atlas.outputs import (
    ShapeComponents,
    TemplateEstimate,
    add_subject,
    component_template,
    conditional_template,
    propagate_labels,
    recompute_template,
    shape_components,
    write_label_atlas,
    write_measures,
    write_report,
    write_shape,
    write_subject_labels,
    write_transforms,
)
from medkit.atlas.prior_spec import PriorSpec
from medkit.atlas.priors import (
    IdentityPrior,
    RegistrationPrior,
    make_prior,
    predict_velocity,
    register_prior,
)
from medkit.atlas.pyramid import Grid, downsampled
from medkit.atlas.registration import PairEnergy, Registration, RegistrationModel, register_pair, velocity_step
from medkit.atlas.result import AtlasFolder, Member
from medkit.atlas.shooting import GeodesicShooting
from medkit.atlas.similarities import (
    conditional_entropy,
    local_decorrelation,
    mutual_information,
    similarity_term,
)
from medkit.atlas.smoothing import SmoothedVelocity, start_at_rest
from medkit.atlas.stored import CachedVelocities, DisplacementFiles
from medkit.atlas.subjects import AtlasSubject, list_subjects
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
    "AffineRegistration",
    "AntiAliasd",
    "AtlasEvaluator",
    "AtlasFolder",
    "AtlasSettings",
    "AtlasSubject",
    "CachedVelocities",
    "ClipGradients",
    "Descent",
    "DisplacementFiles",
    "Frame",
    "GeodesicShooting",
    "Grid",
    "HybridAtlas",
    "IdentityPrior",
    "Member",
    "MisalignedError",
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
    "ShapeComponents",
    "SmoothedVelocity",
    "SobolevMetric",
    "StationaryVelocity",
    "SymmetricPairEnergy",
    "TemplateEstimate",
    "TemplateSums",
    "Transformation",
    "add_scans",
    "add_subject",
    "align_to_template",
    "apply_transformation",
    "bias_corrected",
    "common_frame",
    "component_template",
    "conditional_entropy",
    "conditional_template",
    "data_term",
    "descend",
    "downsampled",
    "finish_atlas",
    "globalnet_prior",
    "list_subjects",
    "load_weights",
    "local_decorrelation",
    "make_prior",
    "match_intensities",
    "misaligned",
    "mutual_information",
    "normalised",
    "polar",
    "predict_velocity",
    "propagate_labels",
    "read_affine",
    "read_displacement",
    "recompute_template",
    "register_affine",
    "register_files",
    "register_pair",
    "register_prior",
    "registration_network",
    "registration_network_prior",
    "regulariser",
    "resampled",
    "shape_components",
    "similarity_term",
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
    "write_label_atlas",
    "write_measures",
    "write_report",
    "write_shape",
    "write_subject_labels",
    "write_transforms",
]
