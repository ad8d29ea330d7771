"""Where the slices of an ISMRMRD file lie in the patient, told from the headers of its readouts."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

logger = logging.getLogger(__name__)

LPS_TO_RAS = np.array([-1.0, -1.0, 1.0])
DIRECTIONS = ("read_dir", "phase_dir", "slice_dir")
SKEW = 1e-3  # how far directions may be from orthonormal
UNEVEN = 0.05  # how far a slice may be from its place in an even stack, as a part of the spacing


def slice_order(head: np.ndarray) -> np.ndarray:
    """Return the order of slices along the first one's normal; as given where positions do not tell.

    Args:
        head: header of one readout of each slice.

    Returns:
        Indices into ``head``.
    """
    along = head["position"].astype(np.float64) @ head["slice_dir"][0].astype(np.float64)
    if not np.isfinite(along).all() or len(np.unique(along.round(3))) < len(along):
        return np.arange(len(head))
    return np.argsort(along, kind="stable")


def stack_affine(
    path: Path, head: np.ndarray, matrix: tuple[int, int, int], fov_mm: tuple[float, float, float]
) -> np.ndarray | None:
    """Make the affine of a stack of slices, or of one slab of partitions.

    ``position`` is where the middle of k-space's image lies: at index ``n // 2`` of rows, columns and partitions.

    Args:
        path: the file, for the log.
        head: header of one readout of each slice, in order; of a slab one.
        matrix: encoded samples (x, y, z): rows, columns, partitions.
        fov_mm: encoded field of view (x, y, z).

    Returns:
        ``(4, 4)`` float64, voxel ``(row, column, slice)`` to RAS mm; ``None`` where the headers tell no geometry, or
        their slices are no even stack (logged).
    """
    axes = np.stack([head[name].astype(np.float64) for name in DIRECTIONS], -1)  # (slice, xyz, read phase slice)
    centres = head["position"].astype(np.float64)
    if not np.isfinite(axes).all() or not np.isfinite(centres).all():
        return None
    if np.abs(axes[0].T @ axes[0] - np.eye(3)).max() > SKEW:
        return None
    if np.abs(axes - axes[0]).max() > SKEW:
        logger.warning("The slices of %s lie in several directions: its orientation is left out", path)
        return None
    spacing = np.array([fov / n for fov, n in zip(fov_mm, matrix, strict=True)])
    step = axes[0][:, 2] * spacing[2]
    if len(head) > 1:
        step = (centres[-1] - centres[0]) / (len(head) - 1)
        even = centres[0] + np.arange(len(head))[:, None] * step
        length, along = np.linalg.norm(step), abs(step @ axes[0][:, 2])
        off = np.linalg.norm(centres - even, axis=1).max()
        if length == 0 or off > UNEVEN * length or along < (1 - UNEVEN) * length:
            logger.warning("The slices of %s are no even stack: its orientation is left out", path)
            return None
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1], affine[:3, 2] = axes[0][:, 0] * spacing[0], axes[0][:, 1] * spacing[1], step
    middle = np.array([matrix[0] // 2, matrix[1] // 2, matrix[2] // 2 if len(head) == 1 else 0])
    affine[:3, 3] = centres[0] - affine[:3, :3] @ middle
    affine[:3] *= LPS_TO_RAS[:, None]
    affine += 0.0  # no negative zeros
    return affine
