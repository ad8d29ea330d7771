"""What is made of a built atlas: its files, labels, measures, pictures, and answers that need no building anew."""

from medkit.atlas.outputs.final_template import Estimate, estimate_template, recompute_template
from medkit.atlas.outputs.label_atlas import read_probabilities, write_label_atlas
from medkit.atlas.outputs.label_propagation import propagate_labels, write_subject_labels
from medkit.atlas.outputs.measures import write_label_volumes, write_measures
from medkit.atlas.outputs.saved_transforms import write_transforms

__all__ = [
    "Estimate",
    "estimate_template",
    "propagate_labels",
    "read_probabilities",
    "recompute_template",
    "write_label_atlas",
    "write_label_volumes",
    "write_measures",
    "write_subject_labels",
    "write_transforms",
]
