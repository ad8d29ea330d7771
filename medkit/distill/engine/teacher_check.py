"""Is the teacher better than its student? The bundle's own validation tells, before and after the training."""

from __future__ import annotations

import copy
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from ignite.metrics import Metric
from monai.handlers import DecollateBatch, PostProcessing
from torch import nn

from medkit.distill.engine.loading import load_teacher
from medkit.distill.engine.loss import DistillationLoss
from medkit.distill.paths import unwrapped

logger = logging.getLogger(__name__)


def validate_network(evaluator: Any, network: nn.Module) -> float | None:
    """Validate another network with an evaluator, and leave no trace of it.

    The evaluator's network is swapped and put back; only its metrics, decollation and postprocessing work meanwhile:
    no handler writes, logs or saves. Its state (metrics, best metric, epoch) and the random state are put back.

    Args:
        evaluator: MONAI's ``SupervisedEvaluator``.
        network: what it shall validate.

    Returns:
        The key metric; ``None`` if the evaluator has none that is a number.

    Example:
        >>> validate_network(evaluator, teacher)
        0.87
    """
    with _undisturbed(evaluator):
        evaluator.network = network
        evaluator.run()
        value = evaluator.state.metrics.get(evaluator.state.key_metric_name)
    try:
        return None if value is None else float(value)
    except (TypeError, ValueError):
        return None


@contextmanager
def _undisturbed(evaluator: Any) -> Iterator[None]:
    handlers, network = evaluator._event_handlers, evaluator.network
    state = {
        name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(evaluator.state).items()
    }
    modes = {module: module.training for module in network.modules()}
    randomness = random.getstate(), np.random.get_state()  # noqa: NPY002 - what a data set may use is put back
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            evaluator._event_handlers = type(handlers)(
                getattr(handlers, "default_factory", list),
                {event: [entry for entry in entries if _computes(entry[0])] for event, entries in handlers.items()},
            )
            yield
    finally:
        evaluator._event_handlers, evaluator.network = handlers, network
        # After an error ignite would take the next run for the rest of this one, and do nothing.
        evaluator._internal_run_generator = None
        for name in set(vars(evaluator.state)) - set(state):
            delattr(evaluator.state, name)
        vars(evaluator.state).update(state)
        for module, is_training in modes.items():
            module.training = is_training
        random.setstate(randomness[0])
        np.random.set_state(randomness[1])  # noqa: NPY002


def _computes(handler: Callable[..., Any]) -> bool:
    """Whether an event handler makes the metrics, and is no side effect."""
    owner = getattr(handler, "__self__", handler)
    if isinstance(owner, (Metric, DecollateBatch, PostProcessing)):
        return True
    module, name = getattr(handler, "__module__", ""), getattr(handler, "__name__", "")
    return str(module).startswith("monai.engines") and name != "_compare_metrics"


class TeacherCheck:
    """Compare the teacher with its student on validation: refuse a worse one, and say when it was passed.

    Args:
        loss: holds the student and the teachers; each teacher is looked at.
        evaluator: of the validation; ``None``: nothing is compared.
        student_ckpt: weights of the student without teacher.
        student_metric: its metric, where there are no weights.
        force: warn instead of refusing.
    """

    def __init__(
        self,
        loss: DistillationLoss,
        evaluator: Any = None,
        student_ckpt: str | None = None,
        student_metric: float | None = None,
        force: bool = False,
    ) -> None:
        self.loss, self.evaluator = loss, evaluator
        self.student_ckpt, self.student_metric, self.force = student_ckpt, student_metric, force
        self.metrics: dict[str, float] = {}

    def before(self) -> dict[str, float]:
        """Validate teachers, and the student without teacher.

        Returns:
            What is to be logged: ``teacher_<metric>`` (of several teachers ``<name>_<metric>``), and
            ``student_<metric>_before`` where it is known.

        Raises:
            ValueError: if a teacher is worse than the student, unless ``force``.
        """
        if self.evaluator is None:
            return {}
        key = self.evaluator.state.key_metric_name
        found: dict[str, float] = {}
        for name, network in self.loss.teachers.items():
            network.to(self.evaluator.state.device)
            value = validate_network(self.evaluator, network)
            if value is None:
                logger.warning("TeacherCheck: the evaluator has no key metric, so that no teacher is compared")
                return {}
            found[name] = value
            logger.info("%s: %s %.4f on validation", name, key, value)
        self.metrics = found
        bar = self._bar()
        logged = {f"{name}_{key}": value for name, value in found.items()}
        if bar is None:
            return logged
        for name, value in found.items():
            if self._is_better(bar, value):
                sentence = (
                    f"TeacherCheck: {name!r} is worse than its student on validation, {key} {value:.4f} against "
                    f"{bar:.4f}; take a better teacher (are its weights loaded?), or go on with force=True"
                )
                if not self.force:
                    raise ValueError(sentence)
                logger.warning(sentence)
        return logged | {f"student_{key}_before": bar}

    def after(self) -> None:
        """Warn where the student's best validation has passed a teacher's."""
        if self.evaluator is None or self.evaluator.state.best_metric_epoch == -1:
            return
        key, best = self.evaluator.state.key_metric_name, float(self.evaluator.state.best_metric)
        for name, value in self.metrics.items():
            if self._is_better(best, value):
                logger.warning(
                    f"TeacherCheck: the student has passed {name!r} on validation, {key} {best:.4f} "
                    f"against {value:.4f}; a better teacher may help, or a shorter distillation"
                )

    def _bar(self) -> float | None:
        if self.student_ckpt is None:
            return self.student_metric
        student = copy.deepcopy(unwrapped(self.loss.student))
        return validate_network(self.evaluator, load_teacher(student, self.student_ckpt))

    def _is_better(self, value: float, other: float) -> bool:
        return bool(self.evaluator.metric_cmp_fn(value, other))
