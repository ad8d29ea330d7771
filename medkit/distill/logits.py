"""Terms on class probabilities: temperature, decoupled, many temperatures and relations, standardised on request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, logsigmoid, softmax

from medkit.distill.contract import DistillationTerm, Hints, check_same_shape
from medkit.distill.voxels import as_rows, class_labels, place_weights, weighted_mean


def standardize_logits(logits: Tensor, epsilon: float = 1e-7) -> Tensor:
    r"""Logits with mean 0 and deviation 1 over the classes: a student need not copy the teacher's scale.

    .. math:: (z - \bar z) / \sqrt{\mathrm{var}(z) + \epsilon^2}

    Source: Sun et al., CVPR 2024, arXiv 2403.01427.

    Args:
        logits: ``(B, C, *S)``, at least three classes: of two only the sign would be left.
        epsilon: keeps equal logits finite, and their gradient.

    Returns:
        ``(B, C, *S)``.

    Raises:
        ValueError: if there are fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"standardize_logits: of {logits.shape[1]} classes only the sign would be left; do without, "
            "or use BernoulliKD"
        )
    centred = logits - logits.mean(1, keepdim=True)
    return centred / (centred.square().sum(1, keepdim=True) / (logits.shape[1] - 1) + epsilon**2).sqrt()


def _checked(
    term: DistillationTerm, student: Tensor, teacher: Tensor, use_standardized: bool = False
) -> tuple[Tensor, Tensor]:
    name = type(term).__name__
    check_same_shape(name, student, teacher)
    if student.shape[1] < 2:
        raise ValueError(f"{name}: logits must have at least two classes, got {tuple(student.shape)}; use BernoulliKD")
    return (standardize_logits(student), standardize_logits(teacher)) if use_standardized else (student, teacher)


def _positive(name: str, **values: float) -> None:
    for key, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}: '{key}' must be above 0, got {value}")


def softmax_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher ‖ student) of softmax at temperature T over axis 1, (B, C, *S) to (B, *S); gradient to both."""
    log_p = log_softmax(student / temperature, 1)
    log_q = log_softmax(teacher / temperature, 1)
    return temperature**2 * kl_div(log_p, log_q, reduction="none", log_target=True).sum(1)


def sigmoid_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher ‖ student) of each sigmoid at temperature T, elementwise; gradient to both."""
    own, other = student / temperature, teacher / temperature
    yes = other.sigmoid() * (logsigmoid(other) - logsigmoid(own))
    no = (-other).sigmoid() * (logsigmoid(-other) - logsigmoid(-own))
    return temperature**2 * (yes + no)


