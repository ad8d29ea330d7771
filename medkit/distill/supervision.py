"""Deep supervision: a term on logits applied to every output of a student that has several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from medkit.distill.adapters import resized
from medkit.distill.contract import DistillationTerm, Hints


class DeepSupervisionKD(DistillationTerm):
    """A term on logits, at each output of the student: the teacher, labels and mask are brought to its grid.

    Args:
        term: the term on logits.
        weights: of the outputs, finest first; ``None``: halved from one to the next. They are divided by their sum.
        is_stacked: the student's outputs are one tensor ``(B, level, C, *S)``, as of MONAI's DynUNet.

    Raises:
        ValueError: if ``term`` needs no logits, or the weights are not at least 0 with a positive sum.

    Example:
        >>> DeepSupervisionKD(LogitKD())([torch.rand(1, 3, 8, 8), torch.rand(1, 3, 4, 4)], torch.rand(1, 3, 8, 8)).shape
        torch.Size([])
    """

    def __init__(
        self, term: DistillationTerm, weights: Sequence[float] | None = None, is_stacked: bool = False
    ) -> None:
        super().__init__()
        if term.needs != "logits":
            raise ValueError(f"DeepSupervisionKD: 'term' must need logits, {type(term).__name__} needs a {term.needs}")
        if weights is not None and (not weights or min(weights) < 0 or sum(weights) <= 0):
            raise ValueError(f"DeepSupervisionKD: 'weights' must be at least 0 with a positive sum, got {weights}")
        self.term = term
        self.weights = None if weights is None else tuple(float(w) for w in weights)
        self.is_stacked = is_stacked

    def forward(
        self,
        student: Any,
        teacher: Any,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Compute the weighted mean of the term over the outputs.

        Args:
            student: list of logits ``(B, C, *S_i)``, finest first; a single tensor counts as a list of one.
            teacher: logits ``(B, C, *S)``, or a list, of which each output takes the one of its level.
            target: labels on the grid of the finest output.
            mask: ``(B, 1, *S)``.
            index: see :class:`DistillationTerm`.

        Returns:
            Scalar, float32.

        Raises:
            ValueError: if there are other numbers of outputs than of weights.
        """
        if self.is_stacked and isinstance(student, Tensor):
            student = student.unbind(1)
        outputs = self._wanted(student, "student")
        others = self._wanted(teacher, "teacher")
        weights = self.weights or tuple(0.5**i for i in range(len(outputs)))
        if len(weights) != len(outputs):
            raise ValueError(
                f"DeepSupervisionKD: wanted {len(weights)} outputs, as many as weights, got {len(outputs)}"
            )
        loss = torch.zeros((), device=outputs[0].device)
        for i, (weight, output) in enumerate(zip(weights, outputs, strict=True)):
            size = output.shape[2:]
            other = others[i] if len(others) == len(outputs) else others[0]
            level = (
                None if target is None else _labels_on(target, output),
                None if mask is None else resized(mask.float(), size),
            )
            if weight:
                loss = loss + weight * self.term(output, resized(other.float(), size), *level, index)
        return loss / sum(weights)

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """The term itself, of one output."""
        return self.term.compute(student, teacher, hints)


def _labels_on(target: Tensor, logits: Tensor) -> Tensor:
    """Labels on the grid of logits, by the nearest; axes as they came."""
    size = logits.shape[2:]
    has_channel = target.ndim == logits.ndim
    labels = (target if has_channel else target[:, None]).float()
    labels = interpolate(labels, size, mode="nearest").to(target.dtype) if labels.shape[2:] != size else labels
    return (labels if has_channel else labels[:, 0]).to(target.dtype)
