"""The table of the distillation study: accuracies with their spread, paired differences, and what a step costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

from scipy import stats

if TYPE_CHECKING:
    from tests.benchmarks.distillation import Row


def paired_difference(own: dict[int, float], other: dict[int, float]) -> tuple[float, float, int]:
    """Return mean and half the 95 % interval (Student's t) of the differences, seed by seed, and their number.

    Args:
        own: seed and value of a method.
        other: of the method that it is compared with.
    """
    differences = [own[seed] - other[seed] for seed in sorted(set(own) & set(other))]
    n = len(differences)
    if n < 2:
        return (differences[0] if n else math.nan), math.nan, n
    mean = sum(differences) / n
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences) / (n - 1))
    return mean, float(stats.t.ppf(0.975, n - 1)) * deviation / math.sqrt(n), n


def summary(protocol: dict[str, Any], rows: Sequence[Row], task: str) -> list[dict[str, Any]]:
    """Return a line of the table for each method that has final rows.

    Args:
        protocol: of the study.
        rows: all of them.
        task: which task.
    """
    final: dict[str, dict[int, Row]] = {}
    for row in rows:
        if row.task == task and row.stage == "final":
            final.setdefault(row.method, {})[row.seed] = row
    steps = {name: _mean([row.cpu_ms_per_step for row in own.values()]) for name, own in final.items()}
    lines = []
    for method, options in protocol["methods"].items():
        if method not in final:
            continue
        own = final[method]
        values = {seed: row.test_last for seed, row in own.items()}
        differences = {
            baseline: paired_difference(values, {seed: row.test_last for seed, row in final.get(baseline, {}).items()})
            for baseline in options["against"]
        }
        trial = next(iter(own.values())).trial
        lines.append(
            {
                "method": method,
                "chosen": ", ".join(f"{k.rpartition('#')[2]}={v}" for k, v in options["trials"][trial].items()),
                "seeds": len(own),
                "test_last": _mean(list(values.values())),
                "spread": _spread(list(values.values())),
                "test_best": _mean([row.test_best for row in own.values()]),
                "differences": differences,
                "ms_per_step": steps[method],
                "overhead": steps[method] / steps["kd"] if "kd" in steps else math.nan,
                "seconds": _mean([row.seconds for row in own.values()]),
            }
        )
    return lines


def print_table(protocol: dict[str, Any], rows: Sequence[Row], out: TextIO) -> None:
    """Print what there is: of each task the teacher, the final runs and how many trainings are still missing.

    Args:
        protocol: of the study.
        rows: all of them.
        out: where to.
    """
    per_task = len(protocol["methods"]) * len(protocol["seeds"])
    per_task += sum(len(own["trials"]) for own in protocol["methods"].values()) * len(protocol["tuning_seeds"])
    for task, options in protocol["tasks"].items():
        there = [row for row in rows if row.task == task]
        total = per_task + isinstance(options["teacher"], dict)
        out.write(f"\n{task}: {len(there)} of {total} trainings\n")
        for row in there:
            if row.stage == "teacher":
                out.write(f"teacher ({row.parameters} parameters): test {100 * row.test_last:.2f} %\n")
        lines = summary(protocol, rows, task)
        if not lines:
            continue
        out.write(
            f"{'method':12} {'chosen':18} {'n':>2} {'test %':>13} {'best epoch':>10} {'against':>12} "
            f"{'difference (95 %)':>18} {'ms/step':>8} {'x KD':>5} {'s/run':>6}\n"
        )
        for line in lines:
            against = [
                (name, f"{100 * mean:+.2f} ± {100 * half:.2f}") for name, (mean, half, _) in line["differences"].items()
            ] or [("", "")]
            out.write(
                f"{line['method']:12} {line['chosen']:18} {line['seeds']:2} "
                f"{100 * line['test_last']:6.2f} ± {100 * line['spread']:4.2f} {100 * line['test_best']:10.2f} "
                f"{against[0][0]:>12} {against[0][1]:>18} {line['ms_per_step']:8.1f} {line['overhead']:5.2f} "
                f"{line['seconds']:6.0f}\n"
            )
            for name, difference in against[1:]:
                out.write(f"{'':56} {name:>12} {difference:>18}\n")


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _spread(values: Sequence[float]) -> float:
    """Standard deviation over the seeds."""
    if len(values) < 2:
        return math.nan
    mean = _mean(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
