"""Where the slices of a DICOM series lie: their order, their affine, and what is wrong with them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)

_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_STEP_TOLERANCE = 0.05  # share of the distance between slices: positions are often rounded in their tags
_TILT_TOLERANCE = 1e-3  # shift within the plane for each mm between slices, below which it is rounding


def order_and_affine(name: str, headers: dict[Path, Any]) -> tuple[list[Path], np.ndarray]:
    """Return the files by position along the normal of their plane, and the affine of their stack.

    Args:
        name: of the function that asks, for errors.
        headers: of the slices, with all tags of the image plane.

    Returns:
        The files in order, and float64 ``(4, 4)``: indices of column, row and slice to RAS mm.

    Raises:
        ValueError: if sizes, spacings or orientations are mixed, two slices are at one position, or steps between
            slices differ.
    """
    paths = list(headers)
    planes = {path: _plane(name, path, header) for path, header in headers.items()}
    first = planes[paths[0]]
    for path in paths[1:]:
        _check_alike(name, paths[0], headers[paths[0]], first, path, headers[path], planes[path])
    spacing, across, down = first[:2], first[2:5], first[5:8]
    normal = np.cross(across, down)
    paths.sort(key=lambda path: float(planes[path][8:] @ normal))
    positions = np.stack([planes[path][8:] for path in paths])
    step = _step(name, paths, [headers[path] for path in paths], positions, normal, float(spacing.max()))
    affine = np.eye(4)
    # PixelSpacing is the distance of rows first; the column index runs along the first three cosines.
    affine[:3] = np.stack([across * spacing[1], down * spacing[0], step, positions[0]], axis=1)
    return paths, _LPS_TO_RAS @ affine


def _plane(name: str, path: Path, header: Any) -> np.ndarray:
    """Return spacing (2), unit vectors of row and column (6) and position (3) of a slice, LPS mm."""
    parts = []
    for tag, n_wanted in (("PixelSpacing", 2), ("ImageOrientationPatient", 6), ("ImagePositionPatient", 3)):
        try:
            values = np.array(header[tag].value, dtype=np.float64)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{name}: {tag} of {path.name} must be {n_wanted} numbers") from error
        if values.shape != (n_wanted,) or not np.isfinite(values).all():
            raise ValueError(f"{name}: {tag} of {path.name} must be {n_wanted} finite numbers, got {values}")
        parts.append(values)
    spacing, cosines, position = parts
    across, down = cosines[:3], cosines[3:]
    lengths = np.linalg.norm(across), np.linalg.norm(down)
    if spacing.min() <= 0:
        raise ValueError(f"{name}: PixelSpacing of {path.name} must be positive, got {spacing}")
    if np.abs(np.subtract(lengths, 1)).max() > 1e-3 or abs(across @ down) > 1e-3:
        raise ValueError(
            f"{name}: ImageOrientationPatient of {path.name} must be two perpendicular unit vectors, got {cosines}"
        )
    return np.concatenate([spacing, across / lengths[0], down / lengths[1], position])


def _check_alike(
    name: str, path: Path, header: Any, plane: np.ndarray, other: Path, other_header: Any, other_plane: np.ndarray
) -> None:
    mixed = [
        tag
        for tag in ("Rows", "Columns", "PhotometricInterpretation", "Modality", "FrameOfReferenceUID")
        if header.get(tag) != other_header.get(tag)
    ]
    if not np.allclose(plane[:2], other_plane[:2], rtol=1e-4, atol=0):
        mixed.append("PixelSpacing")
    if np.abs(plane[2:8] - other_plane[2:8]).max() > 1e-3:
        mixed.append("ImageOrientationPatient")
    if mixed:
        values = "; ".join(f"{tag} {header.get(tag)} and {other_header.get(tag)}" for tag in mixed)
        raise ValueError(
            f"{name}: the slices of a series must be alike, but {path.name} and {other.name} differ in {values}; move "
            "those that do not belong to the stack to another folder"
        )


def _step(
    name: str, paths: list[Path], headers: list[Any], positions: np.ndarray, normal: np.ndarray, width: float
) -> np.ndarray:
    """Return the vector from one slice to the next, LPS mm, the same all along the series."""
    if len(paths) == 1:
        thickness = headers[0].get("SpacingBetweenSlices") or headers[0].get("SliceThickness")
        if not thickness or float(thickness) <= 0:
            raise ValueError(f"{name}: the only slice, {paths[0].name}, has no tag SliceThickness; complete it")
        return normal * float(thickness)
    steps = np.diff(positions, axis=0)
    distances = steps @ normal
    for i_slice in np.flatnonzero(distances < 1e-3 * width).tolist():
        is_copy = headers[i_slice].SOPInstanceUID == headers[i_slice + 1].SOPInstanceUID
        raise ValueError(
            f"{name}: {paths[i_slice].name} and {paths[i_slice + 1].name} are "
            + ("the same image; remove one" if is_copy else "two images at one position; ")
            + ("" if is_copy else "keep one echo, phase or time point for each folder")
        )
    # The lower median: of two unequal distances, the longer one is the gap.
    step = float(np.sort(distances)[(len(distances) - 1) // 2])
    odd = np.flatnonzero(np.abs(distances - step) > _STEP_TOLERANCE * step)
    if len(odd):
        i_slice, distance = int(odd[0]), float(distances[odd[0]])
        n_missing = round(distance / step) - 1
        is_gap = n_missing > 0 and abs(distance / step - n_missing - 1) <= _STEP_TOLERANCE * (n_missing + 1)
        where = positions[i_slice : i_slice + 2] @ normal
        raise ValueError(
            f"{name}: slices are {step:g} mm apart, but {distance:g} mm between {paths[i_slice].name} and "
            f"{paths[i_slice + 1].name} (at {where[0]:g} and {where[1]:g} mm along the normal)"
            + (f", and so at {len(odd) - 1} other places" if len(odd) > 1 else "")
            + (f": {n_missing} missing there; copy the whole series" if is_gap else "; steps must be equal")
        )
    mean = (positions[-1] - positions[0]) / (len(paths) - 1)
    off_line = np.linalg.norm(steps - mean - np.outer(distances - mean @ normal, normal), axis=1)
    if off_line.max() > _STEP_TOLERANCE * max(step, width):
        i_slice = int(off_line.argmax())
        raise ValueError(
            f"{name}: the slices must lie on one line, but {paths[i_slice + 1].name} is shifted sideways by "
            f"{off_line[i_slice]:g} mm against {paths[i_slice].name}"
        )
    tilt = float(np.linalg.norm(mean - (mean @ normal) * normal) / (mean @ normal))
    if tilt <= _TILT_TOLERANCE:
        return normal * (mean @ normal)
    logger.warning(
        "%s: the slices are sheared by %.1f degrees (a tilted gantry): the affine is, too",
        name,
        np.degrees(np.arctan(tilt)),
    )
    return mean
