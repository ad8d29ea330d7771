"""SoKD: a feature term that compares with a refined teacher, inside the areas that matter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medkit.distill.areas import DistinctiveArea
from medkit.distill.contract import DistillationTerm, Hints, widened
from medkit.distill.features import AdaptedTerm, FitNet, mask_on
from medkit.distill.refiner import FeatureRefiner

# Those that leave voxels and channels in their places, as dense tasks need it.
IN_PLACE = ("channel_drop", "cutout", "noise")


class SoKD(DistillationTerm):
    r"""Student-oriented refinement: any term on features, with the teacher's features refined and masked.

    .. math:: L = \beta \, L_{base}(F_s, F_t', M) + \lambda L_D + \lambda_s L_s, \qquad F_t' = s(F_t)

    with the refiner's augmentation :math:`s`, the mask :math:`M`, the consistency :math:`L_D` and the saliency loss
    :math:`L_s` of :class:`DistinctiveArea`. The refiner is a policy with an objective of its own,
    :meth:`policy_loss`: it brings the teacher near to what the student shows now. Its parameters are not among
    :meth:`parameters`, so that a student's optimizer never gets them, but its state is part of the state dict. Step it
    on other batches than the student's, for some epochs, then :meth:`freeze` it.

    The student's first areas are noise, so let the whole term warm up:
    ``WeightedTerm(SoKD(), LinearWarmup(1.0, 5), ...)``.

    Source: Shen et al. 2024, arXiv 2409.18785.

    Differs:
        - The base term divides by what is inside the mask: its weight does not depend on the size of the boxes.
        - The policy learns by first-order alternation, or through a virtual step of the student
          (:class:`SoKDPolicyHandler`).
        - :math:`L_{aug}` is the mean, not the sum, over elements, and a bonus on the policy's entropy keeps the search
          open: a student that shows nothing yet would choose whatever destroys most.
        - A base without an adapter gets one beside it (``hint``), learned by regression that the student does not feel.
        - Of several levels, the deepest map proposes the areas and steers the policy; vectors are not refined.

    Checked: by the laws in ``tests/distill/test_sokd.py``; there is no official code.

    Args:
        base: term on one feature, or on levels, such as :class:`FitNet`, :class:`AttentionTransfer`, :class:`CRD` or
            :class:`ReviewKD`; ``None``: ``FitNet()``.
        refiner: the policy; ``None``: one of cut-outs, noise and dropped channels, which suits dense tasks too.
        n_areas: boxes of each sample; 0: no detector, the base counts everywhere.
        area_weight: :math:`\beta`. 100 belongs to FitNet; for another base take the weight that it has alone.
        consistency_weight: :math:`\lambda`.
        saliency_weight: :math:`\lambda_s`; 0: the detector is not supervised, as published.
        entropy_weight: of the entropy (nats) in the policy's objective.
        hint: for a base without an adapter, a FitNet whose adapter shows the student to detector and policy; ``None``:
            ``FitNet()``.

    Attributes:
        refiner: the policy, kept on the CPU in float32.
        areas: the detector; ``None`` before :meth:`build` and for ``n_areas=0``.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> term = SoKD(FitNet())
        >>> term.build([(1, 4, 8, 8)], [(1, 8, 8, 8)])
        >>> policy = torch.optim.Adam(term.policy_parameters(), 3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        >>> term.policy_loss(torch.rand(2, 4, 8, 8), torch.rand(2, 8, 8, 8)).backward()
        >>> policy.step()
        >>> term(torch.rand(2, 4, 8, 8), torch.rand(2, 8, 8, 8)).shape
        torch.Size([])
    """

    needs: ClassVar[str] = "levels"

    def __init__(
        self,
        base: DistillationTerm | None = None,
        refiner: FeatureRefiner | None = None,
        n_areas: int = 8,
        area_weight: float = 100.0,
        consistency_weight: float = 1.0,
        saliency_weight: float = 0.1,
        entropy_weight: float = 1e-3,
        hint: FitNet | None = None,
    ) -> None:
        super().__init__()
        base = FitNet() if base is None else base
        if base.needs not in ("feature", "levels"):
            raise ValueError(f"SoKD: 'base' must need a feature or levels, {type(base).__name__} needs {base.needs}")
        if hint is not None and isinstance(base, AdaptedTerm):
            raise ValueError(f"SoKD: {type(base).__name__} has an adapter; leave 'hint' out")
        weights = (area_weight, consistency_weight, saliency_weight, entropy_weight)
        if n_areas < 0 or not all(w >= 0 for w in weights):
            raise ValueError(f"SoKD: 'n_areas' and all weights must be at least 0, got {n_areas} and {weights}")
        self.base = base
        self.hint = None if isinstance(base, AdaptedTerm) else hint or FitNet()
        # In a tuple, so that it is no submodule: parameters() and to() pass it by.
        self._policy = (FeatureRefiner(IN_PLACE) if refiner is None else refiner,)
        self.n_areas, self.area_weight, self.entropy_weight = n_areas, float(area_weight), float(entropy_weight)
        self.consistency_weight, self.saliency_weight = float(consistency_weight), float(saliency_weight)
        self.areas: DistinctiveArea | None = None
        self._level: int | None = None
        self._numbers = (0, 0)
        self._passes_to_policy = False

    @property
    def refiner(self) -> FeatureRefiner:
        """The policy."""
        return self._policy[0]

    def policy_parameters(self) -> list[nn.Parameter]:
        """Parameters of the policy, for an optimizer of their own."""
        return list(self.refiner.parameters())

    def freeze(self) -> None:
        """End the search: from now on the policy is applied, and gets no gradient."""
        self.refiner.freeze()

    def build(self, student_shapes: Sequence[Sequence[int]], teacher_shapes: Sequence[Sequence[int]]) -> None:
        """Make the layers of the base, the adapter and the detector; the deepest pair of maps is theirs.

        Raises:
            ValueError: if there is no pair of maps, or the base wants one pair and there are several.
        """
        if self.base.needs == "feature" and not len(student_shapes) == len(teacher_shapes) == 1:
            raise ValueError(
                f"SoKD: {type(self.base).__name__} compares one pair of features, "
                f"got {len(student_shapes)} and {len(teacher_shapes)}"
            )
        pairs = list(enumerate(zip(student_shapes, teacher_shapes, strict=False)))
        maps = [i for i, (own, other) in pairs if len(own) == len(other) and len(other) in (4, 5)]
        if not maps:
            raise ValueError(
                "SoKD: wanted at least one pair of maps (B, C, H, W[, D]), "
                f"got {[tuple(s) for s in student_shapes]} and {[tuple(s) for s in teacher_shapes]}"
            )
        self._level, self._numbers = maps[-1], (len(student_shapes), len(teacher_shapes))
        own, other = student_shapes[self._level], teacher_shapes[self._level]
        self.base.build(student_shapes, teacher_shapes)
        if self.hint is not None:
            self.hint.build([own], [other])
        if self.n_areas:
            supervision = "teacher_saliency" if self.saliency_weight else "none"
            self.areas = DistinctiveArea(len(other) - 2, other[1], self.n_areas, supervision)

    @contextmanager
    def policy_gradients(self) -> Iterator[None]:
        """A ``with`` block in which the term itself passes a gradient to the policy: for a virtual step."""
        self._passes_to_policy = True
        try:
            yield
        finally:
            self._passes_to_policy = False

    def policy_loss(self, student: Any, teacher: Any, use_student_gradient: bool = False) -> Tensor:
        r"""The policy's objective, :math:`L_{aug} = \frac12 \mathrm{mean} |s(F_t) - \Phi(F_s)|^2 - w_h H`.

        Args:
            student: feature, or list of levels; passes no gradient, nor does its adapter.
            teacher: the same of the teacher.
            use_student_gradient: pass a gradient to the student, too: one that is the result of a virtual step.

        Returns:
            Scalar; its gradient reaches the policy alone.

        Raises:
            ValueError: if the policy is frozen, or :meth:`build` was not called.
        """
        if self.refiner.is_frozen:
            raise ValueError("SoKD.policy_loss: the policy is frozen, its search is over; do not step it any more")
        levels, others = self._wanted(student, "student"), self._wanted(teacher, "teacher")
        level = self._built(levels, others)
        own, other = levels[level], others[level]
        with torch.autocast(own.device.type, enabled=False):
            with torch.set_grad_enabled(use_student_gradient):
                adapted = self._adapting.adapt(widened(own))
            refined = self.refiner(widened(other))
            loss = (refined - adapted).square().mean() / 2
            return loss - self.entropy_weight * self.refiner.entropy.to(loss)

    def compute(self, student: list[Tensor], teacher: list[Tensor], hints: Hints) -> Tensor:
        """Compare levels, finest first; a base on one feature gets lists of one."""
        level, mask = self._built(student, teacher), hints.mask
        refined = self._refined(teacher)
        adapted = self._adapting.adapt(student[level]) if self.hint is None or self.areas is not None else None
        loss = refined[level].new_zeros(())
        if self.areas is not None and adapted is not None:
            proposal = self.areas(adapted, refined[level])
            mask = proposal.mask * mask_on(hints.mask, proposal.mask)
            loss = loss + self.consistency_weight * proposal.consistency + self.saliency_weight * proposal.saliency
        if self.hint is not None:
            alone = self.hint.adapt(student[level].detach())
            loss = loss + self.hint.compare(alone, refined[level], hints)
        if isinstance(self.base, AdaptedTerm) and adapted is not None:
            base = self.base.compare(adapted, refined[level], Hints(hints.target, mask, hints.index))
        else:
            is_single = self.base.needs == "feature"
            pair = (student[0], refined[0]) if is_single else (student, refined)
            base = self.base(*pair, hints.target, mask, hints.index)
        return loss + self.area_weight * base

    def _refined(self, teacher: list[Tensor]) -> list[Tensor]:
        """The teacher's levels through one sub-policy; vectors stay."""
        maps = [i for i, level in enumerate(teacher) if level.ndim > 2]
        with torch.set_grad_enabled(self._passes_to_policy and torch.is_grad_enabled()):
            refined = dict(zip(maps, self.refiner([teacher[i] for i in maps]), strict=True))
        return [refined.get(i, level) for i, level in enumerate(teacher)]

    @property
    def _adapting(self) -> AdaptedTerm:
        """The term whose adapter shows the student."""
        return self.base if isinstance(self.base, AdaptedTerm) else self.hint  # type: ignore[return-value]

    def _built(self, student: list[Tensor], teacher: list[Tensor]) -> int:
        """Which level proposes areas and steers the policy."""
        if self._level is None:
            raise ValueError("SoKD: call build with the shapes of probe_taps first")
        if (len(student), len(teacher)) != self._numbers:
            raise ValueError(
                f"SoKD: wanted the numbers of levels {self._numbers} that it was built for, "
                f"got {(len(student), len(teacher))}"
            )
        return self._level

    def get_extra_state(self) -> dict[str, Any]:
        """The policy, its generator, and whether it is frozen."""
        return {"refiner": dict(self.refiner.state_dict())}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue with a saved policy."""
        self.refiner.load_state_dict(state["refiner"])
