"""The contract of a distillation term: what it needs of student and teacher, and the scalar that it gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from monai.data import MetaTensor
from torch import Tensor, nn


@dataclass(frozen=True)
class Hints:
    """What else a term may look at.

    Attributes:
        target: labels: classes ``(B,)``, ``(B, *S)``, ``(B, 1, *S)`` or one-hot ``(B, C, *S)``; or ``None``.
        mask: where the term counts, float in [0, 1], ``(B, 1, *S)``; ``None``: everywhere.
        index: number of each sample in the data set, int64, ``(B,)``; or ``None``.
    """

    target: Tensor | None = None
    mask: Tensor | None = None
    index: Tensor | None = None


class DistillationTerm(nn.Module, ABC):
    """One term of a distillation loss: it compares what a student and a teacher say of the same batch.

    A subclass says in ``needs`` what it compares and computes it in :meth:`compute`; all else is done here, once. The
    teacher passes no gradient. Everything is computed in float32 (float64 stays) whatever autocast says, and the result
    is a plain tensor.

    Attributes:
        needs: ``"logits"``: one tensor ``(B, C, *S)``, of deep supervision's list the first; ``"feature"``: one tapped
            tensor; ``"levels"``: a list of tapped tensors, finest first; ``"all"``: a list of the logits and then the
            levels.
    """

    needs: ClassVar[str] = "logits"

    def build(self, student_shapes: Sequence[Sequence[int]], teacher_shapes: Sequence[Sequence[int]]) -> None:
        """Make the layers that depend on the tapped shapes; a term without such layers has nothing to do.

        Args:
            student_shapes: shape of each of the student's taps, from :func:`probe_taps`.
            teacher_shapes: of the teacher's.
        """
        return None

    @abstractmethod
    def compute(self, student: Any, teacher: Any, hints: Hints) -> Tensor:
        """Compare.

        Args:
            student: a float32 tensor, or a list of them where ``needs`` is ``"levels"`` or ``"all"``.
            teacher: the same, without gradient.
            hints: labels, mask and numbers of samples.

        Returns:
            Scalar.
        """

    def forward(
        self,
        student: Any,
        teacher: Any,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Compute the term.

        Args:
            student: logits, a feature or a list of features, as ``needs`` says; any floating dtype.
            teacher: the same of the teacher.
            target: labels, see :class:`Hints`.
            mask: where the term counts, ``(B, 1, *S)``, float or bool.
            index: number of each sample in the data set, ``(B,)``.

        Returns:
            Scalar, float32.

        Raises:
            ValueError: if what came is not what the term needs.
        """
        own, other = self._wanted(student, "student"), self._wanted(teacher, "teacher")
        if own[0].shape[0] != other[0].shape[0]:
            raise ValueError(
                f"{type(self).__name__}: student and teacher must see the same batch, "
                f"got {own[0].shape[0]} and {other[0].shape[0]} samples"
            )
        with torch.autocast(own[0].device.type, enabled=False):
            own = [widened(x) for x in own]
            other = [widened(x).detach() for x in other]
            target, mask, index = (None if x is None else _plain(x).detach() for x in (target, mask, index))
            hints = Hints(target, None if mask is None else mask.to(own[0]), index)
            if self.needs in ("levels", "all"):
                return self.compute(own, other, hints)
            return self.compute(own[0], other[0], hints)

    def _wanted(self, given: Any, name: str) -> list[Tensor]:
        """What was given, as a list of tensors."""
        tensors = list(given) if isinstance(given, (list, tuple)) else [given]
        is_wrong = (self.needs == "feature" and len(tensors) > 1) or (self.needs == "all" and len(tensors) < 2)
        if not tensors or is_wrong or not all(isinstance(x, Tensor) and x.ndim >= 2 for x in tensors):
            got = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in tensors]
            raise ValueError(f"{type(self).__name__}: '{name}' must be {_WANTED[self.needs]}, got {got}")
        return tensors


_WANTED = {
    "logits": "logits (B, C, *S), or a list of them",
    "feature": "one feature map (B, C, *S)",
    "levels": "a list of feature maps (B, C, *S)",
    "all": "a list of logits and then feature maps (B, C, *S)",
}


def _plain(x: Tensor) -> Tensor:
    return x.as_tensor() if isinstance(x, MetaTensor) else x


def widened(x: Tensor) -> Tensor:
    """A plain tensor of float32; float64 stays."""
    x = _plain(x)
    return x if x.dtype == torch.float64 else x.float()


def check_same_shape(name: str, student: Tensor, teacher: Tensor) -> None:
    """Refuse logits or features of different shapes.

    Args:
        name: who asks, for the error.
        student: of the student.
        teacher: of the teacher.

    Raises:
        ValueError: if the shapes differ.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"{name}: student and teacher must have one shape, got {tuple(student.shape)} and {tuple(teacher.shape)}"
        )
