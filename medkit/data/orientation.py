"""Slices turned as radiologists look at them."""

from __future__ import annotations

import numpy as np


def _is_as_stored(affine: np.ndarray) -> bool:
    """Return whether an affine says no more than the spacing: the form that files without orientation are given."""
    spacing = np.diag(affine)[:3]
    return bool(np.allclose(affine[:3, :3], np.diag(spacing)) and (spacing > 0).all() and not affine[:2, 3].any())


def _vertical_axis(affine: np.ndarray) -> tuple[int, tuple[str, ...]]:
    """Return which array axis of a slice should run down the picture, and the directions of the axes."""
    import nibabel

    codes = nibabel.aff2axcodes(affine)
    ranks = [0 if code in ("S", "I") else 1 if code in ("A", "P") else 2 for code in codes[:2]]
    return (0 if ranks[0] <= ranks[1] else 1), codes


def turned(array: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn a slice ``(row, column)`` as radiologists look at it.

    Superior or anterior up, the patient's right on the left, in a sagittal slice anterior on the left. Where only the
    spacing is known, that is for ``diag(row, column, slice, 1)`` with the first row and column at 0, for example the
    identity, the rows stay as they are stored.

    Args:
        array: slice, ``(H, W)``.
        affine: ``(4, 4)``, voxel ``(row, column, slice)`` to RAS mm.

    Returns:
        A view of ``array``.
    """
    if _is_as_stored(affine):
        return array
    vertical, codes = _vertical_axis(affine)
    if vertical == 1:
        array = array.T
    if codes[vertical] in ("S", "A"):
        array = array[::-1]
    return array[:, ::-1] if codes[1 - vertical] in ("R", "A") else array


def turned_spacing(affine: np.ndarray) -> tuple[float, float]:
    """Return height and width in mm of a pixel of :func:`turned`."""
    spacing = [float(length) for length in np.linalg.norm(affine[:3, :2], axis=0)]
    if _is_as_stored(affine):
        return spacing[0], spacing[1]
    vertical, _ = _vertical_axis(affine)
    return spacing[vertical], spacing[1 - vertical]
