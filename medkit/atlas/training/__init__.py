"""Training of priors: pairs of subjects, the energy of a pair as loss, its metrics and pictures."""

from medkit.atlas.training.energies import RelativeEnergy, SymmetricPairEnergy
from medkit.atlas.training.engine import ClipGradients, PreviewPairs, SavePairs
from medkit.atlas.training.readers import subject_list
from medkit.atlas.training.transforms import AntiAliasd, RandPaird, subject_pairs

__all__ = [
    "AntiAliasd",
    "ClipGradients",
    "PreviewPairs",
    "RandPaird",
    "RelativeEnergy",
    "SavePairs",
    "SymmetricPairEnergy",
    "subject_list",
    "subject_pairs",
]
