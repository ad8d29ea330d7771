"""What is made of a built atlas: its files, labels, measures, pictures, and answers that need no building anew."""

from medkit.atlas.outputs.conditional import conditional_template
from medkit.atlas.outputs.final_template import TemplateEstimate, estimate_template, recompute_template
from medkit.atlas.outputs.label_atlas import read_probabilities, write_label_atlas
from medkit.atlas.outputs.label_propagation import propagate_labels, write_subject_labels
from medkit.atlas.outputs.measures import write_label_volumes, write_measures
from medkit.atlas.outputs.new_subject import add_subject
from medkit.atlas.outputs.report import write_report
from medkit.atlas.outputs.saved_transforms import write_transforms
from medkit.atlas.outputs.shape_analysis import ShapeComponents, component_template, shape_components, write_shape

__all__ = [
    "ShapeComponents",
    "TemplateEstimate",
    "add_subject",
    "component_template",
    "conditional_template",
    "estimate_template",
    "propagate_labels",
    "read_probabilities",
    "recompute_template",
    "shape_components",
    "write_label_atlas",
    "write_label_volumes",
    "write_measures",
    "write_report",
    "write_shape",
    "write_subject_labels",
    "write_transforms",
]
