"""Arrays as images of SimpleITK, which is loaded only by what needs it."""

from typing import Any

import numpy as np


def simple_itk(name: str) -> Any:
    """Return the module SimpleITK.

    Args:
        name: of the function that needs it, for the error.

    Raises:
        ImportError: if it is not installed.
    """
    try:
        import SimpleITK
    except ImportError as error:
        raise ImportError(f"{name}: this needs SimpleITK; install it with: pip install 'medkit[atlas]'") from error
    return SimpleITK


def itk_image(itk: Any, values: np.ndarray, affine: np.ndarray) -> Any:
    """Return an array as an image whose space is that of ``affine``: SimpleITK does not care that it is RAS, not LPS.

    Args:
        itk: the module.
        values: ``(*S)``, two or three axes, in the order of ``affine``.
        affine: ``(D + 1, D + 1)``, voxel indices to mm.
    """
    n_axes = values.ndim
    image = itk.GetImageFromArray(np.ascontiguousarray(values.T))
    spacing = np.linalg.norm(affine[:n_axes, :n_axes], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:n_axes, n_axes].tolist())
    image.SetDirection((affine[:n_axes, :n_axes] / spacing).ravel().tolist())
    return image


def linear_matrix(transform: Any) -> np.ndarray:
    """Return a linear transformation of SimpleITK as ``(D + 1, D + 1)`` float64, in its own space."""
    n_axes = transform.GetDimension()
    origin = np.asarray(transform.TransformPoint((0.0,) * n_axes))
    matrix = np.eye(n_axes + 1)
    columns = [np.asarray(transform.TransformPoint(tuple(row))) - origin for row in np.eye(n_axes)]
    matrix[:n_axes, :n_axes], matrix[:n_axes, n_axes] = np.stack(columns, axis=1), origin
    return matrix
