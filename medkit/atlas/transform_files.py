"""Transformations in files that ITK, ANTs and 3D Slicer apply: displacement fields, affine maps, both in one.

Inside medkit a displacement is in voxels of its grid and points are RAS millimetres; files hold LPS millimetres. A map
goes from points of the output (fixed) space to points of the image that is read (moving), as ITK wants it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medkit.atlas.itk_images import linear_matrix, simple_itk
from medkit.workflow import atomic_path

if TYPE_CHECKING:
    import SimpleITK as sitk  # noqa: N813

AnyPath = str | os.PathLike[str]

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
# Intent code of the file, and the axes its values are in: what ITK makes of each (the first since ever, the second
# since ITK 5.3).
CONVENTIONS = {"itk": ("vector", RAS_TO_LPS), "nifti": ("displacement vector", np.eye(3))}
INTENTS = {1007: RAS_TO_LPS, 0: RAS_TO_LPS, 1006: np.eye(3)}
AFFINE_SUFFIXES = (".mat", ".tfm", ".txt")
FIELD_SUFFIXES = (".nii", ".nii.gz")


def _checked_affine(name: str, argument: str, affine: Any) -> np.ndarray:
    matrix = np.asarray(affine, dtype=np.float64)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise ValueError(f"{name}: '{argument}' must be an invertible (4, 4) matrix, got {matrix.tolist()}")
    return matrix


def _checked_field(name: str, displacement: Tensor) -> np.ndarray:
    field = displacement.detach().cpu().double()
    if field.ndim == 5 and len(field) == 1:
        field = field[0]
    if field.ndim != 4 or field.shape[0] != 3 or not torch.isfinite(field).all():
        raise ValueError(
            f"{name}: 'displacement' must be one finite 3-D field (3, X, Y, Z) or (1, 3, X, Y, Z) in voxels, got "
            f"{tuple(displacement.shape)}"
        )
    return field.numpy()


def _checked_suffix(name: str, path: Path, suffixes: tuple[str, ...]) -> None:
    if not path.name.lower().endswith(suffixes):
        raise ValueError(f"{name}: 'path' must end in {', '.join(suffixes)}, got {path}")


def _checked_file(name: str, path: AnyPath, suffixes: tuple[str, ...]) -> Path:
    file = Path(path)
    _checked_suffix(name, file, suffixes)
    if not file.is_file():
        raise FileNotFoundError(f"{name}: 'path' must be a file, but there is none at {file}")
    return file


def write_displacement(path: AnyPath, displacement: Tensor, affine: Any, convention: str = "itk") -> None:
    """Write a displacement field as NIfTI.

    Args:
        path: ``.nii`` or ``.nii.gz``.
        displacement: real, ``(3, X, Y, Z)`` or ``(1, 3, X, Y, Z)``, in voxels of the output grid.
        affine: ``(4, 4)``, voxel indices of that grid to RAS millimetres.
        convention: ``"itk"``, intent 1007 with values in LPS mm, which every version of ITK and ANTs applies;
            ``"nifti"``, intent 1006 with values in RAS mm, which the standard means and ITK from 5.3 on reads.

    Raises:
        ValueError: if the field or the affine is not as wanted, or ``convention`` is unknown.

    Example:
        >>> write_displacement("subject_1Warp.nii.gz", torch.zeros(3, 8, 8, 8), np.eye(4))
    """
    target = Path(path)
    _checked_suffix("write_displacement", target, FIELD_SUFFIXES)
    if convention not in CONVENTIONS:
        raise ValueError(f"write_displacement: 'convention' must be 'itk' or 'nifti', got {convention!r}")
    field, matrix = (
        _checked_field("write_displacement", displacement),
        _checked_affine("write_displacement", "affine", affine),
    )
    intent, axes = CONVENTIONS[convention]
    in_mm = np.einsum("ij,jxyz->xyzi", axes @ matrix[:3, :3], field)[:, :, :, None].astype(np.float32)
    image = nib.Nifti1Image(in_mm, matrix)
    image.set_sform(matrix, code=1)
    image.set_qform(matrix, code=1)
    image.header.set_intent(intent)
    image.header.set_xyzt_units("mm")
    with atomic_path(target) as temporary:
        nib.save(image, temporary)


def read_displacement(path: AnyPath) -> tuple[Tensor, np.ndarray]:
    """Read a displacement field, of ANTs, ITK, 3D Slicer or :func:`write_displacement`.

    The intent code says what the values are: 1006 RAS mm, 1007 (or none, in five dimensions) LPS mm.

    Args:
        path: ``.nii`` or ``.nii.gz`` of shape ``(X, Y, Z, 1, 3)``.

    Returns:
        Displacement ``(1, 3, X, Y, Z)``, float32, in voxels of the file's grid, and the grid's affine, ``(4, 4)``
        float64, voxel indices to RAS millimetres.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no such field; a four-dimensional one has no agreed meaning and is refused.

    Example:
        >>> displacement, affine = read_displacement("subject_1Warp.nii.gz")
    """
    file = _checked_file("read_displacement", path, FIELD_SUFFIXES)
    try:
        image = nib.load(file)
        values = np.asarray(image.dataobj, dtype=np.float64)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"read_displacement: {file} cannot be read as NIfTI: {error}") from error
    code = int(image.header["intent_code"])
    if values.ndim != 5 or values.shape[3:] != (1, 3) or code not in INTENTS:
        raise ValueError(
            f"read_displacement: {file} must hold a vector field (X, Y, Z, 1, 3) with intent 1006 or 1007, got "
            f"{values.shape} with intent {code}"
        )
    affine = np.asarray(image.affine, dtype=np.float64)
    to_voxels = np.linalg.inv(affine[:3, :3]) @ INTENTS[code]
    field = np.einsum("ij,xyzj->ixyz", to_voxels, values[:, :, :, 0])
    return torch.from_numpy(np.ascontiguousarray(field, dtype=np.float32))[None], affine


def _itk_affine(name: str, matrix: Any) -> sitk.AffineTransform:
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    lps = flip @ _checked_affine(name, "matrix", matrix) @ flip
    transform = simple_itk(name).AffineTransform(3)
    transform.SetMatrix(lps[:3, :3].ravel().tolist())
    transform.SetTranslation(lps[:3, 3].tolist())
    return transform


def write_affine(path: AnyPath, matrix: Any) -> None:
    """Write an affine map through SimpleITK.

    Args:
        path: ``.mat`` (``0GenericAffine.mat`` of ANTs), ``.tfm`` or ``.txt`` (text).
        matrix: ``(4, 4)``, from RAS mm of the output space to RAS mm of the image that is read.

    Raises:
        ValueError: if the matrix is singular or of another shape, or the suffix is unknown.
        ImportError: without SimpleITK.

    Example:
        >>> write_affine("subject_0GenericAffine.mat", np.eye(4))
    """
    target = Path(path)
    _checked_suffix("write_affine", target, AFFINE_SUFFIXES)
    transform = _itk_affine("write_affine", matrix)
    with atomic_path(target) as temporary:
        simple_itk("write_affine").WriteTransform(transform, str(temporary))


def read_affine(path: AnyPath) -> np.ndarray:
    """Read an affine map of ITK or ANTs.

    Args:
        path: ``.mat``, ``.tfm`` or ``.txt``.

    Returns:
        ``(4, 4)`` float64, from RAS mm of the output space to RAS mm of the image that is read.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no linear map.
        ImportError: without SimpleITK.

    Example:
        >>> matrix = read_affine("subject_0GenericAffine.mat")
    """
    file = _checked_file("read_affine", path, AFFINE_SUFFIXES)
    itk = simple_itk("read_affine")
    try:
        transform = itk.ReadTransform(str(file))
    except RuntimeError as error:
        raise ValueError(
            f"read_affine: {file} cannot be read as a transformation: {str(error).splitlines()[-1]}"
        ) from error
    if transform.GetDimension() != 3 or not transform.IsLinear():
        raise ValueError(f"read_affine: {file} must hold a linear map in 3-D, got {transform.GetName()}")
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return flip @ linear_matrix(transform) @ flip


def write_composite(path: AnyPath, displacement: Tensor, affine: Any, matrix: Any) -> None:
    """Write a displacement field and the affine map after it as one transformation, through SimpleITK.

    A point of the output goes through the displacement first, then through the matrix. The file is float64 and about
    four times as large as the pair that :func:`write_displacement` and :func:`write_affine` make.

    Args:
        path: ``.h5``.
        displacement: real, ``(3, X, Y, Z)`` or ``(1, 3, X, Y, Z)``, in voxels of the output grid.
        affine: ``(4, 4)``, voxel indices of that grid to RAS millimetres.
        matrix: ``(4, 4)``, from RAS mm after the displacement to RAS mm of the image that is read.

    Raises:
        ValueError: if the field or a matrix is not as wanted.
        ImportError: without SimpleITK.

    Example:
        >>> write_composite("subject.h5", torch.zeros(3, 8, 8, 8), np.eye(4), np.eye(4))
    """
    target = Path(path)
    _checked_suffix("write_composite", target, (".h5",))
    field = _checked_field("write_composite", displacement)
    grid = _checked_affine("write_composite", "affine", affine)
    itk = simple_itk("write_composite")
    in_mm = np.einsum("ij,jxyz->zyxi", RAS_TO_LPS @ grid[:3, :3], field)
    image = itk.GetImageFromArray(np.ascontiguousarray(in_mm), isVector=True)
    lps = RAS_TO_LPS @ grid[:3]
    spacing = np.linalg.norm(lps[:, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:, 3].tolist())
    image.SetDirection((lps[:, :3] / spacing).ravel().tolist())
    whole = itk.CompositeTransform(3)
    # ITK applies the transformation added last to the point first.
    whole.AddTransform(_itk_affine("write_composite", matrix))
    whole.AddTransform(itk.DisplacementFieldTransform(image))
    with atomic_path(target) as temporary:
        itk.WriteTransform(whole, str(temporary))
