"""Registration and atlas building: a cohort in, its template and all transformations out."""

from medkit.atlas.descent import Descent, descend, regulariser
from medkit.atlas.metric import SobolevMetric
from medkit.atlas.shooting import GeodesicShooting
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
    "Descent",
    "GeodesicShooting",
    "SobolevMetric",
    "StationaryVelocity",
    "TemplateSums",
    "Transformation",
    "data_term",
    "descend",
    "read_affine",
    "read_displacement",
    "regulariser",
    "write_affine",
    "write_composite",
    "write_displacement",
]
