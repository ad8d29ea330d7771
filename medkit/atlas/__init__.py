"""Registration and atlas building: a cohort in, its template and all transformations out."""

from medkit.atlas.affine_mean import polar, without_mean
from medkit.atlas.descent import Descent, descend, regulariser
from medkit.atlas.frame import Frame, common_frame, resampled
from medkit.atlas.metric import SobolevMetric
from medkit.atlas.outputs import (
    ShapeComponents,
    TemplateEstimate,
    add_subject,
    component_template,
    conditional_template,
    finish_atlas,
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
from medkit.atlas.result import AtlasFolder, Member
from medkit.atlas.shooting import GeodesicShooting
from medkit.atlas.subjects import AtlasSubject, list_subjects
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
    "AtlasFolder",
    "AtlasSubject",
    "Descent",
    "Frame",
    "GeodesicShooting",
    "Grid",
    "IdentityPrior",
    "Member",
    "PairEnergy",
    "PriorSpec",
    "Registration",
    "RegistrationModel",
    "RegistrationPrior",
    "ShapeComponents",
    "SobolevMetric",
    "StationaryVelocity",
    "TemplateEstimate",
    "TemplateSums",
    "Transformation",
    "add_subject",
    "common_frame",
    "component_template",
    "conditional_template",
    "data_term",
    "descend",
    "downsampled",
    "finish_atlas",
    "list_subjects",
    "make_prior",
    "polar",
    "predict_velocity",
    "propagate_labels",
    "read_affine",
    "read_displacement",
    "recompute_template",
    "register_pair",
    "register_prior",
    "regulariser",
    "resampled",
    "shape_components",
    "velocity_step",
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
