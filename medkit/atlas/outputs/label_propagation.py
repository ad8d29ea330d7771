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
from medkit.atlas.outputs.label_atlas import LABELS
from medkit.atlas.outputs.label_maps import dice_scores, load_labels, smallest_type
from medkit.atlas.outputs.saved_transforms import read_forward, read_inverse, subject_path
from medkit.atlas.outputs.sparse_labels import sparse_labels
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
    return sparse_labels(atlas).most_probable(points.reshape(3, -1).numpy()).reshape(grid.size)


def _template_points(atlas: AtlasFolder, member: Member, grid: Frame) -> Tensor:
    """Where the voxels of a subject's grid are in the template, float64, ``(1, 3, *grid.size)``, in voxels."""
    placed, _ = read_forward(atlas, member)
    whole = np.linalg.inv(placed.matrix @ atlas.frame.affine) @ grid.affine
    points = identity_points(grid.size, torch.zeros((), dtype=torch.float64))
    aligned = torch.einsum("ij,bjxyz->bixyz", torch.from_numpy(whole[:3, :3]), points)
    aligned = aligned + torch.from_numpy(whole[:3, 3]).reshape(1, 3, 1, 1, 1)
    return aligned + sample(read_inverse(atlas, member).double(), aligned)


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
