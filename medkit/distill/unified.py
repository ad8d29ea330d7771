"""UniKD: the levels of a network fused and predicted as one distribution, compared like the logits are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medkit.distill.contract import DistillationTerm, Hints
from medkit.distill.distribution import DistributionHead, gaussian_divergence, pooled_regions
from medkit.distill.features import mask_on
from medkit.distill.fusion import AdaptiveFeatureFusion
from medkit.distill.logits import DKD, BernoulliKD, LogitKD, sigmoid_divergence, softmax_divergence
from medkit.distill.voxels import weighted_mean

MODES = ("gaussian", "sampled")
POOLS = ("global", "region")


class _Branch(nn.Module):
    """Fusion, head and readout of one network."""

    def __init__(self, shapes: Sequence[Sequence[int]], dim: int, n_classes: int, use_fusion: bool) -> None:
        super().__init__()
        channels = [shape[1] for shape in shapes]
        self.fusion = AdaptiveFeatureFusion(len(shapes[0]) - 2, channels) if use_fusion else None
        self.head = DistributionHead(channels[0], dim)
        # The anchor compares with logits: another dimension is first read as classes.
        self.readout = nn.Identity() if dim == n_classes else nn.Linear(dim, n_classes)

    def fused(self, levels: list[Tensor]) -> Tensor:
        return levels[0] if self.fusion is None else self.fusion(levels)


class UnifiedDistributionKD(DistillationTerm):
    r"""Unified distillation: features and logits under the same kind of constraint, a divergence of distributions.

    .. math:: L = w_l L_{logits} + w_f \, KL(N_t \| N_s) + w_a (A_s + A_t), \qquad
        A = KL(\mathrm{softmax}(z) \| \mathrm{softmax}(R \mu))

    The levels are fused into the finest (:class:`AdaptiveFeatureFusion`) and pooled, a head predicts a Gaussian
    :math:`N(\mu, \sigma^2)`, for the student and for the teacher. The anchor :math:`A` ties each prediction to the
    network's own logits :math:`z`, which pass no gradient there: without it both heads could agree on a constant.
    Fusion and heads of the teacher learn too, so give ``parameters()`` to the optimizer; nothing of it is part of the
    student.

    Source: Huang et al., ECCV 2024, doi:10.1007/978-3-031-73414-4_4; what could not be read of it is decided here.

    Differs:
        - The teacher's levels are fused like the student's; ``use_teacher_fusion=False`` takes its finest level as is.
        - The divergence is the mean over the dimensions, so that its weight does not depend on their number.
        - For dense tasks, one Gaussian for each class that the teacher sees (``pool="region"``): the mean over a volume
          would be that of the background.
        - :math:`R` is the identity where ``dim`` is the number of classes, else a linear layer.

    Checked: by the laws in ``tests/distill/test_unified.py``; there is no official code.

    Args:
        n_classes: channels of the logits.
        dim: of the Gaussian; ``None``: ``n_classes`` for ``pool="global"``, else 64.
        mode: ``"gaussian"``: the divergence in closed form; ``"sampled"``: a draw of each Gaussian is compared like
            logits, at ``temperature``; outside training mode the means are.
        pool: ``"global"``: one Gaussian of each sample; ``"region"``: one of each class that the teacher sees.
        use_sigmoid: logits are of independent sigmoids; else of a softmax, whose class 0 is the background.
        logit_term: the term on logits; ``None``: :class:`BernoulliKD` for sigmoids, :class:`LogitKD` for regions, else
            :class:`DKD`, which needs the labels.
        logit_weight: :math:`w_l`.
        distribution_weight: :math:`w_f`.
        anchor_weight: :math:`w_a`.
        temperature: of the sampled mode.
        use_teacher_fusion: fuse the teacher's levels.
        seed: of the sampled mode; its generator is part of the state dict.

    Attributes:
        parts: of the last call, detached: ``logits``, ``distribution``, ``anchor``, those that were computed.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> term = UnifiedDistributionKD(n_classes=3)
        >>> term.build([(1, 4, 8, 8), (1, 8, 4, 4)], [(1, 6, 8, 8), (1, 9, 4, 4)])
    """

    needs: ClassVar[str] = "all"

    def __init__(
        self,
        n_classes: int,
        dim: int | None = None,
        mode: str = "gaussian",
        pool: str = "global",
        use_sigmoid: bool = False,
        logit_term: DistillationTerm | None = None,
        logit_weight: float = 1.0,
        distribution_weight: float = 1.0,
        anchor_weight: float = 1.0,
        temperature: float = 4.0,
        use_teacher_fusion: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        name = "UnifiedDistributionKD"
        if mode not in MODES or pool not in POOLS:
            raise ValueError(f"{name}: 'mode' must be of {MODES} and 'pool' of {POOLS}, got {mode!r} and {pool!r}")
        if n_classes < (1 if use_sigmoid else 2) or (dim is not None and dim < 1) or not temperature > 0:
            raise ValueError(
                f"{name}: wanted 'n_classes' of at least 2 (1 with sigmoids), 'dim' of at least 1 and a 'temperature' "
                f"above 0, got {n_classes}, {dim} and {temperature}"
            )
        if min(logit_weight, distribution_weight, anchor_weight) < 0:
            raise ValueError(
                f"{name}: weights must be at least 0, got {logit_weight}, {distribution_weight} and {anchor_weight}"
            )
        self.n_classes = n_classes
        self.dim = dim or (n_classes if pool == "global" else 64)
        self.mode, self.pool, self.use_sigmoid = mode, pool, use_sigmoid
        if logit_term is None:
            dense = LogitKD(temperature=2) if pool == "region" else DKD()
            logit_term = BernoulliKD() if use_sigmoid else dense
        if logit_term.needs != "logits":
            raise ValueError(f"{name}: 'logit_term' must need logits, {type(logit_term).__name__} does not")
        self.logit_term = logit_term
        self.logit_weight = float(logit_weight)
        self.distribution_weight, self.anchor_weight = float(distribution_weight), float(anchor_weight)
        self.temperature = float(temperature)
        self.use_teacher_fusion = use_teacher_fusion
        self.student_branch: _Branch | None = None
        self.teacher_branch: _Branch | None = None
        self._generator = torch.Generator().manual_seed(seed)
        self.parts: dict[str, Tensor] = {}

    def build(self, student_shapes: Sequence[Sequence[int]], teacher_shapes: Sequence[Sequence[int]]) -> None:
        """Make both fusions and heads from the shapes of the levels, finest first."""
        self.student_branch = _Branch(student_shapes, self.dim, self.n_classes, True)
        self.teacher_branch = _Branch(teacher_shapes, self.dim, self.n_classes, self.use_teacher_fusion)

    def get_extra_state(self) -> dict[str, Any]:
        """State of the generator of the sampled mode."""
        return {"generator": self._generator.get_state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue the draws from a saved state."""
        self._generator.set_state(state["generator"].cpu())

    def compute(self, student: list[Tensor], teacher: list[Tensor], hints: Hints) -> Tensor:
        """Compare logits ``(B, C, *S)`` and levels."""
        (own_logits, *own), (other_logits, *other) = student, teacher
        for logits in (own_logits, other_logits):
            if logits.shape[1] != self.n_classes or (self.pool == "region" and logits.ndim < 3):
                raise ValueError(
                    f"UnifiedDistributionKD: logits must have n_classes={self.n_classes} channels, and places where "
                    f"'pool' is 'region', got {tuple(logits.shape)}"
                )
        parts: dict[str, Tensor] = {}
        if self.logit_weight > 0:
            parts["logits"] = self.logit_term.compute(own_logits, other_logits, hints)
        if self.distribution_weight > 0 or self.anchor_weight > 0:
            parts |= self._distributions(own_logits, own, other_logits, other, hints)
        weights = {"logits": self.logit_weight, "distribution": self.distribution_weight, "anchor": self.anchor_weight}
        self.parts = {key: value.detach() for key, value in parts.items()}
        terms = [weights[key] * value for key, value in parts.items() if weights[key] > 0]
        return torch.stack(terms).sum() if terms else own_logits.sum() * 0

    def _distributions(
        self, own_logits: Tensor, own: list[Tensor], other_logits: Tensor, other: list[Tensor], hints: Hints
    ) -> dict[str, Tensor]:
        """Both parts on predicted distributions."""
        if self.student_branch is None or self.teacher_branch is None:
            raise ValueError("UnifiedDistributionKD: call build with the shapes of probe_taps first")
        regions = self._regions(other_logits, hints)
        gaussians, draws, present = [], [], own_logits.new_ones(())
        anchor = own_logits.new_zeros(())
        for branch, logits, levels in (
            (self.student_branch, own_logits, own),
            (self.teacher_branch, other_logits, other),
        ):
            code, is_there = (x.flatten(0, 1) for x in pooled_regions(branch.fused(levels), regions))
            classes, is_seen = (x.flatten(0, 1) for x in pooled_regions(logits.detach(), regions))
            present = present * is_there * is_seen
            gaussians.append(branch.head(code))
            draws.append(self._draw(*gaussians[-1]))
            anchor = anchor + weighted_mean(self._divergence(branch.readout(draws[-1]), classes, 1.0), is_seen)
        if self.mode == "gaussian":
            values = gaussian_divergence(*gaussians[0], *gaussians[1])
        else:
            values = self._divergence(draws[0], draws[1], self.temperature)
        return {"distribution": weighted_mean(values, present), "anchor": anchor}

    def _divergence(self, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Of classes (N, C), or of draws (N, d); (N,)."""
        if self.use_sigmoid:
            return sigmoid_divergence(student, teacher, temperature).mean(1)
        return softmax_divergence(student, teacher, temperature)

    def _draw(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        """A sample in the sampled mode while training, else the mean."""
        if self.mode == "gaussian" or not self.training:
            return mean
        noise = torch.randn(mean.shape, generator=self._generator, dtype=mean.dtype).to(mean.device)
        return mean + (log_variance / 2).exp() * noise

    def _regions(self, logits: Tensor, hints: Hints) -> Tensor:
        """Membership of places in regions by the teacher, (B, K, *S), inside the mask."""
        if self.pool == "global":
            return mask_on(hints.mask, logits)
        if self.use_sigmoid:
            regions = (logits > 0).to(logits)
        else:
            classes = torch.arange(1, logits.shape[1], device=logits.device).view(1, -1, *[1] * (logits.ndim - 2))
            regions = (logits.argmax(1, keepdim=True) == classes).to(logits)
        return regions if hints.mask is None else regions * mask_on(hints.mask, logits)