class LogitKD(DistillationTerm):
    r"""Knowledge distillation: the teacher's class probabilities at a temperature, of images or of voxels.

    .. math:: L = T^2 \, \mathrm{mean} \, KL(\mathrm{softmax}(z_t / T) \,\|\, \mathrm{softmax}(z_s / T))

    Source: Hinton et al. 2015, arXiv 1503.02531; standardised: Sun et al., CVPR 2024.

    Args:
        temperature: :math:`T`.
        use_standardized: standardise the logits first, see :func:`standardize_logits`.
        ignore_label: voxels of this label do not count.
        foreground_weight: weight of voxels that are not of class 0; by the labels, without them by the teacher.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> LogitKD(temperature=2)(torch.rand(2, 4, 8, 8), torch.rand(2, 4, 8, 8)).shape
        torch.Size([])
    """

    def __init__(
        self,
        temperature: float = 4.0,
        use_standardized: bool = False,
        ignore_label: int | None = None,
        foreground_weight: float = 1.0,
    ) -> None:
        super().__init__()
        _positive("LogitKD", temperature=temperature, foreground_weight=foreground_weight)
        self.temperature = float(temperature)
        self.use_standardized = use_standardized
        self.ignore_label = ignore_label
        self.foreground_weight = float(foreground_weight)

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare logits ``(B, C, *S)``."""
        weights = place_weights("LogitKD", student, hints, self.ignore_label)
        if self.foreground_weight != 1:
            known = hints.target is not None
            classes = class_labels("LogitKD", hints.target, teacher) if known else teacher.argmax(1)
            weights = torch.where(classes == 0, weights, weights * self.foreground_weight)
        student, teacher = _checked(self, student, teacher, self.use_standardized)
        return weighted_mean(softmax_divergence(student, teacher, self.temperature), weights)


class DKD(DistillationTerm):
    r"""Decoupled distillation: how sure of the true class, and what of the others, with weights of their own.

    .. math:: L = T^2 \, (\alpha \, KL(b_t \| b_s) + \beta \, KL(\hat p_t \| \hat p_s))

    with :math:`b = (p_y, 1 - p_y)` of the true class :math:`y`, and :math:`\hat p` the softmax over the other classes.
    With :math:`\alpha = 1` and :math:`\beta = 1 - p_{t,y}` it is :class:`LogitKD`.

    Source: Zhao et al., CVPR 2022, arXiv 2203.08679. Its warm-up is a schedule of the term's weight.

    Args:
        alpha: weight of the true class.
        beta: weight of the others; the paper takes 1 to 10.
        temperature: :math:`T`.
        use_standardized: standardise the logits first.
        ignore_label: voxels of this label do not count.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> DKD()(torch.rand(2, 5), torch.rand(2, 5), torch.tensor([0, 3])).shape
        torch.Size([])
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        use_standardized: bool = False,
        ignore_label: int | None = None,
    ) -> None:
        super().__init__()
        _positive("DKD", temperature=temperature)
        self.alpha, self.beta, self.temperature = float(alpha), float(beta), float(temperature)
        self.use_standardized = use_standardized
        self.ignore_label = ignore_label

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare logits ``(B, C, *S)`` with classes as ``hints.target``."""
        labels = class_labels("DKD", hints.target, student)
        places = place_weights("DKD", student, hints, self.ignore_label)
        student, teacher = _checked(self, student, teacher, self.use_standardized)
        is_counted = places.flatten() > 0
        own, weights = as_rows(student, places)
        other, _ = as_rows(teacher, places)
        label = labels.flatten()[is_counted][:, None]
        if bool(((label < 0) | (label >= own.shape[1])).any()):
            raise ValueError(
                f"DKD: 'target' must be classes from 0 to {own.shape[1] - 1}, got {int(label.min())} to "
                f"{int(label.max())}; set ignore_label for a label that does not count"
            )
        is_other = torch.ones_like(own, dtype=torch.bool).scatter_(1, label, False)
        binary, rest = [], []
        for logits in (own, other):
            log_p = log_softmax(logits / self.temperature, 1)
            others = log_p[is_other].view(-1, own.shape[1] - 1)
            binary.append(torch.cat([log_p.gather(1, label), others.logsumexp(1, keepdim=True)], 1))
            rest.append(log_softmax(others, 1))
        true_class, other_classes = (kl_div(a, b, reduction="none", log_target=True).sum(1) for a, b in (binary, rest))
        return self.temperature**2 * weighted_mean(self.alpha * true_class + self.beta * other_classes, weights)


class MLKD(DistillationTerm):
    r"""Multi-level logits: probabilities, relations of samples and relations of classes, at several temperatures.

    With softmax probabilities :math:`P_T` ``(B, C)`` at temperature :math:`T`:

    .. math:: L = \sum_T T^2 KL + |P_t P_t^\top - P_s P_s^\top|^2 / B + |P_t^\top P_t - P_s^\top P_s|^2 / C

    Source: Jin et al., CVPR 2023, doi:10.1109/CVPR52729.2023.02325. Its weakly and strongly augmented views are two
    calls; with ``only_unsure`` for the weak one.

    Args:
        temperatures: the :math:`T`.
        use_standardized: standardise the logits first.
        only_unsure: of samples the less sure half counts in the first two parts, of classes the rarer half in the
            third, both by the teacher.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self,
        temperatures: Sequence[float] = (4.0, 2.0, 3.0, 5.0, 6.0),
        use_standardized: bool = False,
        only_unsure: bool = False,
    ) -> None:
        super().__init__()
        if not temperatures or min(temperatures) <= 0:
            raise ValueError(f"MLKD: 'temperatures' must be numbers above 0, got {temperatures}")
        self.temperatures = tuple(float(t) for t in temperatures)
        self.use_standardized = use_standardized
        self.only_unsure = only_unsure

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare logits ``(B, C)``."""
        if student.ndim != 2:
            raise ValueError(f"MLKD: logits must be (B, C), got {tuple(student.shape)}; use LogitKD or DIST for voxels")
        student, teacher = _checked(self, student, teacher, self.use_standardized)
        n_samples, n_classes = student.shape
        samples, classes = student.new_ones(n_samples, 1), student.new_ones(n_classes, 1)
        if self.only_unsure:
            probability = softmax(teacher, 1)
            confidence, mass = probability.amax(1), probability.sum(0)
            samples = (confidence <= confidence.quantile(0.5)).to(student)[:, None]
            classes = (mass <= mass.quantile(0.5)).to(student)[:, None]
        loss = student.new_zeros(())
        for temperature in self.temperatures:
            p, q = (softmax(x / temperature, 1) for x in (student, teacher))
            loss = loss + (softmax_divergence(student, teacher, temperature) * samples[:, 0]).mean()
            loss = loss + ((p @ p.T - q @ q.T).square() * samples).sum() / n_samples
            loss = loss + ((p.T @ p - q.T @ q).square() * classes).sum() / n_classes
        return loss


class DIST(DistillationTerm):
    r"""Relations instead of values: correlation of probabilities over classes, and over samples.

    .. math:: L = T^2 (\beta (1 - \rho_{classes}) + \gamma (1 - \rho_{samples}))

    with the mean Pearson correlation :math:`\rho` of the rows and of the columns of the probabilities ``(N, C)``.

    Source: Huang et al., NeurIPS 2022, arXiv 2205.10536. Voxels are rows.

    Args:
        beta: weight over the classes. Of two classes this correlation is ±1 and teaches nothing: then set 0.
        gamma: weight over the samples; a single sample has none, and this part is 0.
        temperature: :math:`T`.
        ignore_label: voxels of this label do not count.

    Raises:
        ValueError: if an argument is outside its range.
    """

    def __init__(
        self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, ignore_label: int | None = None
    ) -> None:
        super().__init__()
        _positive("DIST", temperature=temperature)
        self.beta, self.gamma, self.temperature = float(beta), float(gamma), float(temperature)
        self.ignore_label = ignore_label

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare logits ``(B, C, *S)``."""
        places = place_weights("DIST", student, hints, self.ignore_label)
        student, teacher = _checked(self, student, teacher)
        if student.shape[1] == 2 and self.beta > 0:
            raise ValueError("DIST: the correlation of two classes is ±1; set beta=0, or use BernoulliKD or LogitKD")
        p, q = (softmax(as_rows(x, places)[0] / self.temperature, 1) for x in (student, teacher))
        loss = self.beta * (1 - _correlation(p, q)).mean() if len(p) else p.sum()
        if len(p) > 1:
            loss = loss + self.gamma * (1 - _correlation(p.T, q.T)).mean()
        return self.temperature**2 * loss


