"""The handler that makes MONAI's unchanged trainer a training with teachers: time, batch keys, logging, processes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from torch import Tensor

from medkit.distill.engine.loss import BatchContext, DistillationLoss
from medkit.distill.engine.processes import average_gradients, same_in_all_processes
from medkit.distill.engine.teacher_check import TeacherCheck

logger = logging.getLogger(__name__)
UNITS = ("epoch", "iteration")


class DistillationHandler:
    """Advance a :class:`DistillationLoss`, give it what it cannot see, and log its parts; a handler of the trainer.

    While the training runs the loss's taps are open. Weights follow the time in ``unit``, from 1 as ignite counts.
    At the end of each epoch the metrics of the trainer, which its StatsHandler and TensorBoardStatsHandler log, hold
    the mean over the epoch of ``<term>`` (without its weight), ``<term>_weight`` and ``<term>_fraction`` (of the whole
    loss), for the task's loss too, and ``<term>_<part>`` of a term that has parts of its own. In several processes the
    gradients of the loss's own parameters are averaged, as DistributedDataParallel does with the network's.

    Before the first epoch the teacher goes through the evaluator (see :class:`TeacherCheck`); its metric is in the
    trainer's metrics as ``teacher_<metric>``, that of the student in its place as ``student_<metric>_before``.

    Args:
        loss: the trainer's loss.
        evaluator: of the validation; ``None``: the teacher is not looked at.
        unit: of the schedules, ``"epoch"`` or ``"iteration"``.
        image_key: of what a teacher sees instead of the student's input: name of the teacher and key of the batch. For
            HMDS, the less noisy image.
        mask_key: key of the batch with where the terms count, ``(B, 1, *S)``.
        index_key: key of the batch with the number of each sample in the data set, for :class:`CRD`.
        student_ckpt: weights of a student that was trained without teacher, the bar for the teacher.
        student_metric: that student's metric, where there are no weights.
        force: train with a teacher that is worse than its student, with a warning.

    Raises:
        ValueError: if ``unit`` is unknown or ``image_key`` names no teacher; in training, if the optimizer lacks the
            loss's parameters, the batch a key, or the teacher is worse than the student.

    Example:
        >>> SupervisedTrainer(..., loss_function=loss, train_handlers=[DistillationHandler(loss, evaluator)])
    """

    def __init__(
        self,
        loss: DistillationLoss,
        evaluator: Engine | None = None,
        unit: str = "epoch",
        image_key: Mapping[str, str] | None = None,
        mask_key: str | None = None,
        index_key: str | None = None,
        student_ckpt: str | None = None,
        student_metric: float | None = None,
        force: bool = False,
    ) -> None:
        if unit not in UNITS:
            raise ValueError(f"DistillationHandler: 'unit' must be one of {UNITS}, got {unit!r}")
        self.image_keys = dict(image_key or {})
        if strangers := sorted(set(self.image_keys) - set(loss.teachers)):
            raise ValueError(
                f"DistillationHandler: 'image_key' must name teachers of {list(loss.teachers)}, got {strangers}"
            )
        self.loss, self.unit, self.mask_key, self.index_key = loss, unit, mask_key, index_key
        self.check = TeacherCheck(loss, evaluator, student_ckpt, student_metric, force)
        self._sums: dict[str, Tensor] = {}
        self._n = 0

    def attach(self, engine: Engine) -> None:
        """Add the events.

        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)
        engine.add_event_handler(Events.ITERATION_STARTED, self._start_iteration)
        engine.add_event_handler(IterationEvents.LOSS_COMPLETED, self._add_up)
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._synchronize)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_iteration)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _start(self, engine: Engine) -> None:
        optimizer = getattr(engine, "optimizer", None)
        trained = {id(p) for group in getattr(optimizer, "param_groups", []) for p in group["params"]}
        if optimizer is not None and any(id(p) not in trained for p in self.loss.parameters() if p.requires_grad):
            raise ValueError(
                "DistillationHandler: the optimizer must have the parameters of the loss, which are those of adapters "
                "and heads; give it join_parameters(network.parameters(), loss)"
            )
        same_in_all_processes(self.loss)
        self.loss.open()

    def _start_epoch(self, engine: Engine) -> None:
        if engine.state.epoch == 1:
            engine.state.metrics.update(self.check.before())
        if self.unit == "epoch":
            self.loss.set_time(engine.state.epoch)
        self._sums, self._n = {}, 0

    def _start_iteration(self, engine: Engine) -> None:
        if self.unit == "iteration":
            self.loss.set_time(engine.state.iteration)
        batch, device = engine.state.batch, engine.state.device

        def item(key: str) -> Tensor:
            if not isinstance(batch, Mapping) or key not in batch:
                there = list(batch) if isinstance(batch, Mapping) else type(batch).__name__
                raise ValueError(f"DistillationHandler: the batch must have the key {key!r}, it has {there}")
            value = batch[key]
            return (value if isinstance(value, Tensor) else torch.as_tensor(value)).to(device)

        self.loss.context = BatchContext(
            mask=None if self.mask_key is None else item(self.mask_key),
            index=None if self.index_key is None else item(self.index_key),
            teacher_inputs={name: item(key) for name, key in self.image_keys.items()},
        )

    def _add_up(self, engine: Engine) -> None:
        """Add the parts to the sums of the epoch; they stay on the device, so that nothing waits for it."""
        weights, parts = self.loss.weights, self.loss.parts
        weighted = {name: weights[name] * value for name, value in parts.items()}
        total = torch.stack([value.abs().float() for value in weighted.values()]).sum().clamp(min=1e-12)
        values: dict[str, Any] = {}
        for name, value in parts.items():
            values |= {name: value, f"{name}_weight": weights[name], f"{name}_fraction": weighted[name].abs() / total}
        for name, term in self.loss.terms.weighted().items():
            own = getattr(term.term, "parts", None) or {} if name in parts else {}
            values |= {f"{name}_{part}": value for part, value in own.items()}
        for name, value in values.items():
            value = torch.as_tensor(value, dtype=torch.float32).detach()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._n += 1

    def _synchronize(self, engine: Engine) -> None:
        average_gradients(self.loss.parameters())

    def _end_iteration(self, engine: Engine) -> None:
        # Once more: checkpointing of activations calls the network again in the backward pass.
        self.loss.clear()
        length = engine.state.epoch_length
        # Before the events of the epoch's end, so that handlers which log there see it wherever they stand.
        if self._n and (not length or engine.state.iteration % length == 0):
            engine.state.metrics.update({name: float(value) / self._n for name, value in self._sums.items()})

    def _end(self, engine: Engine) -> None:
        self.loss.close()
        self.check.after()
