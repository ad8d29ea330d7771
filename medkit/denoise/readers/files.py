"""One image of any kind that is denoised: a NIfTI volume, a picture, or a DICOM series, checked at the door."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from medkit.denoise.dicom_series import DicomSeries, read_dicom_series

NIFTI, PICTURE, DICOM = "nifti", "picture", "dicom"
NIFTI_SUFFIXES = (".nii", ".nii.gz")
PICTURE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")


@dataclass(frozen=True, eq=False)
class StoredImage:
    """An image as its file holds it.

    Args:
        array: real, ``(C, H, W)`` or ``(C, H, W, S)``; C is 1, of a colour picture 3.
        affine: float64, ``(4, 4)``, voxel indices to RAS mm; the identity where the file tells none.
        space_code: NIfTI's code of the space that ``affine`` leads to, 0 where nothing is known of it.
        modality: ``"CT"`` or another of DICOM's, ``""`` where the file tells none.
    """

    array: np.ndarray
    affine: np.ndarray
    space_code: int
    modality: str


def suffix_of(path: Path) -> str:
    """Return the suffix of a kind of file that is read, or nothing."""
    name = path.name.lower()
    return next((suffix for suffix in (*NIFTI_SUFFIXES[::-1], *PICTURE_SUFFIXES) if name.endswith(suffix)), "")


def kind_of(path: Path) -> str:
    """Return ``"nifti"``, ``"picture"`` or ``"dicom"`` (a folder) of an entry's path."""
    if path.is_dir():
        return DICOM
    return NIFTI if suffix_of(path) in NIFTI_SUFFIXES else PICTURE


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its mark behind 128 bytes; no library is needed."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def n_slices_of(name: str, path: Path, series_uid: str | None = None, slice_axis: int = 2) -> int:
    """Return how many slices an image has, without reading its voxels where that can be; 1 for a picture."""
    kind = kind_of(path)
    if kind == PICTURE:
        return 1
    if kind == DICOM:
        return len(dicom_series(path, series_uid).files)
    shape = _nifti(name, path)[1]
    return shape[slice_axis] if len(shape) == 3 else 1


def read_image(
    name: str, path: Path, i_slice: int | None = None, series_uid: str | None = None, slice_axis: int = 2
) -> StoredImage:
    """Read an image, or one slice of it.

    Args:
        name: of the function that asks, for its errors.
        path: NIfTI or picture file, or the folder of a DICOM series.
        i_slice: which slice; ``None``: all of them.
        series_uid: of the DICOM series, where the folder holds several.
        slice_axis: array axis of a NIfTI volume that counts the slices; the others, in their order, are rows and
            columns.

    Raises:
        ValueError: if the file cannot be read, holds other than two or three axes, complex numbers, NaN or infinity,
            nothing, or one number everywhere.
    """
    kind = kind_of(path)
    if kind == PICTURE:
        array = read_picture(name, path)
        _check_values(name, path, array, i_slice)
        return StoredImage(array, np.eye(4), 0, "")
    if kind == DICOM:
        series = dicom_series(path, series_uid)
        volume, affine, code, modality = series.volume.numpy(), series.affine, 1, series.modality
        slice_axis = 2
    else:
        image, shape = _nifti(name, path)
        affine, code, modality = np.asarray(image.affine, dtype=np.float64), _space_code(image), ""
        try:
            if i_slice is not None and len(shape) == 3 and not path.name.lower().endswith(".gz"):
                index: list[Any] = [slice(None)] * 3
                index[slice_axis] = slice(i_slice, i_slice + 1)
                volume = np.asarray(image.dataobj[(*index, *(0,) * (len(image.shape) - 3))], dtype=np.float32)
                i_slice = 0
            else:
                volume = _whole(path, path.stat().st_mtime_ns).reshape((*shape, 1)[:3])
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise ValueError(
                f"{name}: {path} cannot be read ({' '.join(str(error).split())[:120]}); it may be incomplete, copy or "
                "convert it again"
            ) from error
        if len(shape) == 2 and slice_axis != 2:
            slice_axis = 2
    order = [axis for axis in range(3) if axis != slice_axis] + [slice_axis]
    volume, affine = volume.transpose(order), affine[:, [*order, 3]]
    if i_slice is not None:
        volume = volume[..., i_slice]
    elif volume.shape[2] == 1 and kind == NIFTI and len(shape) == 2:
        volume = volume[..., 0]
    array = np.ascontiguousarray(volume, dtype=np.float32)[None]
    _check_values(name, path, array, i_slice)
    return StoredImage(array, affine, code, modality)


