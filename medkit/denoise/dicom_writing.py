"""A processed volume as a DICOM series, derived from the one that it was read from."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medkit import __version__
from medkit.denoise.dicom_series import DicomSeries, padding_limits, pydicom_module, rescale, stored_pixels
from medkit.workflow import write_nifti

logger = logging.getLogger(__name__)

_NAME = "write_dicom_series"
# What is no longer true of other pixels, or would make two equal results differ.
_STALE = (
    *("SmallestImagePixelValue", "LargestImagePixelValue", "SmallestPixelValueInSeries", "LargestPixelValueInSeries"),
    *("IconImageSequence", "DigitalSignaturesSequence", "MACParametersSequence"),
    *("InstanceCreationDate", "InstanceCreationTime", "InstanceCreatorUID"),
)


def write_dicom_series(
    folder: str | os.PathLike[str],
    volume: Tensor,
    series: DicomSeries,
    description: str = "denoised",
    series_number: int | None = None,
    nifti: bool = False,
) -> list[Path]:
    r"""Write a processed volume as a new DICOM series of the same study, whole or not at all.

    Each slice keeps its source's tags of patient, study and geometry, its rescale, stored type, photometric
    interpretation and private tags; values are rounded to the nearest stored one. New are SeriesInstanceUID and
    SOPInstanceUID (the same result gives the same UIDs, another one others), SeriesNumber, ``DERIVED\SECONDARY`` in
    ImageType, descriptions, the references to the source images and the contributing equipment. Padding is copied
    from the source. A warning in the log counts values outside the stored type, which are clipped, and values that
    fell on the padding value. Files are ``0001.dcm`` and so on, Explicit VR Little Endian, in the order of the slices.

    Args:
        folder: to make; must be new or empty.
        volume: real, ``(W, H, S)``, axes and unit of ``series.volume``.
        series: what was processed; its files are read again and never changed.
        description: what was done, ASCII; goes behind SeriesDescription and into DerivationDescription.
        series_number: SeriesNumber; ``None``: the source's and 1000.
        nifti: also write ``<folder>.nii.gz`` beside the folder, float32 and not rounded.

    Returns:
        The files, in the order of the slices.

    Raises:
        FileNotFoundError: if a file of the source is gone.
        ImportError: if pydicom is not installed.
        ValueError: if the shape differs, values are NaN, infinite or complex, the folder holds files, the source has
            changed, or NIfTI is wanted of a sheared series.

    Example:
        >>> series = read_dicom_series("patient/ct")
        >>> files = write_dicom_series("patient/ct_denoised", 0.5 * series.volume, series, nifti=True)
    """
    pydicom = pydicom_module(_NAME)
    folder = Path(folder)
    _check(folder, volume, series, description, nifti)
    values = volume.detach().cpu().double().numpy()
    stored = []
    n_clipped = n_on_padding = 0
    for i_slice, path in enumerate(series.files):
        source = _source(pydicom, path, series)
        is_padding = series.padding[..., i_slice].numpy().T
        slice_stored, clipped, on_padding = _to_stored(path, source, values[..., i_slice].T, is_padding)
        n_clipped, n_on_padding = n_clipped + clipped, n_on_padding + on_padding
        stored.append(slice_stored)
    if n_clipped:
        logger.warning(
            "%s: %d of %d values did not fit the stored type and were clipped", _NAME, n_clipped, values.size
        )
    if n_on_padding:
        logger.warning("%s: %d values fell on the padding value, which viewers hide", _NAME, n_on_padding)
    digest = hashlib.sha256(
        b"".join([description.encode(), str(series_number).encode(), *(a.tobytes() for a in stored)])
    )
    series_uid = _uid(series.series_uid, digest.hexdigest())

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        names = []
        for i_slice, pixels in enumerate(stored):
            source = _source(pydicom, series.files[i_slice], series)
            names.append(f"{i_slice + 1:04d}.dcm")
            derived = _derived(pydicom, source, pixels, series_uid, description, series_number)
            derived.save_as(temporary / names[-1], enforce_file_format=True)
        temporary.chmod(0o777 & ~_umask())
        if nifti:
            write_nifti(_nifti_path(folder), volume, series.affine)
        if folder.exists():
            folder.rmdir()  # empty, by _check
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / file_name for file_name in names]


def _check(folder: Path, volume: Tensor, series: DicomSeries, description: str, nifti: bool) -> None:
    if volume.shape != series.volume.shape or volume.is_complex():
        raise ValueError(
            f"{_NAME}: 'volume' must be real {tuple(series.volume.shape)} as the series, got {volume.dtype} "
            f"{tuple(volume.shape)}"
        )
    if not bool(volume.isfinite().all()):
        raise ValueError(f"{_NAME}: 'volume' must be finite, got NaN or infinity")
    if not description.isascii() or not description.isprintable() or "\\" in description or len(description) > 64:
        raise ValueError(
            f"{_NAME}: 'description' must be up to 64 printable ASCII characters, no backslash, got {description!r}"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{_NAME}: 'folder' must be new or empty, but {folder} is not; name another or remove it")
    if nifti and _nifti_path(folder).exists():
        raise ValueError(f"{_NAME}: there is {_nifti_path(folder)} already; remove it or name another 'folder'")
    axes = series.affine[:3, :3] / np.linalg.norm(series.affine[:3, :3], axis=0)
    if nifti and np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4:
        raise ValueError(
            f"{_NAME}: the series is sheared (a tilted gantry), which not every reader of NIfTI understands; set nifti "
            "to False"
        )


def _source(pydicom: Any, path: Path, series: DicomSeries) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{_NAME}: {path} of the source series is gone; its tags are needed, put it back")
    source = pydicom.dcmread(path)
    if source.get("SeriesInstanceUID") != series.series_uid:
        raise ValueError(f"{_NAME}: {path} no longer belongs to series {series.series_uid}; read the series again")
    return source


def _to_stored(path: Path, source: Any, values: np.ndarray, is_padding: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Return stored values ``(H, W)`` in the file's type, and how many were clipped and fell on padding."""
    slope, intercept = rescale(_NAME, path, source)
    n_bits, is_signed = int(source.BitsStored), int(source.PixelRepresentation) == 1
    low, high = (-(1 << (n_bits - 1)), (1 << (n_bits - 1)) - 1) if is_signed else (0, (1 << n_bits) - 1)
    rounded = np.rint((values - intercept) / slope)
    measured = ~is_padding
    n_clipped = int((((rounded < low) | (rounded > high)) & measured).sum())
    stored = rounded.clip(low, high).astype(np.int64)
    limits, n_on_padding = padding_limits(source), 0
    if limits is not None:
        n_on_padding = int(((stored >= limits[0]) & (stored <= limits[1]) & measured).sum())
    if is_padding.any():
        stored = np.where(is_padding, stored_pixels(_NAME, path, source), stored)
    return stored.astype(f"<{'i' if is_signed else 'u'}{int(source.BitsAllocated) // 8}"), n_clipped, n_on_padding


