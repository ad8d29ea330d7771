"""Label maps of subjects: read as whole numbers, interpolated as votes of their voxels, and compared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medkit.atlas.frame import Frame
from medkit.atlas.volumes import load_volume


def load_labels(path: str | Path) -> tuple[np.ndarray, Frame]:
    """Read a label map.

    Args:
        path: NIfTI file of whole numbers from 0 on; 0 is background.

    Returns:
        int64, ``(X, Y, Z)``, and its grid.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no volume of labels.
    """
    _, frame = load_volume(path)
    # Read again: float32 holds whole numbers only up to 2^24, and some tables of structures go beyond.
    values = np.asarray(nib.load(path).dataobj).reshape(frame.size)
    labels = np.rint(values).astype(np.int64)
    if (labels != values).any() or labels.min() < 0 or labels.max() >= 2**31:
        raise ValueError(
            f"load_labels: {path} must hold whole numbers from 0 on, it holds {values.min():g} to {values.max():g}"
        )
    return labels, frame


def check_labels(path: str, image: Frame) -> None:
    """Refuse labels of which none lies on the image of their subject; a map of background alone is one.

    Args:
        path: NIfTI file of the labels.
        image: grid of the image.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no volume of labels, or of another space.
    """
    labels, grid = load_labels(path)
    seen = np.argwhere(labels > 0)
    if not len(seen):
        return
    whole = np.linalg.inv(image.affine) @ grid.affine
    indices = seen @ whole[:3, :3].T + whole[:3, 3]
    if not ((indices > -0.5) & (indices < np.array(image.size) - 0.5)).all(1).any():
        raise ValueError(f"check_labels: all labels of {path} lie outside the image; both must be in one space, in mm")


def smallest_type(values: np.ndarray) -> torch.dtype:
    """Return the type of NIfTI files that is enough for labels."""
    top = int(values.max(initial=0))
    return torch.uint8 if top <= 255 else torch.int16 if top < 2**15 else torch.int32


def votes(indices: Tensor, points: Tensor, is_whole: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
    """Interpolate labels linearly without a volume for each: the eight voxels around a point vote with their weights.

    Args:
        indices: whole numbers, ``(X, Y, Z)``, 0 is background.
        points: float64, ``(3, n)``, in voxels.
        is_whole: whether there is background beyond the edge; otherwise voxels there have no vote.

    Yields:
        Eight times the label, int64 ``(n,)``, and the weight, float32 ``(n,)``; weights of a point add up to 1.
    """
    size = torch.tensor(indices.shape).reshape(3, 1)
    flat = indices.reshape(-1)
    low = points.floor()
    part = points - low
    for corner in itertools.product((0, 1), repeat=3):
        side = torch.tensor(corner, dtype=torch.float64).reshape(3, 1)
        place = (low + side).long()
        weight = torch.where(side > 0, part, 1 - part).prod(0)
        inside = ((place >= 0) & (place < size)).all(0)
        x, y, z = torch.minimum(place.clamp(min=0), size - 1)
        label = torch.where(inside, flat[(x * size[1] + y) * size[2] + z].long(), 0)
        yield label, (weight if is_whole else weight * inside).float()


def dice_scores(first: np.ndarray, second: np.ndarray) -> dict[int, float]:
    """Overlap of each label, 2 |A and B| / (|A| + |B|).

    Args:
        first: whole numbers, any shape.
        second: the same shape.

    Returns:
        0 to 1 for each label that is in one of them, background left out.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> dice_scores(np.array([0, 1, 1]), np.array([0, 0, 1]))
        {1: 0.6666666666666666}
    """
    if first.shape != second.shape:
        raise ValueError(f"dice_scores: label maps must be of one shape, got {first.shape} and {second.shape}")
    counts: list[dict[int, int]] = []
    for values in (first, second, first[first == second]):
        labels, numbers = np.unique(values, return_counts=True)
        counts.append(dict(zip(labels.tolist(), numbers.tolist(), strict=True)))
    known = sorted((counts[0].keys() | counts[1].keys()) - {0})
    return {v: 2 * counts[2].get(v, 0) / (counts[0].get(v, 0) + counts[1].get(v, 0)) for v in known}
