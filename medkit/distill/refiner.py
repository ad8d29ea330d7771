"""A learned policy of augmentations that brings a teacher's feature maps nearer to what the student can follow."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, overload

import torch
from torch import Tensor, nn

from medkit.distill.operations import OPERATIONS, apply_operation

RESAMPLE = ("iteration", "epoch")


class FeatureRefiner(nn.Module):
    r"""Differentiable augmentation of a teacher's features, SoKD's DAFA.

    A sub-policy is a set of ``n_together`` operations. One is drawn by Gumbel-softmax from :math:`\alpha`; each of its
    operations is carried out with probability :math:`p` and magnitude :math:`m`. What is drawn is hard, gradients are
    those of the relaxation at ``temperature``; the magnitude's is straight through. With the drawn weight :math:`w_s`
    and decisions :math:`b_k`, all 1 or 0 in the forward pass:

    .. math:: F' = F + w_s (s(F) - F), \qquad s = o_K \circ \dots \circ o_1, \quad
        o_k(F) = F + b_k (\mathrm{op}_k(F, m_k) - F)

    Give ``parameters()`` an optimizer of their own. Nothing passes a gradient to the teacher.

    Source: Shen et al. 2024, arXiv 2409.18785.

    Differs:
        - Gumbel-softmax with one backward pass, as the paper's text says, not a learned control variate.
        - Only the drawn sub-policy is computed; the weights of the others get the gradient of the softmax alone.
        - All pairs of operations are sub-policies, not a random subset of them.
        - In 3-D, a geometric operation works in a random plane.

    Checked: by the laws in ``tests/distill/test_refiner.py``; there is no official code.

    Args:
        operations: names out of ``shear_x shear_y translate_x translate_y rotate cutout noise channel_shuffle
            channel_drop``. For dense tasks take ``cutout noise channel_drop``: the others take voxels or channels out
            of their places.
        n_together: operations of a sub-policy.
        temperature: of both relaxations.
        resample: ``"iteration"``: draw at each call; ``"epoch"``: keep what was drawn until :meth:`draw` is called.
        seed: of all that is drawn; the generator is part of the state dict.

    Attributes:
        sub_policies: operations of each sub-policy, sorted.
        alpha: logits of the sub-policies, ``(S,)``.
        probability: of carrying out, ``(S, K)``; read inside [0, 1].
        magnitude: ``(S, K)``; read inside [0, 1].
        is_frozen: whether the search is over.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> FeatureRefiner(("cutout", "noise"))(torch.rand(2, 4, 8, 8)).shape
        torch.Size([2, 4, 8, 8])
    """

    def __init__(
        self,
        operations: Sequence[str] = tuple(OPERATIONS),
        n_together: int = 2,
        temperature: float = 0.5,
        resample: str = "iteration",
        seed: int = 0,
    ) -> None:
        super().__init__()
        unknown = sorted(set(operations) - set(OPERATIONS))
        if unknown or len(set(operations)) != len(operations):
            raise ValueError(
                f"FeatureRefiner: 'operations' must be different names out of {list(OPERATIONS)}, "
                f"got {list(operations)}"
            )
        if not 1 <= n_together <= len(operations):
            raise ValueError(
                f"FeatureRefiner: 'n_together' must be from 1 to the {len(operations)} operations, got {n_together}"
            )
        if not temperature > 0 or resample not in RESAMPLE:
            raise ValueError(
                f"FeatureRefiner: 'temperature' must be above 0 and 'resample' one of {RESAMPLE}, "
                f"got {temperature} and {resample!r}"
            )
        self.sub_policies = list(combinations(sorted(operations), n_together))
        self.temperature, self.resample = float(temperature), resample
        n = len(self.sub_policies)
        self.alpha = nn.Parameter(torch.full((n,), 1e-3))
        self.probability = nn.Parameter(torch.full((n, n_together), 0.5))
        self.magnitude = nn.Parameter(torch.full((n, n_together), 0.5))
        self.is_frozen = False
        self._generator = torch.Generator().manual_seed(seed)
        self._uniform = torch.empty(0)
        self.draw()

    def draw(self) -> None:
        """Draw anew which sub-policy comes and which of its operations are carried out."""
        n, k = self.probability.shape
        tiny = torch.finfo(torch.float32).tiny
        self._uniform = torch.rand(n + k, generator=self._generator).clamp(min=tiny)

    def freeze(self) -> None:
        """End the search: from now on the policy is applied, and gets no gradient."""
        self.is_frozen = True
        self.requires_grad_(False)

    @property
    def entropy(self) -> Tensor:
        """Entropy of the sub-policies in nats, 0-dim; as a bonus it keeps the search open."""
        log_p = self.alpha.log_softmax(0)
        return -(log_p.exp() * log_p).sum()

    def choice(self) -> Tensor:
        """Weight of each sub-policy in what was drawn last: 1 for one of them, ``(S,)``."""
        uniform = self._uniform[: len(self.alpha)].to(self.alpha)
        soft = ((self.alpha - (-uniform.log()).log()) / self.temperature).softmax(0)
        hard = torch.zeros_like(soft).scatter_(0, soft.argmax(0, keepdim=True), 1)
        return hard + (soft - soft.detach())

    def execution(self, i_policy: int) -> Tensor:
        """Whether each operation of a sub-policy is carried out, in what was drawn last: 1 or 0, ``(K,)``."""
        p = _inside(self.probability[i_policy])
        uniform = self._uniform[len(self.alpha) :].to(p)
        hard = (uniform < p).to(p)
        safe = p.detach().clamp(1e-3, 1 - 1e-3) + (p - p.detach())
        # Beside 0 and 1 the noise has no logit.
        noise = uniform.clamp(1e-6, 1 - 1e-6)
        soft = ((safe.logit() - noise.logit()) / self.temperature).sigmoid()
        return hard + (soft - soft.detach())

    @overload
    def forward(self, feature: Tensor) -> Tensor: ...

    @overload
    def forward(self, feature: list[Tensor]) -> list[Tensor]: ...

    def forward(self, feature: Any) -> Any:
        """Refine.

        Args:
            feature: of the teacher, ``(B, C, H, W[, D])``; or a list of levels, which all get the same sub-policy.

        Returns:
            The same shapes and dtypes.

        Raises:
            ValueError: if a map is no image or volume.
        """
        if self.resample == "iteration":
            self.draw()
        weights = self.choice()
        i_policy = int(weights.detach().argmax())
        decisions = self.execution(i_policy)
        magnitudes = _inside(self.magnitude[i_policy])
        levels = feature if isinstance(feature, (list, tuple)) else [feature]
        refined = []
        for level in levels:
            level = level.detach()
            changed = level
            for name, decision, magnitude in zip(self.sub_policies[i_policy], decisions, magnitudes, strict=True):
                # While the search is on, an operation that is not carried out still tells the probability's gradient.
                if self.is_frozen and float(decision) == 0:
                    continue
                after = apply_operation(name, changed, magnitude, self._generator)
                changed = changed + decision.to(level) * (after - changed)
            refined.append(level + weights[i_policy].to(level) * (changed - level))
        return refined if isinstance(feature, (list, tuple)) else refined[0]

    def get_extra_state(self) -> dict[str, Any]:
        """State of the generator, what was drawn last, and whether the search is over."""
        return {"generator": self._generator.get_state(), "uniform": self._uniform, "is_frozen": self.is_frozen}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved state."""
        self._generator.set_state(state["generator"].cpu())
        self._uniform = state["uniform"].cpu()
        self.is_frozen = bool(state["is_frozen"])
        self.requires_grad_(not self.is_frozen)


def _inside(x: Tensor) -> Tensor:
    """Clamped to [0, 1], with the gradient of ``x``: a parameter that a step took outside can come back."""
    return x.detach().clamp(0, 1) + (x - x.detach())
