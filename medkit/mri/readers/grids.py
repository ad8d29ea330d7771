"""Whether two exams lie on one grid, so that their voxels can be compared."""

from __future__ import annotations

import itertools

import numpy as np

from medkit.mri.readers.acquisition import KSPACE, Acquisition

TOLERANCE = 0.1  # of a voxel: how far the corners of two grids may be apart


def pair_fault(target: Acquisition, guide: Acquisition, same_grid: bool = True, can_align: bool = True) -> str | None:
    """Return why a reference contrast, or a map of lesions, does not fit a target; ``None`` if it fits.

    Args:
        target: the exam to restore.
        guide: the other contrast, or the map.
        same_grid: whether both must lie on one grid. Otherwise both must be volumes with geometry, to be aligned.
        can_align: whether the sentence may advise to align them.

    Returns:
        A sentence without its end that names both files, or ``None``.
    """
    pair = f"{guide.path} must fit its target {target.path}"
    if not same_grid:
        bad = next((exam for exam in (target, guide) if exam.kind == KSPACE or not exam.has_geometry), None)
        if bad is not None:
            return f"{pair}: only volumes with geometry can be aligned, {bad.path} is none; pass align='none'"
        return None
    if target.kind == guide.kind == KSPACE and target.n_coils != guide.n_coils:
        return f"{pair}: it has {guide.n_coils} coils, the target {target.n_coils}; pair exams of one scan session"
    ours, theirs = (f"{exam.shape[0]}x{exam.shape[1]}x{exam.n_slices}" for exam in (target, guide))
    has_affines = target.has_geometry and guide.has_geometry and target.kind == guide.kind
    codes = [_codes(exam.affine) for exam in (target, guide)] if has_affines else ["", ""]
    if codes[0] != codes[1]:
        remedy = "pass align='grid' or reorient one of them" if can_align else "reorient one of them"
        return f"{pair}: its axes run {codes[1]}, the target's {codes[0]}; {remedy}"
    advice = "pass align='grid' or 'rigid', or " if has_affines and can_align else ""
    remedy = f"{advice}resample one of them"
    if ours != theirs:
        return f"{pair}: it has {theirs} voxels, the target {ours}; {remedy}"
    if has_affines and (distance := _largest_distance(target, guide)) > TOLERANCE:
        return f"{pair}: its voxels lie up to {distance:.2g} voxels beside the target's; {remedy}"
    return None


def _codes(affine: np.ndarray) -> str:
    import nibabel

    return "".join(code or "?" for code in nibabel.aff2axcodes(affine))


def _largest_distance(target: Acquisition, guide: Acquisition) -> float:
    """Largest distance between corners of two grids of one size, in voxels of the target."""
    sizes = (*target.shape, target.n_slices)
    corners = np.array([[*corner, 1] for corner in itertools.product(*((0, n - 1) for n in sizes))], dtype=np.float64)
    apart = ((guide.affine - target.affine) @ corners.T)[:3]
    spacing = np.linalg.norm(target.affine[:3, :3], axis=0).min()
    return float(np.linalg.norm(apart, axis=0).max() / spacing)
