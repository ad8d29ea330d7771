"""Labels of one subject carried to another through the template: how well transformations bring structures together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from medkit.atlas.frame import Frame
from medkit.atlas.outputs.label_maps import dice_scores, load_labels
from medkit.atlas.outputs.saved_transforms import read_forward, read_inverse
from medkit.atlas.result import AtlasFolder, Member
from medkit.ops import identity_points, sample


def bridge_scores(atlas: AtlasFolder, members: Sequence[Member], n_others: int = 5) -> dict[str, dict[str, float]]:
    """Carry labels of subjects through the template to others, and compare them there with their own.

    Each subject gets the labels of the next ones in the list, from its last to its first again, one at a time: no
    votes of several are mixed in, and the template's labels take no part. A label is read at the nearest voxel, once.

    Args:
        atlas: of the subjects, their transformations written.
        members: the subjects, with labels; at least two.
        n_others: from how many others each gets labels, at least 1.

    Returns:
        For each subject ``atlas`` and ``affine``: Dice, 0 to 1, mean over labels and over the others, by all of the
        transformations and by the affine maps alone.

    Raises:
        ValueError: if there are fewer than two subjects, one has no labels, or a file is bad.
        FileNotFoundError: if a file is gone.

    Example:
        >>> atlas = AtlasFolder("my_atlas")
        >>> bridge_scores(atlas, atlas.members)["1000"]["atlas"]
        0.74
    """
    if len(members) < 2 or n_others < 1 or any(member.subject.labels is None for member in members):
        raise ValueError(
            f"bridge_scores: 'members' must be at least two with labels and 'n_others' at least 1, got {len(members)}, "
            f"without labels {[m.name for m in members if m.subject.labels is None]}, and {n_others}"
        )
    scores: dict[str, dict[str, float]] = {}
    for i, target in enumerate(members):
        own, grid = load_labels(str(target.subject.labels))
        others = [members[(i + k) % len(members)] for k in range(1, min(n_others, len(members) - 1) + 1)]
        found: dict[str, list[float]] = {"atlas": [], "affine": []}
        at = dict(zip(found, _template_points(atlas, target, grid), strict=True))
        for other in others:
            for method, carried in _carried(atlas, other, at):
                each = dice_scores(carried, own)
                found[method].append(sum(each.values()) / len(each) if each else float("nan"))
        scores[target.name] = {method: float(np.mean(values)) for method, values in found.items()}
    return scores


def _template_points(atlas: AtlasFolder, member: Member, grid: Frame) -> tuple[Tensor, Tensor]:
    """Where voxels of a subject are in the template, in its voxels: by all transformations, and by the affine map."""
    placed, _ = read_forward(atlas, member)
    whole = np.linalg.inv(placed.matrix @ atlas.frame.affine) @ grid.affine
    aligned = _mapped(identity_points(grid.size, torch.zeros((), dtype=torch.float64)), whole)
    return aligned + sample(read_inverse(atlas, member).double(), aligned), aligned


def _carried(atlas: AtlasFolder, member: Member, at: dict[str, Tensor]) -> Iterator[tuple[str, np.ndarray]]:
    """Labels of a subject at points of the template."""
    labels, grid = load_labels(str(member.subject.labels))
    placed, forward = read_forward(atlas, member)
    whole = np.linalg.inv(grid.affine) @ placed.matrix @ atlas.frame.affine
    volume = torch.from_numpy(labels.astype(np.float64))[None, None]
    for method, points in at.items():
        moved = points + sample(forward.double(), points) if method == "atlas" else points
        read = sample(volume, _mapped(moved, whole), "nearest", "zeros")
        yield method, read[0, 0].numpy().astype(np.int64)


def _mapped(points: Tensor, matrix: np.ndarray) -> Tensor:
    linear, shift = torch.from_numpy(matrix[:3, :3]), torch.from_numpy(matrix[:3, 3])
    return torch.einsum("ij,bjxyz->bixyz", linear, points) + shift.reshape(1, 3, 1, 1, 1)