def dicom_series(folder: Path, series_uid: str | None = None) -> DicomSeries:
    """Return a DICOM series, of which the last two are kept in memory."""
    return _series(folder, series_uid, folder.stat().st_mtime_ns)


@lru_cache(maxsize=2)
def _series(folder: Path, series_uid: str | None, stamp: int) -> DicomSeries:
    return read_dicom_series(folder, series_uid)


@lru_cache(maxsize=2)
def _whole(path: Path, stamp: int) -> np.ndarray:
    import nibabel

    image: Any = nibabel.load(path)
    return np.asarray(image.dataobj, dtype=np.float32)


def _nifti(name: str, path: Path) -> tuple[Any, tuple[int, ...]]:
    """Return an opened NIfTI file and its shape without trailing axes of one voxel."""
    import nibabel
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        image: Any = nibabel.load(path)
        shape = tuple(int(n) for n in image.shape)
        dtype = np.dtype(image.get_data_dtype())
    except (ImageFileError, HeaderDataError, OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(
            f"{name}: {path} must be a NIfTI file, but it cannot be opened ({' '.join(str(error).split())[:120]}); it "
            "may be incomplete, copy or convert it again"
        ) from error
    if dtype.kind == "c":
        raise ValueError(f"{name}: {path} holds complex numbers; give its magnitude")
    if dtype.kind not in "fiub":
        raise ValueError(f"{name}: {path} must hold real numbers, got {dtype}; convert it to float32")
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) not in (2, 3):
        raise ValueError(
            f"{name}: {path} must be one image or volume of 2 or 3 axes, got {shape}; split a series of volumes first, "
            "for example with nibabel.four_to_three"
        )
    if 0 in shape:
        raise ValueError(f"{name}: {path} is empty, its size is {shape}")
    return image, shape


def _space_code(image: Any) -> int:
    header = image.header
    return (int(header["sform_code"]) or int(header["qform_code"])) if "sform_code" in header else 0


def read_picture(name: str, path: Path) -> np.ndarray:
    """Read a picture as ``(1, H, W)``, or in colour ``(3, H, W)``, in the type that the file has."""
    from skimage.io import imread

    try:
        array = np.asarray(imread(path))
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name}: {path} must be a picture, but it cannot be opened ({' '.join(str(error).split())[:120]}); it may "
            "be incomplete, copy or convert it again"
        ) from error
    if array.dtype.kind == "c":
        raise ValueError(f"{name}: {path} holds complex numbers; give its magnitude")
    if array.ndim == 3 and array.shape[-1] in (2, 4):
        array = array[..., :-1]  # without transparency
    if array.ndim == 3 and array.shape[-1] == 3 and all((array[..., 0] == array[..., k]).all() for k in (1, 2)):
        array = array[..., :1]  # grey, stored as colour
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise ValueError(
            f"{name}: {path} must be one grey or RGB picture, got shape {array.shape}; a stack of pictures is a "
            "volume: convert it to NIfTI, or write one file for each"
        )
    return np.ascontiguousarray(np.moveaxis(array, -1, 0))


def _check_values(name: str, path: Path, array: np.ndarray, i_slice: int | None) -> None:
    n_wrong = 0 if array.dtype.kind in "iub" else int((~np.isfinite(array)).sum())
    if n_wrong:
        raise ValueError(f"{name}: {path} must hold finite numbers, {n_wrong} of {array.size} are NaN or infinite")
    if i_slice is None and array.min() == array.max():
        raise ValueError(f"{name}: {path} is empty: every value is {array.flat[0]:g}")
