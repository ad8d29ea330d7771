"""HMDS: a restoration network learns from another architecture, or from itself under less noise, at several taps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from medkit.distill.adapters import build_adapter, resized
from medkit.distill.contract import DistillationTerm, Hints, check_same_shape
from medkit.distill.features import AttentionTransfer, mask_on
from medkit.distill.voxels import or_one

KDL = ("l1", "l2", "attention")


class HMDS(DistillationTerm):
    r"""Heterogeneous distillation of restoration networks: features in units of the teacher's spread, over taps.

    .. math:: L = \frac1K \sum_k \frac{\sum M |A_k(F^s_k) - F^t_k|^q}{C_k \sum M \,(\mathrm{std}(F^t_k) + 10^{-6})^q}

    with :math:`q` 1 or 2, or the attention maps' distance (:class:`AttentionTransfer`). :math:`A_k` is the identity
    where channels agree, else a convolution of one voxel; a student's map of another grid is resized. For a teacher of
    another architecture give both networks the same noisy tensor; for one that sees less noise give the teacher the
    same noise field, scaled, and two terms with two teachers for both at once.

    Source: Li et al., NTIRE workshop at CVPR 2022, arXiv 2204.13873.

    Differs: norm and weight could not be read of the paper. Dividing by the teacher's spread makes the weight, of about
        0.1, the same for all noise levels and units.

    Checked: by the laws in ``tests/distill/test_hmds.py``; there is no official code.

    Args:
        kdl: ``"l1"``, ``"l2"`` or ``"attention"``.

    Attributes:
        adapters: one for each tap; ``None`` before :meth:`build`.

    Raises:
        ValueError: if ``kdl`` is unknown.

    Example:
        >>> term = HMDS()
        >>> term.build([(1, 4, 8, 8)] * 3, [(1, 8, 8, 8)] * 3)
        >>> term([torch.rand(2, 4, 8, 8)] * 3, [torch.rand(2, 8, 8, 8)] * 3).shape
        torch.Size([])
    """

    needs: ClassVar[str] = "levels"

    def __init__(self, kdl: str = "l1") -> None:
        super().__init__()
        if kdl not in KDL:
            raise ValueError(f"HMDS: 'kdl' must be one of {KDL}, got {kdl!r}")
        self.kdl = kdl
        self.adapters: nn.ModuleList | None = None
        self._attention = AttentionTransfer() if kdl == "attention" else None

    def build(self, student_shapes: Sequence[Sequence[int]], teacher_shapes: Sequence[Sequence[int]]) -> None:
        """Make an adapter for each tap from the shapes.

        Raises:
            ValueError: if student and teacher have other numbers of taps, or a tap is no image or volume.
        """
        if len(student_shapes) != len(teacher_shapes):
            raise ValueError(
                f"HMDS: student and teacher must have as many taps, got {len(student_shapes)} and {len(teacher_shapes)}"
            )
        pairs = list(zip(student_shapes, teacher_shapes, strict=True))
        if wrong := [(tuple(a), tuple(b)) for a, b in pairs if len(a) != len(b) or len(a) not in (4, 5)]:
            raise ValueError(f"HMDS: taps must be maps (B, C, H, W[, D]) of as many axes, got {wrong}")
        self.adapters = nn.ModuleList(
            # Attention has no channels.
            nn.Identity()
            if self._attention is not None or own[1] == other[1]
            else build_adapter("conv1", own, other, norm=None, use_activation=False)
            for own, other in pairs
        )

    def compute(self, student: list[Tensor], teacher: list[Tensor], hints: Hints) -> Tensor:
        """Compare the taps; the mean over them."""
        if self.adapters is None:
            raise ValueError("HMDS: call build with the shapes of probe_taps first")
        if not len(student) == len(teacher) == len(self.adapters):
            raise ValueError(f"HMDS: wanted {len(self.adapters)} taps, got {len(student)} and {len(teacher)}")
        loss = teacher[0].new_zeros(())
        for adapter, own, other in zip(self.adapters, student, teacher, strict=True):
            if self._attention is not None:
                loss = loss + self._attention.compute(own, other, hints)
                continue
            own = adapter(resized(own, other.shape[2:]))
            check_same_shape("HMDS", own, other)
            difference = (own - other).abs() / (other.std(correction=0) + 1e-6)
            if self.kdl == "l2":
                difference = difference.square()
            mask = mask_on(hints.mask, other)
            loss = loss + (difference * mask).sum() / (other.shape[1] * or_one(mask.sum()))
        return loss / len(student)
