"""Small DICOM series, written by pydicom slice by slice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

COLUMNS, ROWS, SLICES = 6, 4, 5
OBLIQUE = np.linalg.qr(np.array([[0.9, 0.2, 0.1], [-0.3, 0.8, 0.4], [0.1, -0.3, 0.9]]))[0].T  # rows: unit vectors


def stored_values(n_slices: int = SLICES, seed: int = 0, low: int = 100, high: int = 3000) -> np.ndarray:
    """Return random stored values, ``(S, H, W)``."""
    return np.random.default_rng(seed).integers(low, high, (n_slices, ROWS, COLUMNS))


def write_slices(
    folder: Path,
    stored: np.ndarray,
    modality: str = "CT",
    axes: np.ndarray | None = None,
    step: float = 2.5,
    order: list[int] | None = None,
    uid: str | None = None,
    **tags: Any,
) -> list[pydicom.Dataset]:
    """Write one file for each slice, named in ``order``; ``tags`` with the value ``None`` are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    axes = np.eye(3) if axes is None else axes
    normal = np.cross(axes[0], axes[1])
    uid, study = uid or generate_uid(), generate_uid()
    order = list(range(len(stored))) if order is None else order
    written = []
    for i_slice, pixels in enumerate(stored):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image = FileDataset("", {}, file_meta=meta)
        image.SOPClassUID = CTImageStorage if modality == "CT" else MRImageStorage
        image.SOPInstanceUID, image.SeriesInstanceUID, image.StudyInstanceUID = generate_uid(), uid, study
        image.PatientName, image.PatientID, image.StudyID = "Test^Case", "17", "3"
        image.Modality, image.SeriesNumber, image.SeriesDescription = modality, 4, "Head"
        image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        image.InstanceNumber = i_slice + 1
        image.ImageOrientationPatient = [float(f"{v:.10f}") for v in axes[:2].ravel()]
        image.ImagePositionPatient = [
            float(f"{v:.8f}") for v in np.array([-31.5, 12.25, 40.0]) + i_slice * step * normal
        ]
        image.PixelSpacing, image.SliceThickness = [0.5, 0.75], step
        image.Rows, image.Columns, image.SamplesPerPixel = *pixels.shape, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
        if modality == "CT":
            image.RescaleSlope, image.RescaleIntercept = 1, -1024
        for tag, value in tags.items():
            if value is None:
                del image[tag]
            else:
                setattr(image, tag, value)
        dtype = "<i2" if image.get("PixelRepresentation") == 1 else "<u2"
        image.PixelData = pixels.astype(dtype).tobytes()
        image.save_as(folder / f"{order[i_slice]:02d}.dcm", enforce_file_format=True)
        written.append(image)
    return written


def change(path: Path, **tags: Any) -> None:
    """Rewrite a file with other values of some tags; ``None`` deletes the tag."""
    image = pydicom.dcmread(path)
    for tag, value in tags.items():
        if value is None:
            del image[tag]
        else:
            setattr(image, tag, value)
    image.save_as(path)
