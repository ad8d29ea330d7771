"""Weighted sums of terms: each with its taps, its teacher and the schedule of its weight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medkit.distill.contract import DistillationTerm
from medkit.distill.schedules import WeightSchedule, as_schedule
from medkit.distill.taps import Observation

Shapes = Mapping[str, Sequence[int]]


class WeightedTerm(nn.Module):
    """One term of a sum: what it compares, with which teacher, and how much it weighs when.

    Args:
        term: the term.
        weight: a number or a schedule.
        student_taps: paths of the student's taps; none for a term on logits, one for a term on a feature, several,
            finest first, for a term on levels.
        teacher_taps: paths of the teacher's.
        teacher: name of the teacher.

    Raises:
        ValueError: if the number of taps is not what the term needs.

    Example:
        >>> WeightedTerm(FitNet(), LinearWarmup(1.0, 5), ["layer3"], ["layer3"])
    """

    def __init__(
        self,
        term: DistillationTerm,
        weight: WeightSchedule | float = 1.0,
        student_taps: Sequence[str] = (),
        teacher_taps: Sequence[str] = (),
        teacher: str = "teacher",
    ) -> None:
        super().__init__()
        numbers = (len(student_taps), len(teacher_taps))
        is_fit = {"logits": numbers == (0, 0), "feature": numbers == (1, 1)}.get(term.needs, min(numbers) > 0)
        if not is_fit:
            wanted = {"logits": "no taps", "feature": "one tap each"}.get(term.needs, "taps of the levels")
            raise ValueError(
                f"WeightedTerm: {type(term).__name__} wants {wanted} of student and teacher, "
                f"got {list(student_taps)} and {list(teacher_taps)}"
            )
        self.term = term
        self.schedule = as_schedule(weight)
        self.student_taps, self.teacher_taps = tuple(student_taps), tuple(teacher_taps)
        self.teacher = teacher

    def forward(
        self,
        student: Observation,
        teacher: Observation,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Compute the term, without its weight."""
        own, other = self._seen(student, self.student_taps), self._seen(teacher, self.teacher_taps)
        return self.term(own, other, target, mask, index)

    def _seen(self, observation: Observation, taps: tuple[str, ...]) -> Any:
        if self.term.needs == "logits":
            return observation.output
        if missing := [path for path in taps if path not in observation.features]:
            raise ValueError(
                f"WeightedTerm: {type(self.term).__name__} wants the taps {missing}, "
                f"which are not among {list(observation.features)}"
            )
        features = [observation.features[path] for path in taps]
        if self.term.needs == "feature":
            return features[0]
        return [*_outputs(observation)[:1], *features] if self.term.needs == "all" else features


class DistillationSum(nn.Module):
    """The weighted sum of terms, of one teacher or of several.

    Terms of weight 0 are not computed. The time is part of the state dict, so a sum that is saved with a checkpoint
    resumes where it was.

    Args:
        terms: name and term; names are those of the logged parts.

    Attributes:
        parts: of the last call, name and value of each computed term without its weight, detached.

    Raises:
        ValueError: if there is no term.

    Example:
        >>> loss = DistillationSum({"kd": WeightedTerm(LogitKD(), LinearWarmup(1.0, 5))})
        >>> loss.set_time(1)
        >>> loss(Observation(torch.rand(2, 3), {}), Observation(torch.rand(2, 3), {})).shape
        torch.Size([])
    """

    def __init__(self, terms: Mapping[str, WeightedTerm]) -> None:
        super().__init__()
        if not terms:
            raise ValueError("DistillationSum: 'terms' must hold at least one term")
        self.terms = nn.ModuleDict(terms)
        self.time = 0.0
        self.parts: dict[str, Tensor] = {}

    def weighted(self) -> dict[str, WeightedTerm]:
        """Name and term of each."""
        return {name: term for name, term in self.terms.items() if isinstance(term, WeightedTerm)}

    @property
    def student_taps(self) -> list[str]:
        """Paths of all taps of the student, each once."""
        return list(dict.fromkeys(path for term in self.weighted().values() for path in term.student_taps))

    @property
    def teacher_taps(self) -> dict[str, list[str]]:
        """Name of each teacher and the paths of its taps, each once."""
        taps: dict[str, dict[str, None]] = {}
        for term in self.weighted().values():
            taps.setdefault(term.teacher, {}).update(dict.fromkeys(term.teacher_taps))
        return {name: list(paths) for name, paths in taps.items()}

    def teacher_of(self, name: str) -> str:
        """Name of a term's teacher."""
        return self.weighted()[name].teacher

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term now."""
        return {name: term.schedule(self.time) for name, term in self.weighted().items()}

    def set_time(self, time: float) -> None:
        """Say how far the training is, in the unit of the schedules.

        Args:
            time: at least 0, such as ignite's ``engine.state.epoch``.

        Raises:
            ValueError: if ``time`` is negative.
        """
        if not time >= 0:
            raise ValueError(f"DistillationSum.set_time: 'time' must be at least 0, got {time}")
        self.time = float(time)

    def get_extra_state(self) -> dict[str, Any]:
        """The time."""
        return {"time": self.time}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Continue from a saved time."""
        self.time = state["time"]

    def build(self, student_shapes: Shapes, teacher_shapes: Mapping[str, Shapes]) -> None:
        """Make the layers of all terms from probed shapes.

        Do it before the optimizer gets the parameters and before ``to(device)``: the layers are made on the CPU.

        Args:
            student_shapes: of the student, from :func:`probe_taps`.
            teacher_shapes: name of each teacher and its shapes.

        Raises:
            ValueError: if a shape is missing or fits no adapter.
        """
        for name, term in self.weighted().items():
            known = (student_shapes, teacher_shapes.get(term.teacher, {}))
            taps = (term.student_taps, term.teacher_taps)
            for paths, shapes in zip(taps, known, strict=True):
                if missing := [path for path in paths if path not in shapes]:
                    raise ValueError(f"DistillationSum.build: term {name!r} lacks the shapes of {missing}")
            term.term.build(*([shapes[path] for path in paths] for paths, shapes in zip(taps, known, strict=True)))

    def forward(
        self,
        student: Observation,
        teachers: Observation | Mapping[str, Observation],
        target: Tensor | None = None,
        mask: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Tensor:
        """Compute the sum.

        Args:
            student: output and features of the student.
            teachers: name and observation of each teacher; an observation alone is that of ``"teacher"``.
            target: labels.
            mask: where the terms count, ``(B, 1, *S)``.
            index: number of each sample in the data set, ``(B,)``.

        Returns:
            Scalar, float32; 0 without gradient while all weights are 0.

        Raises:
            ValueError: if a teacher or a tap is missing.
        """
        named = {"teacher": teachers} if isinstance(teachers, Observation) else dict(teachers)
        self.parts = {}
        total = torch.zeros((), device=_outputs(student)[0].device)
        for name, weight in self.weights.items():
            term = self.weighted()[name]
            if weight == 0:
                continue
            if term.teacher not in named:
                raise ValueError(
                    f"DistillationSum: term {name!r} wants the teacher {term.teacher!r}, got {list(named)}"
                )
            value = term(student, named[term.teacher], target, mask, index)
            self.parts[name] = value.detach()
            total = total + weight * value
        return total


def _outputs(observation: Observation) -> list[Tensor]:
    """Outputs of a network, finest first."""
    return [observation.output] if isinstance(observation.output, Tensor) else list(observation.output)
