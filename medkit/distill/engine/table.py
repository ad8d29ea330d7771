"""What a training with teachers compares: the table that is logged at its start, and the classes of the logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from medkit.distill.adapters import ConvRegression3, ResizingAdapter
from medkit.distill.sums import DistillationSum, WeightedTerm
from medkit.distill.supervision import DeepSupervisionKD

Shapes = Mapping[str, Sequence[int]]
LATE = 1e9  # a time at which every schedule has come to its last weight


def term_table(terms: DistillationSum, student: Shapes, teachers: Mapping[str, Shapes]) -> list[str]:
    """Lines of a table: term, its first and last weight, taps of student and teacher with shapes, and the adapter.

    Args:
        terms: built from these shapes.
        student: path and shape of each tap.
        teachers: name of each teacher, and path and shape of each of its taps.

    Returns:
        The lines, the head first.
    """
    rows = [("term", "weight", "student", "teacher", "adapter")]
    for name, term in terms.weighted().items():
        of = "" if len(teachers) == 1 else f"{term.teacher}: "
        pairs = list(_pairs(term, student, teachers[term.teacher])) or [("output", "output")]
        for i, (own, other) in enumerate(pairs):
            first, last = term.schedule(0.0), term.schedule(LATE)
            weight = f"{first:g}" if first == last else f"{first:g} to {last:g}"
            rows.append((name, weight, own, of + other, adapter_of(term.term)) if i == 0 else ("", "", own, other, ""))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _pairs(term: WeightedTerm, student: Shapes, teacher: Shapes) -> list[tuple[str, str]]:
    own = [f"{path} {tuple(student[path])}" for path in term.student_taps]
    other = [f"{path} {tuple(teacher[path])}" for path in term.teacher_taps]
    length = max(len(own), len(other))
    return list(zip(own + [""] * (length - len(own)), other + [""] * (length - len(other)), strict=True))


def adapter_of(term: nn.Module) -> str:
    """Names of the adapters in a term, and how many numbers the whole term learns."""
    kinds = [type(m).__name__ for m in term.modules() if isinstance(m, (ResizingAdapter, ConvRegression3))]
    learned = sum(parameter.numel() for parameter in term.parameters())
    names = ", ".join(dict.fromkeys(kinds)) or "none"
    return f"{names} ({learned} parameters)" if learned else names


def check_class_numbers(terms: DistillationSum, student: Any, teachers: Mapping[str, Any]) -> None:
    """Refuse a term on logits whose student and teacher have other numbers of classes.

    Args:
        terms: the sum.
        student: what the student returned.
        teachers: name of each teacher and what it returned.

    Raises:
        ValueError: if they differ, or there are no logits.
    """
    for name, term in terms.weighted().items():
        if term.term.needs not in ("logits", "all"):
            continue
        own, other = _first(student), _first(teachers[term.teacher])
        for who, logits in (("student", own), ("teacher", other)):
            if logits is None:
                raise ValueError(
                    f"DistillationLoss: term {name!r} compares logits, but the {who} returns no tensor and no list "
                    "of tensors; wrap it so that it does"
                )
        if own is None or other is None:
            continue
        if own.ndim != other.ndim or own.shape[1] != other.shape[1]:
            raise ValueError(
                f"DistillationLoss: term {name!r} compares logits, but the student gives {tuple(own.shape)} and the "
                f"teacher {tuple(other.shape)}, {own.shape[1]} and {other.shape[1]} classes; use a term on features, "
                "or a teacher of the same classes"
            )
        if own.shape[2:] != other.shape[2:] and not isinstance(term.term, DeepSupervisionKD):
            raise ValueError(
                f"DistillationLoss: term {name!r} compares logits on other grids, student {tuple(own.shape)} and "
                f"teacher {tuple(other.shape)}; put the term into DeepSupervisionKD, which resizes"
            )


def _first(output: Any) -> Tensor | None:
    if isinstance(output, (list, tuple)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.ndim >= 2 else None
