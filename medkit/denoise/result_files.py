"""Denoised images as files of the kind that they came from."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
from torch import Tensor

from medkit.denoise.dicom_writing import write_dicom_series
from medkit.denoise.readers.files import DICOM, NIFTI, dicom_series, kind_of, read_picture, suffix_of
from medkit.workflow import atomic_path, write_nifti

logger = logging.getLogger(__name__)

NAME = "SaveDenoised"
TIFF = (".tif", ".tiff")


def result_path(folder: Path, case: str, method: str, source: Path) -> Path:
    """Return where the result of a source goes: ``<case>_<method>`` with the suffix of its kind, DICOM a folder."""
    kind = kind_of(source)
    if kind == DICOM:
        return folder / f"{case}_{method}"
    if kind == NIFTI:
        return folder / f"{case}_{method}.nii.gz"
    return folder / f"{case}_{method}{'.tif' if suffix_of(source) in TIFF else '.png'}"


def check_writable(path: Path) -> None:
    """Refuse a DICOM folder that holds something, before anything is computed."""
    if not path.suffix and path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(
            f"{NAME}: {path} must be new or empty for a DICOM series; remove it, or give another output_dir"
        )


def write_result(
    path: Path,
    image: Tensor,
    source: str | os.PathLike[str],
    affine: np.ndarray,
    space_code: int,
    series_uid: str | None,
    method: str,
    slice_axis: int = 2,
) -> None:
    """Write a denoised image, in the unit of its file, as a file of the same kind.

    Args:
        path: of :func:`result_path`.
        image: real, ``(C, H, W[, S])``, unit of the source file.
        source: file or DICOM folder that it was made from.
        affine: ``(4, 4)``, voxel ``(row, column, slice)`` to RAS mm.
        space_code: NIfTI's code of the space of ``affine``.
        series_uid: of a DICOM series.
        method: name of the method, for the description of the series.
        slice_axis: array axis of the source that counted the slices.
    """
    source = Path(source)
    kind = kind_of(source)
    if kind == DICOM:
        series = dicom_series(source, series_uid)
        axes = series.affine[:3, :3] / np.linalg.norm(series.affine[:3, :3], axis=0)
        is_sheared = bool(np.abs(axes.T @ axes - np.eye(3)).max() > 1e-4)
        write_dicom_series(path, image[0].cpu(), series, description=f"denoised by {method}", nifti=not is_sheared)
    elif kind == NIFTI:
        volume = image[0]
        if volume.ndim == 3 and slice_axis != 2:
            order = [*(axis for axis in range(3) if axis != slice_axis), slice_axis]
            back = [order.index(axis) for axis in range(3)]
            volume, affine = volume.permute(back), affine[:, [*back, 3]]
        write_nifti(path, volume, affine, space_code)
    else:
        write_picture(path, image, read_picture(NAME, source).dtype)
    logger.info("%s: wrote %s", path.name, path)


def write_picture(path: Path, image: Tensor, dtype: np.dtype) -> None:
    """Write ``(C, H, W)`` as PNG or TIFF of a type: whole numbers are rounded and cut; others are float32, TIFF."""
    from skimage.io import imsave

    array = image.detach().cpu().float().numpy()
    array = array[0] if len(array) == 1 else np.moveaxis(array, 0, -1)
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        array = array.round().clip(limits.min, limits.max).astype(dtype)
    with atomic_path(path) as temporary:
        imsave(temporary, array, check_contrast=False)