def _correlation(a: Tensor, b: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Pearson correlation of each row, (N,)."""
    a, b = (x - x.mean(1, keepdim=True) for x in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp(min=epsilon)


class BernoulliKD(DistillationTerm):
    r"""Distillation of sigmoid outputs: binary tasks, several labels at once, overlapping regions.

    .. math:: L = T^2 \, \mathrm{mean} \, KL(\mathrm{Bernoulli}(\sigma(z_t / T)) \| \mathrm{Bernoulli}(\sigma(z_s / T)))

    the mean over channels and places. Where one side has one channel and the other the two of a softmax, the two become
    their difference, which has the same probability.

    Args:
        temperature: :math:`T`.
        ignore_label: entries of a target ``(B, C, *S)`` with this value do not count.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> BernoulliKD()(torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)).shape
        torch.Size([])
    """

    def __init__(self, temperature: float = 2.0, ignore_label: float | None = None) -> None:
        super().__init__()
        _positive("BernoulliKD", temperature=temperature)
        self.temperature = float(temperature)
        self.ignore_label = ignore_label

    def compute(self, student: Tensor, teacher: Tensor, hints: Hints) -> Tensor:
        """Compare logits ``(B, C, *S)``."""
        if {student.shape[1], teacher.shape[1]} == {1, 2}:
            student, teacher = (x if x.shape[1] == 1 else x[:, 1:] - x[:, :1] for x in (student, teacher))
        check_same_shape("BernoulliKD", student, teacher)
        weights = place_weights("BernoulliKD", student, hints)[:, None].expand_as(student)
        if self.ignore_label is not None:
            if hints.target is None or hints.target.shape != student.shape:
                got = None if hints.target is None else tuple(hints.target.shape)
                raise ValueError(f"BernoulliKD: 'target' must be {tuple(student.shape)} for ignore_label, got {got}")
            weights = weights * (hints.target != self.ignore_label)
        return weighted_mean(sigmoid_divergence(student, teacher, self.temperature), weights)
