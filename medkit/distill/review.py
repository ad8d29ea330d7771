"""ReviewKD: each of the teacher's levels learned from the student's level and all deeper ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor

from medkit.distill.adapters import resized
from medkit.distill.contract import DistillationTerm, Hints, check_same_shape
from medkit.distill.features import mask_on
from medkit.distill.fusion import LevelFusion
from medkit.distill.voxels import or_one


def hierarchical_context_loss(
    student: Tensor, teacher: Tensor, mask: Tensor | None = None, sizes: Sequence[int] = (4, 2, 1)
) -> Tensor:
    r"""Mean squared differences of two maps on their grid and on coarser ones.

    .. math:: L = \frac{\sum_k 2^{-k} |P_k(F_s) - P_k(F_t)|^2}{\sum_k 2^{-k}}

    with :math:`P_0` the map itself and :math:`P_k` its means over areas, on grids of 4, 2 and 1 (at most the map's size
    along each axis; a grid that is not coarser is left out).

    Args:
        student: ``(B, C, *S)`` or ``(B, C)``.
        teacher: the same shape.
        mask: where it counts, ``(B, 1, *S)``; means are over what is inside, weighted.
        sizes: of the coarser grids.

    Returns:
        Scalar.

    Raises:
        ValueError: if the shapes differ.
    """
    check_same_shape("hierarchical_context_loss", student, teacher)
    mask = mask_on(mask, teacher)
    difference, n_channels = student - teacher, student.shape[1]
    loss = (difference.square() * mask).sum() / (n_channels * or_one(mask.sum()))
    grid = difference.shape[2:]
    if not grid:
        return loss
    weight, total = 1.0, 1.0
    for size in sizes:
        if size >= max(grid):
            continue
        coarse = [min(size, n) for n in grid]
        inside = resized(mask, coarse)
        means = resized(difference * mask, coarse) / or_one(inside)
        weight /= 2
        total += weight
        loss = loss + weight * (means.square() * inside).sum() / (n_channels * or_one(inside.sum()))
    return loss / total


class ReviewKD(DistillationTerm):
    """Knowledge review: the student's levels fused from deep to fine, each compared with the teacher's.

    Source: Chen et al., CVPR 2021, arXiv 2104.09044.

    Differs: grids of student and teacher may differ, the fused student is then resized; 3-D; masks.

    Args:
        mid_channels: of the fused feature; ``None``: those of the student's deepest level, at most 512.

    Attributes:
        fusion: the student's fusion; ``None`` before :meth:`build`.

    Example:
        >>> term = ReviewKD()
        >>> term.build([(1, 4, 8, 8), (1, 8, 4, 4)], [(1, 8, 8, 8), (1, 16, 4, 4)])
    """

    needs: ClassVar[str] = "levels"

    def __init__(self, mid_channels: int | None = None) -> None:
        super().__init__()
        self.mid_channels = mid_channels
        self.fusion: LevelFusion | None = None

    def build(self, student_shapes: Sequence[Sequence[int]], teacher_shapes: Sequence[Sequence[int]]) -> None:
        """Make the fusion from the shapes of the levels, finest first."""
        if len(student_shapes) != len(teacher_shapes):
            raise ValueError(
                f"ReviewKD: student and teacher must have as many levels, "
                f"got {len(student_shapes)} and {len(teacher_shapes)}"
            )
        self.fusion = LevelFusion(
            len(student_shapes[0]) - 2,
            [shape[1] for shape in student_shapes],
            [shape[1] for shape in teacher_shapes],
            self.mid_channels,
        )

    def compute(self, student: list[Tensor], teacher: list[Tensor], hints: Hints) -> Tensor:
        """Compare levels, finest first; the sum over them."""
        if self.fusion is None:
            raise ValueError("ReviewKD: call build with the shapes of probe_taps first")
        loss = teacher[0].new_zeros(())
        for fused, level in zip(self.fusion(student), teacher, strict=True):
            if level.ndim == 2:
                level = level.view(*level.shape, *[1] * (fused.ndim - 2))
            mask = None if hints.mask is None else mask_on(hints.mask, level)
            loss = loss + hierarchical_context_loss(resized(fused, level.shape[2:]), level, mask)
        return loss
