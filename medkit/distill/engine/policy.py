"""The search of SoKD's policy: a step of its own optimizer between two steps of the student, then the freeze."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn
from torch.func import functional_call

from medkit.distill.engine.loss import BatchContext, DistillationLoss, plain_tensor
from medkit.distill.engine.processes import average_gradients
from medkit.distill.sokd import SoKD
from medkit.distill.sums import WeightedTerm
from medkit.distill.taps import FeatureTaps, Observation

logger = logging.getLogger(__name__)
BILEVEL = ("first_order", "second_order")
N_SHOWN = 5  # sub-policies in the log


class _Batch(NamedTuple):
    image: Tensor
    target: Any
    context: BatchContext


class SoKDPolicyHandler:
    r"""Search the policy of each :class:`SoKD` term by bilevel optimization; a handler of the trainer.

    Before each step of the student on a batch, the policy :math:`\chi` makes one on another batch: of ``loader``, held
    out for it, or else the one before. With :math:`\theta` of the student,

    .. math:: \chi \leftarrow \chi - \eta_\chi \nabla_\chi L_{aug}(\theta, \chi) \quad (first\ order), \qquad
        \nabla_\chi L_{aug}(\theta - \eta \nabla_\theta L(\theta, \chi), \chi) \quad (second\ order)

    where :math:`L` is the task's loss and the SoKD terms on the student's next batch, and the derivative through the
    virtual step is exact. Neither writes into the student: its parameters and buffers go into functional calls as
    copies, and dropout draws from a copy of the random state. After ``search_epochs`` the policy is frozen.

    The trainer's metrics get ``<term>_entropy`` (nats) at the end of each epoch; the likeliest sub-policies with their
    probabilities, :math:`p` and :math:`m` go to the log. Put it behind :class:`DistillationHandler`. It has a state
    dict (of the optimizer; the policy is in that of the loss).

    Source: Shen et al. 2024, arXiv 2409.18785; optimizer and numbers as in the working code of the authors' lab.

    Differs:
        - The two levels see different batches.
        - The virtual step is that of plain SGD with weight decay, and takes the task and the SoKD terms alone.

    Args:
        loss: the trainer's loss, with at least one SoKD term.
        search_epochs: epochs of the search; it over-fits where it is long.
        bilevel: ``"first_order"`` or ``"second_order"``.
        loader: of batches like the trainer's that the student does not train on; ``None``: the batch before.
        learning_rate: of the policy's Adam.
        betas: of it.
        weight_decay: of it.
        virtual_learning_rate: :math:`\eta`.
        virtual_weight_decay: of the virtual step.

    Attributes:
        optimizer: of all policies.

    Raises:
        ValueError: if an argument is outside its range, or no term is SoKD.

    Example:
        >>> SupervisedTrainer(..., train_handlers=[DistillationHandler(loss), SoKDPolicyHandler(loss)])
    """

    def __init__(
        self,
        loss: DistillationLoss,
        search_epochs: int = 20,
        bilevel: str = "first_order",
        loader: Iterable[Any] | None = None,
        learning_rate: float = 3e-4,
        betas: tuple[float, float] = (0.5, 0.999),
        weight_decay: float = 1e-3,
        virtual_learning_rate: float = 0.01,
        virtual_weight_decay: float = 1e-4,
    ) -> None:
        if bilevel not in BILEVEL or search_epochs < 0:
            raise ValueError(
                f"SoKDPolicyHandler: 'bilevel' must be one of {BILEVEL} and 'search_epochs' at least 0, "
                f"got {bilevel!r} and {search_epochs}"
            )
        self.terms = {name: term for name, term in loss.terms.weighted().items() if isinstance(term.term, SoKD)}
        if not self.terms:
            raise ValueError(
                f"SoKDPolicyHandler: none of the terms {list(loss.terms.weighted())} is SoKD; leave it out"
            )
        self.loss, self.search_epochs, self.bilevel, self.loader = loss, search_epochs, bilevel, loader
        self.virtual_learning_rate, self.virtual_weight_decay = virtual_learning_rate, virtual_weight_decay
        self.optimizer = torch.optim.Adam(
            self._parameters(), learning_rate, betas=(betas[0], betas[1]), weight_decay=weight_decay
        )
        self._before: _Batch | None = None
        self._batches: Iterator[Any] | None = None

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for _, sokd in self._policies() for parameter in sokd.policy_parameters()]

    def _policies(self) -> Iterator[tuple[str, SoKD]]:
        for name, term in self.terms.items():
            if isinstance(term.term, SoKD):
                yield name, term.term

    @property
    def is_searching(self) -> bool:
        """Whether a policy still learns."""
        return not all(sokd.refiner.is_frozen for _, sokd in self._policies())

    def attach(self, engine: Engine) -> None:
        """Add the events.

        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_iteration)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_iteration)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def state_dict(self) -> dict[str, Any]:
        """State of the optimizer."""
        return {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with a saved optimizer."""
        self.optimizer.load_state_dict(state["optimizer"])

    def _start_epoch(self, engine: Engine) -> None:
        # A resumed run starts here, too, and has no batch before.
        self._before, self._batches = None, None
        for name, sokd in self._policies():
            if engine.state.epoch > self.search_epochs and not sokd.refiner.is_frozen:
                sokd.freeze()
                logger.info("%s: the search is over, the policy is frozen. %s", name, described(sokd))
            if sokd.refiner.resample == "epoch":
                sokd.refiner.draw()

    def _start_iteration(self, engine: Any) -> None:
        if not self.is_searching:
            self._before = None
            return
        now = _Batch(*_prepared(engine, engine.state.batch), self.loss.context)
        other = self._before if self.loader is None else _Batch(*self._held_out(engine), BatchContext())
        self._before = now if self.loader is None else None
        if other is not None:
            self.step(other, now)

    def _held_out(self, engine: Any) -> tuple[Tensor, Any]:
        for _ in range(2):
            if self._batches is None:
                self._batches = iter(self.loader or ())
            for batch in self._batches:
                return _prepared(engine, batch)
            self._batches = None
        raise ValueError("SoKDPolicyHandler: 'loader' is empty; hold out at least one batch")

    def _end_iteration(self, engine: Engine) -> None:
        length = engine.state.epoch_length
        if not length or engine.state.iteration % length == 0:
            for name, sokd in self._policies():
                engine.state.metrics[f"{name}_entropy"] = float(sokd.refiner.entropy.detach())
                if self.is_searching:
                    logger.info("%s: %s", name, described(sokd))

    def _end(self, engine: Engine) -> None:
        self._before, self._batches = None, None

    def step(self, other: Any, now: Any = None) -> Tensor:
        """One step of the policies.

        Args:
            other: batch of the upper level: image, target and context.
            now: batch of the virtual step; for ``"second_order"``.

        Returns:
            The policies' objective before the step, detached.
        """
        parameters = self._parameters()
        with _unchanged(self.loss.student) as (student, buffers):
            weights = {name: parameter.detach() for name, parameter in student.named_parameters()}
            if self.bilevel == "second_order":
                weights = self._virtual_step(student, weights, buffers, now)
            objective = self._objective(student, weights, buffers, other)
            gradients = torch.autograd.grad(objective, parameters, allow_unused=True)
        self.optimizer.zero_grad()
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.detach()
        average_gradients(parameters)
        self.optimizer.step()
        return objective.detach()

    def _objective(self, student: nn.Module, weights: Any, buffers: Any, batch: _Batch) -> Tensor:
        """The sum of the policies' objectives."""
        is_virtual = self.bilevel == "second_order"
        with torch.set_grad_enabled(is_virtual):
            own = self._shown(student, weights, buffers, batch.image)
        total = batch.image.new_zeros((), dtype=torch.float32)
        with torch.enable_grad():
            for name, sokd in self._policies():
                term = self.terms[name]
                other = self._taught(term, batch)
                levels = [own.features[path] for path in term.student_taps]
                others = [other.features[path] for path in term.teacher_taps]
                total = total + sokd.policy_loss(levels, others, use_student_gradient=is_virtual)
        return total

    def _virtual_step(self, student: nn.Module, weights: Any, buffers: Any, batch: _Batch) -> dict[str, Tensor]:
        """The student's weights after a step of SGD, as a function of the policy."""
        with torch.enable_grad():
            weights = {
                name: weight.clone().requires_grad_(weight.is_floating_point()) for name, weight in weights.items()
            }
            own = self._shown(student, weights, buffers, batch.image)
            loss = self.loss.weights["task"] * self.loss.task_loss(own.output, batch.target)
            for name, sokd in self._policies():
                term, context = self.terms[name], batch.context
                target = batch.target if isinstance(batch.target, Tensor) else None
                with sokd.policy_gradients():
                    value = term(own, self._taught(term, batch), target, context.mask, context.index)
                loss = loss + self.loss.weights[name] * value
            learned = [name for name, weight in weights.items() if weight.requires_grad]
            gradients = torch.autograd.grad(
                loss, [weights[name] for name in learned], create_graph=True, allow_unused=True
            )
            moved = dict(weights)
            for name, gradient in zip(learned, gradients, strict=True):
                if gradient is not None:
                    decay = self.virtual_weight_decay * weights[name]
                    moved[name] = weights[name] - self.virtual_learning_rate * (gradient + decay)
        return moved

    def _shown(self, student: nn.Module, weights: Any, buffers: Any, image: Tensor) -> Observation:
        paths = list(dict.fromkeys(path for term in self.terms.values() for path in term.student_taps))
        taps = FeatureTaps(student, paths, self.loss.selected(paths), clone=True)
        with taps:
            output = functional_call(student, {**weights, **buffers}, (image,))
        return Observation(output, taps.features)

    def _taught(self, term: WeightedTerm, batch: _Batch) -> Observation:
        return self.loss.observe(batch.image, [term.teacher], batch.context)[term.teacher]


def described(sokd: SoKD) -> str:
    """The likeliest sub-policies with their probabilities, and each operation's p and m."""
    refiner = sokd.refiner
    chances = refiner.alpha.detach().softmax(0)
    order = chances.argsort(descending=True, stable=True)[:N_SHOWN].tolist()
    p, m = refiner.probability.detach().clamp(0, 1), refiner.magnitude.detach().clamp(0, 1)
    shown = []
    for i in order:
        operations = ", ".join(
            f"{name} p={p[i, k]:.2f} m={m[i, k]:.2f}" for k, name in enumerate(refiner.sub_policies[i])
        )
        shown.append(f"{chances[i]:.3f} [{operations}]")
    return f"entropy {float(refiner.entropy.detach()):.3f}; likeliest " + "; ".join(shown)


@contextmanager
def _unchanged(student: nn.Module) -> Iterator[tuple[nn.Module, dict[str, Tensor]]]:
    """The student in training mode with copies of its buffers; its modes and the random state are put back."""
    modes = {module: module.training for module in student.modules()}
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            student.train()
            yield student, {name: buffer.clone() for name, buffer in student.named_buffers()}
    finally:
        for module, is_training in modes.items():
            module.training = is_training


def _prepared(engine: Any, batch: Any) -> tuple[Tensor, Any]:
    """Image and label as the trainer makes them of a batch, on its device."""
    prepared = engine.prepare_batch(batch, engine.state.device, engine.non_blocking, **engine.to_kwargs)
    image, target = prepared[0], prepared[1]
    return plain_tensor(image), plain_tensor(target) if isinstance(target, Tensor) else target
