"""The simulated cohort as subjects of an atlas: skull-stripped heads whose true template is known."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from medkit.atlas.subjects import AtlasSubject
from medkit.data import BrainCohort
from medkit.data.cohort.labels import BRAIN
from medkit.workflow import atomic_path


def simulated_subjects(cohort: BrainCohort) -> list[AtlasSubject]:
    """Return the subjects of a simulated cohort, with masks of their brains and labels of their tissues.

    Args:
        cohort: the cohort; what is missing of its files is generated, and a mask for each subject beside them.

    Returns:
        The subjects.

    Example:
        >>> simulated_subjects(BrainCohort(2, spacing=4.0, contrasts=("t1",)))[1].name
        'train-0001'
    """
    brain = [cohort.LABELS[name] for name in BRAIN]
    subjects = []
    for entry in cohort.datalist():
        path = Path(entry["labels"]).with_name(f"{entry['case']}_brain.nii")
        if not path.exists():
            labels = nib.load(entry["labels"])
            mask = np.isin(np.asarray(labels.dataobj), brain).astype(np.uint8)
            with atomic_path(path) as temporary:
                nib.save(nib.Nifti1Image(mask, labels.affine), temporary)
        images = {contrast: entry[contrast] for contrast in cohort.contrasts}
        subjects.append(AtlasSubject(entry["case"], images, mask=str(path), labels=entry["labels"]))
    return subjects
