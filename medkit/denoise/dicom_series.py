"""A DICOM series as a volume in its own unit, with the affine that NIfTI wants."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medkit.denoise.dicom_geometry import order_and_affine

_NAME = "read_dicom_series"
_REQUIRED = (
    *("SOPClassUID", "SOPInstanceUID", "Columns", "BitsAllocated", "BitsStored", "PixelRepresentation"),
    *("PhotometricInterpretation", "PixelSpacing", "ImageOrientationPatient", "ImagePositionPatient"),
)


@dataclass(frozen=True, eq=False)
class DicomSeries:
    """A volume, and where it came from.

    Args:
        volume: float32, ``(W, H, S)``: column, row and slice, as NIfTI and ITK count voxels; HU for CT, otherwise the
            unit that the rescale of the files leads to.
        affine: float64, ``(4, 4)``, voxel indices to RAS mm. Its third axis is not perpendicular to the others where
            a CT gantry was tilted.
        padding: bool, ``(W, H, S)``, true where the files say that nothing was measured; ``volume`` holds the rescaled
            padding value there.
        files: one file for each slice, in the order of the slices.
        series_uid: SeriesInstanceUID of the files.
        modality: ``"CT"``, ``"MR"``, …
    """

    volume: Tensor = field(repr=False)
    affine: np.ndarray
    padding: Tensor = field(repr=False)
    files: tuple[Path, ...] = field(repr=False)
    series_uid: str
    modality: str


def read_dicom_series(folder: str | os.PathLike[str], series_uid: str | None = None) -> DicomSeries:
    """Read the single-frame images of one DICOM series as a volume, rescale applied.

    Slices are sorted by their position along the normal of ImageOrientationPatient, whatever their files are called.
    Files that are no DICOM image, and subfolders, are passed over.

    Args:
        folder: holds the files of the series, and of other series if ``series_uid`` is given.
        series_uid: SeriesInstanceUID of the series to read; ``None``: the only one in the folder.

    Raises:
        FileNotFoundError: if there is no such folder, or no DICOM image in it.
        ImportError: if pydicom is not installed.
        ValueError: if the folder holds several series, or not the one that was asked for, or the series is no stack
            of monochrome slices at equal distances: slices missing or twice, mixed sizes, spacings or orientations,
            several frames in a file, missing tags, pixels that cannot be decoded.

    Example:
        >>> series = read_dicom_series("patient/ct")
        >>> series.volume.shape, series.affine.shape
        (torch.Size([512, 512, 120]), (4, 4))
    """
    pydicom = pydicom_module(_NAME)
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{_NAME}: 'folder' must be a folder of DICOM files, there is none at {folder}")
    headers = _chosen(folder, _headers(pydicom, folder), series_uid)
    for path, header in headers.items():
        _check_header(path, header)
    files, affine = order_and_affine(_NAME, headers)
    columns, rows = (int(headers[files[0]][tag].value) for tag in ("Columns", "Rows"))
    volume = torch.empty(columns, rows, len(files), dtype=torch.float32)
    padding = torch.zeros(columns, rows, len(files), dtype=torch.bool)
    for i_slice, path in enumerate(files):
        header = pydicom.dcmread(path)
        stored = stored_pixels(_NAME, path, header)
        slope, intercept = rescale(_NAME, path, header)
        volume[..., i_slice] = torch.from_numpy((stored.T * slope + intercept).astype(np.float32))
        limits = padding_limits(header)
        if limits is not None:
            padding[..., i_slice] = torch.from_numpy(((stored >= limits[0]) & (stored <= limits[1])).T)
    first = headers[files[0]]
    return DicomSeries(
        volume, affine, padding, tuple(files), str(first.SeriesInstanceUID), str(first.get("Modality") or "")
    )


def pydicom_module(name: str) -> Any:
    """Return the module pydicom, or say in the name of the function that needs it what to install."""
    try:
        import pydicom
    except ImportError as error:
        raise ImportError(f"{name}: this needs pydicom; install it with: pip install 'medkit[dicom]'") from error
    return pydicom


def stored_pixels(name: str, path: Path, image: Any) -> np.ndarray:
    """Return the stored values of one image, ``(H, W)``, int64, before any rescale."""
    syntax = image.file_meta.TransferSyntaxUID
    if "PixelData" not in image:
        raise ValueError(f"{name}: {path.name} has no tag PixelData; every slice must hold its pixels")
    try:
        array = image.pixel_array
    except (RuntimeError, NotImplementedError, AttributeError, ValueError, KeyError, TypeError, EOFError) as error:
        how = (
            f"they are compressed as {syntax.name}; install a decoder (pip install 'pylibjpeg[all]') or decompress them"
            if syntax.is_compressed
            else f"the file seems to be damaged ({' '.join(str(error).split())[:120]}); copy it again"
        )
        raise ValueError(f"{name}: the pixels of {path.name} cannot be decoded: {how}") from error
    if array.shape != (int(image.Rows), int(image.Columns)):
        raise ValueError(
            f"{name}: the pixels of {path.name} must be {image.Rows} rows of {image.Columns}, got {array.shape}"
        )
    # Bits above those stored may hold anything; of signed values they must repeat the sign.
    n_bits, is_signed = int(image.BitsStored), int(image.PixelRepresentation) == 1
    values = array.astype(np.int64) & ((1 << n_bits) - 1)
    return values - ((values >> (n_bits - 1)) << n_bits) if is_signed else values


def rescale(name: str, path: Path, image: Any) -> tuple[float, float]:
    """Return slope and intercept from stored values to the unit of the image; 1 and 0 where none are given."""
    given = {tag: image.get(tag) for tag in ("RescaleSlope", "RescaleIntercept")}
    if image.get("Modality") == "CT" and any(value in (None, "") for value in given.values()):
        raise ValueError(f"{name}: {path.name} is CT without RescaleSlope and RescaleIntercept, so HU are unknown")
    slope = 1.0 if given["RescaleSlope"] in (None, "") else float(given["RescaleSlope"])
    intercept = float(given["RescaleIntercept"] or 0)
    if not (np.isfinite([slope, intercept]).all() and slope != 0):
        raise ValueError(
            f"{name}: RescaleSlope of {path.name} must not be 0, and both it and RescaleIntercept finite, got "
            f"{slope:g} and {intercept:g}"
        )
    return slope, intercept


def padding_limits(image: Any) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that mean "nothing was measured", both included."""
    value = image.get("PixelPaddingValue")
    if value is None:
        return None
    limit = image.get("PixelPaddingRangeLimit")
    span = 1 << int(image.BitsAllocated)
    is_signed = int(image.PixelRepresentation) == 1
    # Some writers give the value with the sign of the other representation.
    ends = [int(end) % span for end in (value, value if limit is None else limit)]
    ends = [end - span if is_signed and end >= span // 2 else end for end in ends]
    return min(ends), max(ends)


def _headers(pydicom: Any, folder: Path) -> dict[Path, Any]:
    """Return the headers of all files that are DICOM images."""
    found = {}
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        if not pydicom.misc.is_dicom(path):
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if "Rows" not in header:  # a directory, a report, a structure set
                continue
        except (ValueError, EOFError, NotImplementedError, pydicom.errors.InvalidDicomError) as error:
            raise ValueError(f"{_NAME}: the DICOM header of {path.name} is damaged; copy the file again") from error
        found[path] = header
    if not found:
        raise FileNotFoundError(
            f"{_NAME}: there is no DICOM image in {folder}; name the folder that holds the files themselves "
            "(subfolders are not searched)"
        )
    return found


def _chosen(folder: Path, headers: dict[Path, Any], series_uid: str | None) -> dict[Path, Any]:
    """Return the headers of the one series that is meant."""
    series: dict[str, dict[Path, Any]] = {}
    for path, header in headers.items():
        uid = header.get("SeriesInstanceUID")
        if not uid:
            raise ValueError(f"{_NAME}: {path.name} has no tag SeriesInstanceUID; remove it or complete it")
        series.setdefault(str(uid), {})[path] = header
    if series_uid is None and len(series) == 1:
        return headers
    if series_uid in series:
        return series[str(series_uid)]
    listed = "; ".join(_described(uid, members) for uid, members in series.items())
    asked = "several series" if series_uid is None else f"no series {series_uid}"
    raise ValueError(f"{_NAME}: {folder} holds {asked}; give 'series_uid' as one of: {listed}")


def _described(uid: str, members: dict[Path, Any]) -> str:
    first = next(iter(members.values()))
    return f"{uid} ({len(members)} images, {first.get('Modality', '?')}, '{first.get('SeriesDescription', '')}')"


def _check_header(path: Path, header: Any) -> None:
    """Refuse an image that is not one monochrome slice in space."""
    if int(header.get("NumberOfFrames") or 1) > 1 or "SharedFunctionalGroupsSequence" in header:
        raise ValueError(
            f"{_NAME}: {path.name} is a multi-frame object; convert the series to one file for each slice first"
        )
    missing = [tag for tag in _REQUIRED if header.get(tag) is None or header.get(tag) == ""]
    missing += [] if "TransferSyntaxUID" in header.file_meta else ["TransferSyntaxUID"]
    if missing:
        raise ValueError(f"{_NAME}: {path.name} has no tag {', '.join(missing)}; a slice of a volume must have them")
    allocated, stored = int(header.BitsAllocated), int(header.BitsStored)
    kind = str(header.PhotometricInterpretation)
    if kind not in ("MONOCHROME1", "MONOCHROME2") or int(header.get("SamplesPerPixel") or 1) != 1:
        raise ValueError(f"{_NAME}: {path.name} must be monochrome, got PhotometricInterpretation {kind}")
    if allocated not in (8, 16) or not 1 <= stored <= allocated or header.get("HighBit", stored - 1) != stored - 1:
        raise ValueError(
            f"{_NAME}: {path.name} must hold pixels of 8 or 16 bits with the stored bits lowest, got BitsAllocated "
            f"{allocated}, BitsStored {stored}, HighBit {header.get('HighBit')}"
        )
    if header.get("ModalityLUTSequence"):
        raise ValueError(f"{_NAME}: {path.name} has a Modality LUT; only RescaleSlope and RescaleIntercept are read")
    rescale(_NAME, path, header)
