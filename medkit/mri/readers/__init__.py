"""Exams on disk: opened by their header, read slice by slice, listed by folder and split."""

from medkit.mri.readers.acquisition import Acquisition
from medkit.mri.readers.converting import convert_acquisitions
from medkit.mri.readers.guides import LoadGuided
from medkit.mri.readers.lesions import LoadLesionsd
from medkit.mri.readers.listing import acquisition_list
from medkit.mri.readers.loading import LoadAcquisitiond
from medkit.mri.readers.opening import open_acquisition
from medkit.mri.readers.pairing import pair_list
from medkit.mri.readers.sampling import find_mask

__all__ = [
    "Acquisition",
    "LoadAcquisitiond",
    "LoadGuided",
    "LoadLesionsd",
    "acquisition_list",
    "convert_acquisitions",
    "find_mask",
    "open_acquisition",
    "pair_list",
]