def _derived(
    pydicom: Any, source: Any, pixels: np.ndarray, series_uid: str, description: str, series_number: int | None
) -> Any:
    """Return the data set of one slice of the new series."""
    derived = copy.copy(source)
    for tag in (*_STALE, "PixelData"):
        if tag in derived:
            del derived[tag]
    reference = pydicom.Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    reference.SpatialLocationsPreserved = "YES"
    reference.PurposeOfReferenceCodeSequence = _code(pydicom, "121322", "Source image for image processing operation")
    derived.SourceImageSequence = [reference]
    equipment = pydicom.Dataset()
    equipment.Manufacturer = equipment.ManufacturerModelName = "medkit"
    equipment.SoftwareVersions = __version__
    equipment.ContributionDescription = description
    equipment.PurposeOfReferenceCodeSequence = _code(pydicom, "109102", "Processing Equipment")
    derived.ContributingEquipmentSequence = [*(source.get("ContributingEquipmentSequence") or []), equipment]

    kept = source.get("ImageType") or []
    kept = [kept] if isinstance(kept, str) else list(kept)  # pydicom gives a single value as itself
    derived.ImageType = ["DERIVED", "SECONDARY", *kept[2:]]
    derived.SeriesDescription = _behind(source.get("SeriesDescription"), f" {description}", 64)
    derived.DerivationDescription = _behind(
        source.get("DerivationDescription"), f" medkit {__version__}: {description}", 1024
    )
    derived.SeriesNumber = 1000 + int(source.get("SeriesNumber") or 0) if series_number is None else series_number
    derived.SeriesInstanceUID = series_uid
    derived.SOPInstanceUID = _uid(series_uid, str(source.SOPInstanceUID))

    content = pixels.tobytes()
    derived.add_new("PixelData", "OB" if pixels.itemsize == 1 else "OW", content + b"\0" * (len(content) % 2))
    derived.file_meta = pydicom.dataset.FileMetaDataset()
    derived.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    return derived


def _code(pydicom: Any, value: str, meaning: str) -> list[Any]:
    code = pydicom.Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "DCM", meaning
    return [code]


def _behind(text: Any, addition: str, limit: int) -> str:
    """Return ``text`` with ``addition`` behind it, of which nothing is cut."""
    return f"{str(text or '')[: limit - len(addition)]}{addition}".strip()[:limit]


def _uid(*sources: str) -> str:
    """Return a UID under 2.25, the root of UUIDs, that follows from the given texts."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(sources)).int}"


def _nifti_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.nii.gz")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
