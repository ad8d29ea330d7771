"""Terms on one pair of feature maps: values, attention, and channels as distributions over space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax, normalize

from medkit.distill.adapters import ADAPTERS, build_adapter, resized
from medkit.distill.contract import DistillationTerm, Hints, check_same_shape
from medkit.distill.voxels import or_one


def mask_on(mask: Tensor | None, feature: Tensor) -> Tensor:
    """Bring a mask to the grid of a feature.

    Args:
        mask: ``(B, 1, *S)``; ``None``: 1 everywhere.
        feature: ``(B, C, *G)`` or ``(B, C)``.

    Returns:
        ``(B, 1, *G)``, of the feature's dtype; means over areas where the grid shrinks.

    Raises:
        ValueError: if the mask has another batch, several channels, or other axes.
    """
    if mask is None:
        return feature.new_ones(feature.shape[0], 1, *feature.shape[2:])
    if mask.ndim != feature.ndim or mask.shape[:2] != (feature.shape[0], 1):
        raise ValueError(
            f"mask_on: 'mask' must be (B, 1, *S) for features {tuple(feature.shape)}, got {tuple(mask.shape)}"
        )
    return resized(mask, feature.shape[2:]) if feature.ndim > 2 else mask


class AdaptedTerm(DistillationTerm):
    """A term on one feature pair whose student goes through an adapter first.

    Args:
        adapter: ``"conv1"``, ``"convreg3"`` or ``"none"``, made by :meth:`build` from the probed shapes; or a module.
        options: of the adapter, see :func:`build_adapter`.

    Attributes:
        adapter: from the student's map to the teacher's; ``None`` before :meth:`build`.

    Raises:
        ValueError: if ``adapter`` is unknown, or has no such option.
    """

    needs: ClassVar[str] = "feature"

    def __init__(self, adapter: str | nn.Module = "conv1", **options: Any) -> None:
        super().__init__()
        if isinstance(adapter, str) and adapter not in ADAPTERS:
            raise ValueError(f"{type(self).__name__}: 'adapter' must be a module or one of {ADAPTERS}, got {adapter!r}")
        if strangers := sorted(set(options) - ({"norm", "use_activation"} if adapter == "conv1" else set())):
            raise ValueError(f"{type(self).__name__}: options of 'conv1' are norm and use_activation, got {strangers}")
        self._kind, self._options = (adapter, options) if isinstance(adapter, str) else ("", options)
        self.adapter: nn.Module | None = adapter if isinstance(adapter, nn.Module) else None
        if adapter == "none":
            self.adapter = nn.Identity()

    def build(self, student_shapes: Sequence[Sequence[int]], teacher_shapes: Sequence[Sequence[int]]) -> None:
        """Make the adapter from the two shapes; a module that was given stays."""
        if self._kind:
            self.adapter = build_adapter(self._kind, student_shapes[0], teacher_shapes[0], **self._options)

    def adapt(self, student: Tensor) -> Tensor:
        """The student's map in the teacher's channels and grid.

        Raises:
            ValueError: if the adapter was not made yet.
        """
        if self.adapter is None:
            raise ValueError(f"{type(self).__name__}: call build with the shapes of probe_taps first")
        return self.adapter(student)

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Adapt the student's map and compare."""
        return self.compare(self.adapt(student), teacher, hints)

    @abstractmethod
    def compare(self, adapted: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare maps of one shape.

        Args:
            adapted: of the student, through the adapter, ``(B, C, *S)``.
            teacher: the same shape.
            hints: see :class:`Hints`.

        Returns:
            Scalar.
        """


class FitNet(AdaptedTerm):
    r"""Mean squared difference of the adapted student's and the teacher's feature map.

    .. math:: L = \sum M \, |\Phi(F_s) - F_t|^2 / (C \sum M)

    Source: Romero et al., ICLR 2015, arXiv 1412.6550.

    Args:
        adapter: see :class:`AdaptedTerm`.
        options: of the adapter.

    Example:
        >>> term = FitNet()
        >>> term.build([(1, 4, 8, 8)], [(1, 8, 4, 4)])
        >>> term(torch.rand(2, 4, 8, 8), torch.rand(2, 8, 4, 4)).shape
        torch.Size([])
    """

    def compare(self, adapted: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare maps ``(B, C, *S)``."""
        check_same_shape("FitNet", adapted, teacher)
        mask = mask_on(hints.mask, teacher)
        total = ((adapted - teacher).square() * mask).sum()
        return total / (teacher.shape[1] * or_one(mask.sum()))


class AttentionTransfer(DistillationTerm):
    r"""Where a network looks: the map of the channels' mean power, normalised; channels need not agree.

    .. math:: L = \mathrm{mean} \, |Q_s / |Q_s| - Q_t / |Q_t||^2, \qquad Q = \mathrm{mean}_c |F_c|^p

    the mean over samples and places. A student's map of another grid is resized. A mask is put on both maps first.

    Source: Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928; the mean over places is the released code's, with
    which a weight of about 1000 belongs.

    Args:
        power: :math:`p`.

    Raises:
        ValueError: if ``power`` is not above 0.
    """

    needs: ClassVar[str] = "feature"

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        if not power > 0:
            raise ValueError(f"AttentionTransfer: 'power' must be above 0, got {power}")
        self.power = float(power)

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare maps ``(B, C, *S)`` of any channels."""
        if student.ndim != teacher.ndim or student.ndim < 3:
            raise ValueError(
                "AttentionTransfer: maps must both be (B, C, *S), "
                f"got {tuple(student.shape)} and {tuple(teacher.shape)}"
            )
        mask = mask_on(hints.mask, teacher)
        own, other = (
            normalize((resized(self._attention(x), teacher.shape[2:]) * mask).flatten(1), dim=1, eps=1e-12)
            for x in (student, teacher)
        )
        return (own - other).square().mean()

    def _attention(self, feature: Tensor) -> Tensor:
        """(B, 1, *S), the largest value 1: neither overflow nor underflow for any scale."""
        scale = feature.detach().abs().flatten(1).amax(1).clamp(min=1e-12).view(-1, *[1] * (feature.ndim - 1))
        return (feature / scale).abs().pow(self.power).mean(1, keepdim=True)


class ChannelWiseKD(AdaptedTerm):
    r"""Each channel as a distribution over space; for dense prediction, on features or logits.

    .. math:: L = \frac{T^2}{C} \sum_c KL(\phi(F_{t,c}) \| \phi(F_{s,c})), \qquad
        \phi(y) = \mathrm{softmax}_{space}(y / T)

    the mean over samples. Only places where the mask is above 0 count.

    Source: Shu et al., ICCV 2021, arXiv 2011.13256.

    Args:
        temperature: :math:`T`.
        adapter: see :class:`AdaptedTerm`.
        options: of the adapter.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(self, temperature: float = 4.0, adapter: str | nn.Module = "conv1", **options: Any) -> None:
        super().__init__(adapter, **options)
        if not temperature > 0:
            raise ValueError(f"ChannelWiseKD: 'temperature' must be above 0, got {temperature}")
        self.temperature = float(temperature)

    def compare(self, adapted: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare maps ``(B, C, *S)``."""
        check_same_shape("ChannelWiseKD", adapted, teacher)
        if adapted.ndim < 3:
            raise ValueError(f"ChannelWiseKD: maps must be (B, C, *S), got {tuple(adapted.shape)}")
        is_out = (mask_on(hints.mask, teacher) <= 0).flatten(2)
        # Half the largest number: its difference to anything stays finite, and its probability is 0.
        floor = torch.finfo(teacher.dtype).min / 2
        log_p, log_q = (
            log_softmax((x.flatten(2) / self.temperature).masked_fill(is_out, floor), 2) for x in (adapted, teacher)
        )
        return self.temperature**2 * kl_div(log_p, log_q, reduction="none", log_target=True).sum(2).mean()
