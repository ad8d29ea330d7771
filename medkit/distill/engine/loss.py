"""The loss of a training with teachers: a task's loss and terms of distillation, called as ``loss(pred, label)``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor, nn

from medkit.distill.contract import Hints
from medkit.distill.engine.table import check_class_numbers, term_table
from medkit.distill.paths import unwrapped
from medkit.distill.schedules import WeightSchedule, as_schedule
from medkit.distill.sums import DistillationSum, WeightedTerm
from medkit.distill.taps import FeatureTaps, FrozenTeacher, Observation, dry_run

logger = logging.getLogger(__name__)


@dataclass
class BatchContext:
    """What a loss cannot see of a batch through ``(pred, label)``.

    Attributes:
        mask: where the terms count, ``(B, 1, *S)``; ``None``: everywhere.
        index: number of each sample in the data set, ``(B,)``; or ``None``.
        teacher_inputs: name of a teacher and what it looks at instead of the student's input.
    """

    mask: Tensor | None = None
    index: Tensor | None = None
    teacher_inputs: dict[str, Tensor] = field(default_factory=dict)


class DistillationLoss(nn.Module):
    r"""A task's loss and terms of distillation, for MONAI's unchanged trainer.

    .. math:: L = w_0(t) \, L_{task}(\hat y, y) + \sum_i w_i(t) \, L_i(student, teacher)

    Put :class:`DistillationHandler` among the trainer's handlers: it opens the taps for the time of the training and
    advances :math:`t`. The student's input and features are caught while it is in training mode; in ``eval`` mode the
    loss is the task's alone. Teachers run without gradient, on the student's device. Neither student nor teachers nor
    the task's loss belong to ``parameters()`` and ``state_dict()``: these hold adapters, heads, policies, the state of
    generators, and the time. Give ``parameters()`` to the optimizer (:func:`join_parameters`).

    A teacher none of whose terms has a weight now is not run. Outputs of deep supervision go to the task's loss as they
    are; terms on logits take the first, or all in :class:`DeepSupervisionKD`.

    Args:
        student: the network that is trained; wrappers for parallel training are looked through.
        teacher: a network, named ``"teacher"``; or name and network of each of several.
        task_loss: called as ``task_loss(pred, label)``.
        terms: name of each term, under which it is logged, and the term.
        example: an input of the student, or its shape ``[B, C, *S]``: student and teachers are run on it once, and the
            terms' layers are made for it. The table of what is compared goes to the log.
        task_weight: :math:`w_0`, a number or a schedule.
        teacher_transform: makes a teacher's input ``(B, C', *S')`` of the student's ``(B, C, *S)``; or name of each
            teacher that has one, and its transform.
        select: for tapped modules whose output is no tensor, path and index or key, as of :class:`FeatureTaps`.
        clone: copy what is caught; needed where the operation after a tapped module writes in place, which ``None``
            finds out.

    Attributes:
        terms: the :class:`DistillationSum`.
        parts: of the last call, ``"task"`` and name of each computed term with its value without weight, detached.
        context: mask, index and teachers' inputs of this batch; forgotten after each call.

    Raises:
        ValueError: if a tap is unknown or never called, a teacher is missing or shares parameters with the student, or
            a term does not fit what student and teacher give.

    Example:
        >>> loss = DistillationLoss(student, teacher, CrossEntropyLoss(), {"kd": WeightedTerm(LogitKD())}, [1, 1, 9, 9])
        >>> with loss.opened():
        ...     loss(student(image), label).backward()
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Mapping[str, nn.Module],
        task_loss: Callable[..., Tensor],
        terms: Mapping[str, WeightedTerm],
        example: Sequence[int] | Tensor,
        task_weight: WeightSchedule | float = 1.0,
        teacher_transform: Callable[[Tensor], Tensor] | Mapping[str, Callable[[Tensor], Tensor]] | None = None,
        select: Mapping[str, int | str] | None = None,
        clone: bool | None = None,
    ) -> None:
        super().__init__()
        teachers = {"teacher": teacher} if isinstance(teacher, nn.Module) else dict(teacher)
        if "task" in terms:
            raise ValueError("DistillationLoss: 'terms' must not hold the name 'task', that is the task's loss")
        self.terms = DistillationSum(terms)
        _check_teachers(student, teachers, self.terms)
        if callable(teacher_transform) or teacher_transform is None:
            teacher_transform = dict.fromkeys(teachers, teacher_transform) if callable(teacher_transform) else {}
        if strangers := sorted(set(teacher_transform) - set(teachers)):
            raise ValueError(
                f"DistillationLoss: 'teacher_transform' must name teachers of {list(teachers)}, {strangers}"
            )
        # In tuples and plain dictionaries, so that they are no submodules.
        self._student, self._task_loss = (unwrapped(student),), (task_loss,)
        self._transforms = dict(teacher_transform)
        self.task_schedule = as_schedule(task_weight)
        self.parts: dict[str, Tensor] = {}
        self.context = BatchContext()
        self._select = dict(select or {})
        paths = self.terms.student_taps
        every = {*paths, *(path for taps in self.terms.teacher_taps.values() for path in taps)}
        if unknown := sorted(set(self._select) - every):
            raise ValueError(f"DistillationLoss: 'select' must name taps of {sorted(every)}, got {unknown}")
        self._build(teachers, example, clone)

    def _build(self, teachers: Mapping[str, nn.Module], example: Sequence[int] | Tensor, clone: bool | None) -> None:
        """Run student and teachers once, make the terms' layers, and log what is compared."""
        image = example if isinstance(example, Tensor) else _blank(example)
        device = _device_of(self.student, image.device)
        image = plain_tensor(image).to(device)
        self._example_size = tuple(image.shape[2:])
        paths = self.terms.student_taps
        own, taps = _looked("student", self.student, paths, self.selected(paths), image)
        shapes, copies = taps.shapes, bool(taps.overwritten) if clone is None else clone
        self._taps = FeatureTaps(self.student, paths, self.selected(paths), only_training=True, clone=copies)
        outputs, other_shapes = {}, {}
        self._teachers: dict[str, FrozenTeacher] = {}
        for name, network in teachers.items():
            paths = self.terms.teacher_taps.get(name, [])
            network.to(device)
            seen = self._transforms[name](image) if name in self._transforms else image
            outputs[name], taps = _looked(f"teacher {name!r}", network, paths, self.selected(paths), seen)
            other_shapes[name], copies = taps.shapes, bool(taps.overwritten) if clone is None else clone
            self._teachers[name] = FrozenTeacher(network, paths, self.selected(paths), clone=copies)
        check_class_numbers(self.terms, own, outputs)
        # New layers draw their numbers aside, so that a training with and one without teachers see the same ones.
        with torch.random.fork_rng(devices=[]):
            self.terms.build(shapes, other_shapes)
        self.to(device)
        for line in term_table(self.terms, shapes, other_shapes):
            logger.info("%s", line)

    def selected(self, paths: Sequence[str]) -> dict[str, int | str]:
        """What is chosen of the outputs of these modules."""
        return {path: chosen for path, chosen in self._select.items() if path in paths}

    @property
    def student(self) -> nn.Module:
        """The student, without wrappers."""
        return self._student[0]

    @property
    def teachers(self) -> dict[str, nn.Module]:
        """Name and network of each teacher."""
        return {name: teacher.network for name, teacher in self._teachers.items()}

    @property
    def weights(self) -> dict[str, float]:
        """Weight of the task and of each term now."""
        return {"task": self.task_schedule(self.terms.time), **self.terms.weights}

    def set_time(self, time: float) -> None:
        """Say how far the training is, in the unit of the schedules; see :class:`DistillationSum`."""
        self.terms.set_time(time)

    def open(self) -> None:
        """Begin to catch what the student sees and shows."""
        self._taps.__enter__()

    def close(self) -> None:
        """Take the hooks off the student, and forget what was caught."""
        self._taps.__exit__()
        self.clear()

    def clear(self) -> None:
        """Forget what was caught of the last batch, so that its memory can go."""
        self._taps.clear()
        self.context = BatchContext()

    def opened(self) -> _Opened:
        """A ``with`` block in which the taps are open."""
        return _Opened(self)

    def observe(
        self, image: Tensor, names: Sequence[str], context: BatchContext | None = None
    ) -> dict[str, Observation]:
        """Let teachers look at a batch.

        Args:
            image: what the student sees, ``(B, C, *S)``.
            names: of the teachers.
            context: may hold inputs of theirs.

        Returns:
            Name and observation of each.
        """
        context = context or BatchContext()
        seen = {}
        for name in names:
            teacher = self._teachers[name]
            if _device_of(teacher.network, image.device) != image.device:
                teacher.network.to(image.device)
            given = context.teacher_inputs.get(name)
            if given is None:
                given = self._transforms[name](image) if name in self._transforms else image
            seen[name] = teacher(plain_tensor(given).to(image.device))
        return seen

    def task_loss(self, output: Any, target: Any) -> Tensor:
        """The task's loss, scalar, a plain tensor."""
        value = plain_tensor(self._task_loss[0](output, target))
        return value.mean() if value.ndim else value

    def forward(self, output: Any, target: Any = None) -> Tensor:
        """Compute the loss of a batch.

        Args:
            output: what the student returned for it, ``(B, C, *S)`` or a list of such.
            target: labels, as the task's loss and the terms take them (:class:`Hints`).

        Returns:
            Scalar, a plain tensor.

        Raises:
            ValueError: if the student's call was not caught, or a term does not fit the batch.
        """
        task = self.task_loss(output, target)
        weights = self.weights
        self.parts = {"task": task.detach()}
        total = task if weights["task"] == 1 else weights["task"] * task
        active = [name for name, weight in weights.items() if weight and name != "task"]
        if not self.student.training or not active:
            self.clear()
            return total
        image, context = self._caught_input(output), self.context
        if any(parameter.device != image.device for parameter in self.parameters()):
            self.to(image.device)
        names = [self.terms.teacher_of(name) for name in active]
        seen = self.observe(image, list(dict.fromkeys(names)), context)
        hints = Hints(_labels(target), context.mask, context.index)
        try:
            own = Observation(output, self._taps.features)
            terms = self.terms(own, seen, hints.target, hints.mask, hints.index)
        except ValueError as error:
            if tuple(image.shape[2:]) != self._example_size:
                raise ValueError(
                    f"DistillationLoss: the terms' layers were made for images of {self._example_size}, this batch has "
                    f"{tuple(image.shape[2:])}; crop or resize to one size, and make it that of 'example' ({error})"
                ) from error
            raise
        self.parts |= self.terms.parts
        self.clear()
        return total + terms

    def _caught_input(self, output: Any) -> Tensor:
        image = self._taps.input
        if image is None:
            raise ValueError(
                "DistillationLoss: the student's call was not seen; add DistillationHandler to the trainer's handlers "
                "(or call open), and let the trainer run the network that is 'student' here"
            )
        first = output if isinstance(output, Tensor) else next(iter(output))
        if len(first) != len(image):
            raise ValueError(
                f"DistillationLoss: the student was called last on {len(image)} samples, its output has {len(first)}; "
                "train with an inferer that calls it once for a batch, such as SimpleInferer"
            )
        return plain_tensor(image).detach()


