"""Volumes of subjects from NIfTI files: checked, with their place in space, where their foreground is, and scaled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from nibabel.filebasedimages import ImageFileError
from torch import Tensor

from medkit.atlas.frame import Frame

FOREGROUND_SHARE = 0.02  # of the brightest voxels
NOISE_LEVELS = 6.0  # standard deviations of the background
PERCENTILES = (0.5, 99.5)
# A border of which so much is background shows that the whole object lies within the image.
EMPTY_SHARE = 0.99


def load_volume(path: str | Path) -> tuple[Tensor, Frame]:
    """Read a volume.

    Args:
        path: NIfTI file, three axes; further ones of one voxel are taken off.

    Returns:
        float32, ``(1, 1, X, Y, Z)``, and its grid.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no NIfTI file, is damaged, is no volume, has no orientation, or holds something that is not
            finite, or nothing at all.

    Example:
        >>> image, frame = load_volume("subject.nii.gz")
    """
    file = Path(path)
    if not file.is_file():
        raise FileNotFoundError(f"load_volume: there is no file {file}")
    if not file.stat().st_size:
        raise ValueError(f"load_volume: {file} must be a NIfTI file, it has no content (0 bytes)")
    try:
        stored = nib.load(file)
        shape = tuple(stored.shape)
        while len(shape) > 3 and shape[-1] == 1:
            shape = shape[:-1]
        if len(shape) != 3 or min(shape) < 2:
            more = "; take one volume out of it" if len(shape) > 3 else ""
            raise ValueError(
                f"load_volume: {file} must be one volume of three axes, it has the shape {stored.shape}{more}"
            )
        values = np.asarray(stored.dataobj).reshape(shape)
    except (ImageFileError, OSError, EOFError) as error:
        raise ValueError(f"load_volume: {file} must be a readable NIfTI file (.nii, .nii.gz): {error}") from error
    if values.dtype.kind not in "biuf":
        raise ValueError(f"load_volume: {file} must hold real numbers, it holds {values.dtype}")
    array = np.ascontiguousarray(values, dtype=np.float32)
    if not np.isfinite(array).all():
        n_bad = int(np.sum(~np.isfinite(array)))
        raise ValueError(
            f"load_volume: {file} must hold finite numbers, {n_bad} of its voxels are NaN or infinite; replace them, "
            "by 0 where there is nothing"
        )
    if not array.any():
        raise ValueError(f"load_volume: {file} is empty: all voxels are 0")
    return torch.from_numpy(array)[None, None], Frame(shape, np.asarray(stored.affine, dtype=np.float64))


@dataclass(frozen=True)
class Appearance:
    """What a volume looks like, for what must be known of all subjects before any is used.

    Args:
        low: intensity that becomes 0.
        high: intensity that becomes 1.
        lowest: lowest corner of the foreground, RAS mm.
        highest: highest corner of the foreground, RAS mm.
        is_whole: whether the object ends within the image, so that there is background beyond it.
    """

    low: float
    high: float
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    is_whole: bool


def appearance(image: Tensor, frame: Frame, weight: Tensor | None = None) -> Appearance:
    """Measure intensities and foreground of a volume.

    Intensities from the 0.5th percentile of the image to the 99.5th of the foreground become 0 to 1; of a
    skull-stripped image 0 so stays 0. The foreground is what is brighter than a fiftieth of the
    brightest voxels, and than the noise of the background.

    Args:
        image: real, ``(1, 1, X, Y, Z)``.
        frame: its grid.
        weight: ``(1, 1, X, Y, Z)``, how much each voxel counts; what does not is not looked at. ``None``: 1.

    Returns:
        What was measured.

    Raises:
        ValueError: if the foreground is empty.

    Example:
        >>> appearance(torch.ones(1, 1, 4, 4, 4), Frame((4, 4, 4), np.eye(4))).is_whole
        False
    """
    array = image[0, 0].numpy()
    if weight is not None:
        counted = weight[0, 0].numpy() > 0
        if not counted.any():
            raise ValueError("appearance: the weight must be above 0 somewhere in the image")
        array = np.where(counted, array, array[counted].min())
    low = float(np.percentile(array, PERCENTILES[0]))
    brightest = float(np.percentile(array[array > low], 99.9)) if (array > low).any() else low
    # Whole heads touch the border, noise fills it: most of it is background all the same.
    border = np.concatenate([np.take(array, (0, -1), axis=k).ravel() for k in range(3)])
    level = float(np.median(border))
    noise = NOISE_LEVELS * 1.4826 * float(np.median(np.abs(border - level)))
    floor = level + noise if level + noise < 0.5 * (low + brightest) else low
    seen = array > max(low + FOREGROUND_SHARE * (brightest - low), floor)
    if not seen.any():
        raise ValueError("appearance: the image has no foreground, it is the same everywhere")
    high = float(np.percentile(array[seen], PERCENTILES[1]))
    if not high > low:
        raise ValueError(f"appearance: the foreground must differ from the background, both are {low:g}")
    corners = []
    for axis in range(3):
        along = np.flatnonzero(seen.any(axis=tuple(k for k in range(3) if k != axis)))
        corners.append((along[0], along[-1]))
    indices = np.stack([c.ravel() for c in np.meshgrid(*corners, indexing="ij")])
    points = frame.affine[:3, :3] @ indices + frame.affine[:3, 3:]
    faces = [np.take(seen, (0, -1), axis=k) for k in range(3)]
    empty = 1 - sum(int(f.sum()) for f in faces) / sum(f.size for f in faces)
    return Appearance(
        low,
        high,
        tuple(float(x) for x in points.min(1)),
        tuple(float(x) for x in points.max(1)),
        empty >= EMPTY_SHARE,
    )


def scaled(image: Tensor, low: float, high: float) -> Tensor:
    """Bring intensities from ``low`` to ``high`` to 0 to 1, and cut what is beyond."""
    return ((image - low) / (high - low)).clamp(0, 1)
