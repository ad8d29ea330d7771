"""Terms on the relations between the samples of a batch: similarities, distances, angles."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize, smooth_l1_loss

from medkit.distill.contract import DistillationTerm, Hints
from medkit.distill.features import mask_on
from medkit.distill.voxels import or_one


def pooled(feature: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean over space inside a mask.

    Args:
        feature: ``(B, C, *S)``, or ``(B, C)``, which is returned.
        mask: ``(B, 1, *S)``; ``None``: everywhere.

    Returns:
        ``(B, C)``; 0 for a sample whose mask is empty.
    """
    if feature.ndim == 2:
        return feature
    mask = mask_on(mask, feature)
    return (feature * mask).flatten(2).sum(2) / or_one(mask.flatten(1).sum(1, keepdim=True))


class SimilarityPreserving(DistillationTerm):
    r"""Samples that are alike for the teacher shall be alike for the student.

    .. math:: L = |\tilde G_s - \tilde G_t|_F^2 / B^2

    with the Gram matrix :math:`G` ``(B, B)`` of the flattened features, and its rows normalised, :math:`\tilde G`.

    Source: Tung and Mori, ICCV 2019, arXiv 1907.09682. Channels and grids need not agree. One sample gives 0.
    """

    needs: ClassVar[str] = "feature"

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare maps of any shapes."""
        own, other = (self._similarity(x, hints.mask) for x in (student, teacher))
        return (own - other).square().mean()

    @staticmethod
    def _similarity(feature: Tensor, mask: Tensor | None) -> Tensor:
        rows = feature if mask is None else feature * mask_on(mask, feature)
        rows = rows.flatten(1)
        # The scale falls out of the rows; taken out first, large features cannot overflow.
        rows = rows / rows.detach().abs().amax().clamp(min=1e-12)
        return normalize(rows @ rows.T, dim=1, eps=1e-12)


class RelationalKD(DistillationTerm):
    r"""Distances of pairs and angles of triplets of samples, as the teacher sees them.

    .. math:: L = w_d \, \mathrm{mean} \, h(d_s / \bar d_s, d_t / \bar d_t) + w_a \, \mathrm{mean} \, h(\cos_s, \cos_t)

    with the smooth L1 function :math:`h`, Euclidean distances :math:`d` divided by their mean, and the cosine of the
    angle at the second of three samples.

    Source: Park et al., CVPR 2019, arXiv 1904.05068.

    Differs: feature maps are averaged over space (inside the mask) first.

    Args:
        distance_weight: :math:`w_d`; the paper 25.
        angle_weight: :math:`w_a`; the paper 50.

    Raises:
        ValueError: if a weight is negative.
    """

    needs: ClassVar[str] = "feature"

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        if distance_weight < 0 or angle_weight < 0:
            raise ValueError(f"RelationalKD: weights must be at least 0, got {distance_weight} and {angle_weight}")
        self.distance_weight, self.angle_weight = float(distance_weight), float(angle_weight)

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare maps of any shapes, or vectors."""
        own, other = pooled(student, hints.mask), pooled(teacher, hints.mask)
        loss = own.sum() * 0
        if self.distance_weight:
            loss = loss + self.distance_weight * smooth_l1_loss(_distances(own), _distances(other))
        if self.angle_weight:
            loss = loss + self.angle_weight * smooth_l1_loss(_cosines(own), _cosines(other))
        return loss


def _distances(rows: Tensor) -> Tensor:
    """Distances over their mean, (B, B)."""
    squared = (rows[:, None] - rows[None]).square().sum(2)
    is_apart = squared > 0
    # The root of 0 has no gradient: equal samples are left out of it.
    distance = torch.where(is_apart, squared, torch.ones_like(squared)).sqrt() * is_apart
    return distance / (distance.sum() / is_apart.sum().clamp(min=1)).clamp(min=1e-12)


def _cosines(rows: Tensor) -> Tensor:
    """Cosine at sample i between the directions to j and to k, (B, B, B)."""
    directions = normalize(rows[None] - rows[:, None], dim=2, eps=1e-12)
    return directions @ directions.transpose(1, 2)