class _Opened:
    def __init__(self, loss: DistillationLoss) -> None:
        self.loss = loss

    def __enter__(self) -> DistillationLoss:
        self.loss.open()
        return self.loss

    def __exit__(self, *error: object) -> None:
        self.loss.close()


def _check_teachers(student: nn.Module, teachers: Mapping[str, nn.Module], terms: DistillationSum) -> None:
    for name, network in teachers.items():
        if not isinstance(network, nn.Module):
            raise ValueError(f"DistillationLoss: teacher {name!r} must be a network, got {type(network).__name__}")
        shared = {id(p) for p in student.parameters()} & {id(p) for p in network.parameters()}
        if unwrapped(network) is unwrapped(student) or shared:
            raise ValueError(f"DistillationLoss: teacher {name!r} shares parameters with the student; build it anew")
    if missing := sorted(set(terms.teacher_taps) - set(teachers)):
        raise ValueError(f"DistillationLoss: terms want the teachers {missing}, there are {list(teachers)}")


def _looked(
    who: str, network: nn.Module, paths: Sequence[str], select: Mapping[str, int | str], image: Tensor
) -> tuple[Any, FeatureTaps]:
    """Output and taps after a run; a shape that the network does not take is said in one sentence."""
    taps = FeatureTaps(network, paths, select)
    try:
        return dry_run(taps, image)[0], taps
    except (RuntimeError, IndexError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"DistillationLoss: the {who} does not take an input of {tuple(image.shape)} ({reason}); "
            "give another 'example', or a 'teacher_transform' where it is the teacher"
        ) from error


def _blank(shape: Sequence[int]) -> Tensor:
    if not isinstance(shape, (list, tuple)) or len(shape) < 3 or not all(isinstance(n, int) and n > 0 for n in shape):
        raise ValueError(f"DistillationLoss: 'example' must be a tensor or a shape [B, C, *S], got {shape!r}")
    return torch.zeros(*shape)


def plain_tensor(x: Tensor) -> Tensor:
    """A tensor without MONAI's metadata."""
    return x.as_tensor() if isinstance(x, MetaTensor) else x


def _labels(target: Any) -> Tensor | None:
    """Labels that a term can look at: of deep supervision's list the first."""
    if isinstance(target, (list, tuple)) and target:
        target = target[0]
    return plain_tensor(target) if isinstance(target, Tensor) else None


def _device_of(network: nn.Module, otherwise: torch.device) -> torch.device:
    parameter = next(network.parameters(), None)
    return otherwise if parameter is None else parameter.device
