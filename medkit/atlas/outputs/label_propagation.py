"""Labels of the template brought to subjects, on the grids of their own images, and compared with their own labels."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medkit.atlas.frame import Frame
from medkit.atlas.outputs.label_atlas import LABELS, STEPS, read_probabilities
from medkit.atlas.outputs.label_maps import dice_scores, load_labels, smallest_type
from medkit.atlas.outputs.saved_transforms import read_forward, read_inverse, subject_path
from medkit.atlas.result import AtlasFolder, Member
from medkit.atlas.volumes import load_volume
from medkit.ops import identity_points, sample
from medkit.workflow import is_shown, write_nifti

logger = logging.getLogger(__name__)

MODES = ("probabilities", "nearest")


def propagate_labels(atlas: AtlasFolder, member: Member, grid: Frame, mode: str = "probabilities") -> np.ndarray:
    """Bring the labels of the template to a subject, through its saved transformations.

    Args:
        atlas: the atlas, its labels written by :func:`write_label_atlas`.
        member: the subject.
        grid: where the labels are wanted, in the subject's space.
        mode: ``"probabilities"``: the most probable label at each voxel; ``"nearest"``: the one of the nearest voxel.

    Returns:
        int64, ``grid.size``.

    Raises:
        ValueError: if there is no such mode, or a file is bad.
        FileNotFoundError: if labels or transformations were not written.

    Example:
        >>> atlas = AtlasFolder("my_atlas")
        >>> labels = propagate_labels(atlas, atlas.members[0], Frame((64, 64, 64), np.eye(4)))
    """
    if mode not in MODES:
        raise ValueError(f"propagate_labels: 'mode' must be one of {', '.join(MODES)}, got {mode!r}")
    points = _template_points(atlas, member, grid)
    if mode == "nearest":
        path = atlas.folder / LABELS
        if not path.is_file():
            raise FileNotFoundError(f"propagate_labels: there is no {path}; write the label atlas")
        labels = torch.from_numpy(np.asarray(nib.load(path).dataobj).astype(np.float64))[None, None]
        return sample(labels, points, "nearest", "zeros")[0, 0].numpy().astype(np.int64)
    flat = points.reshape(3, -1)
    best, winner, total = (torch.zeros(flat.shape[1], dtype=torch.float64) for _ in range(3))
    for value, volume in read_probabilities(atlas):
        box = _box(volume)
        if box is None:
            continue
        low = torch.tensor([s.start for s in box], dtype=torch.float64).reshape(3, 1)
        high = torch.tensor([s.stop - 1 for s in box], dtype=torch.float64).reshape(3, 1)
        near = torch.nonzero(((flat > low - 1) & (flat < high + 1)).all(0))[:, 0]
        crop = torch.from_numpy(volume[box].astype(np.float64) / STEPS)[None, None]
        found = sample(crop, (flat[:, near] - low).reshape(1, 3, -1, 1, 1), padding="zeros").reshape(-1)
        total[near] += found
        better = found > best[near]
        best[near] = torch.where(better, found, best[near])
        winner[near] = torch.where(better, float(value), winner[near])
    # What the labels leave is background.
    return torch.where(best > 1 - total, winner, 0.0).reshape(grid.size).numpy().astype(np.int64)


def _template_points(atlas: AtlasFolder, member: Member, grid: Frame) -> Tensor:
    """Where the voxels of a subject's grid are in the template, float64, ``(1, 3, *grid.size)``, in voxels."""
    placed, _ = read_forward(atlas, member)
    whole = np.linalg.inv(placed.matrix @ atlas.frame.affine) @ grid.affine
    points = identity_points(grid.size, torch.zeros((), dtype=torch.float64))
    aligned = torch.einsum("ij,bjxyz->bixyz", torch.from_numpy(whole[:3, :3]), points)
    aligned = aligned + torch.from_numpy(whole[:3, 3]).reshape(1, 3, 1, 1, 1)
    return aligned + sample(read_inverse(atlas, member).double(), aligned)


def _box(volume: np.ndarray) -> tuple[slice, ...] | None:
    """Box around what is not 0."""
    slices = []
    for axis in range(3):
        seen = np.flatnonzero(volume.any(axis=tuple(k for k in range(3) if k != axis)))
        if not len(seen):
            return None
        slices.append(slice(int(seen[0]), int(seen[-1]) + 1))
    return tuple(slices)


def write_subject_labels(
    atlas: AtlasFolder, members: Sequence[Member] | None = None, mode: str = "probabilities"
) -> dict[str, dict[int, float]]:
    """Write ``subjects/<name>_labels.nii.gz``, the template's labels on each subject's own image, and compare them.

    Of a subject that the labels of the template were made from, the overlap is a measure of how well subjects agree,
    not of how well a new one is labelled: for that, look at subjects that were added.

    Args:
        atlas: the atlas, its labels written by :func:`write_label_atlas`.
        members: of whom; ``None``: of all that it was built of.
        mode: see :func:`propagate_labels`.

    Returns:
        For each subject that has labels, the Dice overlap of each label, 0 to 1, on the grid of its labels.

    Raises:
        ValueError: if a file is bad.
        FileNotFoundError: if a file is gone.
    """
    scores: dict[str, dict[int, float]] = {}
    for member in tqdm(atlas.members if members is None else members, "labels", disable=not is_shown()):
        _, grid = load_volume(next(iter(member.subject.images.values())))
        labels = propagate_labels(atlas, member, grid, mode)
        tensor = torch.from_numpy(labels).to(smallest_type(labels))
        write_nifti(subject_path(atlas, member.name, "labels.nii.gz"), tensor, grid.affine)
        if member.subject.labels is not None:
            own, own_grid = load_labels(member.subject.labels)
            found = labels if own_grid.shares_grid_with(grid) else propagate_labels(atlas, member, own_grid, mode)
            scores[member.name] = dice_scores(found, own)
    return scores
