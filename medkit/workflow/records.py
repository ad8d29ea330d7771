"""What a run leaves behind to be read: its configuration, and its metrics as JSON and CSV."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.utils import string_list_all_gather

from medkit.workflow.atomic import atomic_path
from medkit.workflow.overrides import running_config

Cases = Sequence[Mapping[str, Any]]
Summary = dict[str, dict[str, float | None]]


def save_config_copy(run_dir: str | os.PathLike[str], name: str = "config.json") -> None:
    """Write the configuration that is being run, overrides included, into the folder of the run.

    Belongs into ``initialize``, as ``{"_target_": "medkit.workflow.save_config_copy", "run_dir": "@run_dir"}``. Rank 0
    writes; outside a configuration nothing happens.

    Args:
        run_dir: folder of the run; made when missing.
        name: name of the file.

    Example:
        >>> save_config_copy("runs/first")
    """
    parser, _ = running_config()
    if parser is None or idist.get_rank() != 0:
        return
    with atomic_path(Path(run_dir) / name) as temporary:
        temporary.write_text(json.dumps(parser.config, indent=2, default=str) + "\n", encoding="utf-8")


def write_metrics(
    folder: str | os.PathLike[str], cases: Cases, together: Mapping[str, Mapping[str, float]] | None = None
) -> Summary:
    """Write ``metrics.json`` and ``metrics.csv``: the metrics of each case, and their means.

    The JSON file is ``{"summary": {method: {metric: mean}}, "cases": [{"case": name, method: {metric: value}}]}``. The
    CSV file has one line per case and method and the columns ``case, method, <metrics>``; the means are its last lines,
    with the case ``mean``. A value that is not finite is written as ``null`` (empty in CSV) and left out of its mean.

    Args:
        folder: where to write; made when missing.
        cases: for each case its name under ``case``, and for each method a dictionary of its metrics.
        together: for a method the metrics that only all cases together have, such as an area under a curve; they
            join the summary.

    Returns:
        The summary: mean of each metric of each method over the cases that have it, then those of ``together``.

    Raises:
        ValueError: if there is no case, or a case has no name, or a method no dictionary of numbers.

    Example:
        >>> write_metrics("eval", [{"case": "a", "zero_filled": {"psnr": 25.0}, "clgnet": {"psnr": 33.0}}])
        {'zero_filled': {'psnr': 25.0}, 'clgnet': {'psnr': 33.0}}
    """
    if not cases:
        raise ValueError("write_metrics: 'cases' must hold at least one case, got none")
    rows = [_clean(case) for case in cases]
    summary = _means(rows)
    for method, own in (together or {}).items():
        summary.setdefault(method, {}).update({name: _finite(value) for name, value in own.items()})
    folder = Path(folder)
    with atomic_path(folder / "metrics.json") as temporary:
        text = json.dumps({"summary": summary, "cases": rows}, indent=2, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")
    metrics = list(dict.fromkeys(metric for values in summary.values() for metric in values))
    with atomic_path(folder / "metrics.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["case", "method", *metrics])
        writer.writeheader()
        for row in [*rows, {"case": "mean", **summary}]:
            for method in summary:
                if method in row:
                    writer.writerow({"case": row["case"], "method": method, **row[method]})
    return summary


class MetricsWriter:
    """Write the metrics of an evaluator, case by case, with :func:`write_metrics`.

    A handler for an evaluator whose metrics keep their details (MONAI's do by default). A metric named ``psnr`` belongs
    to ``method``, one named ``zero_filled/psnr`` to the method ``zero_filled``. Several items of one case (its slices)
    are averaged to one line. Works in several processes; rank 0 writes.

    Args:
        output_dir: folder of ``metrics.json`` and ``metrics.csv``.
        method: name of the method that is evaluated, in lower case.
        case_key: key of the case's name in the batch.

    Raises:
        ValueError: after the run, if the number of values of a metric is neither that of the items nor of the cases.

    Example:
        >>> MetricsWriter("eval", method="clgnet").attach(evaluator)
    """

    def __init__(self, output_dir: str | os.PathLike[str], method: str, case_key: str = "case") -> None:
        self.output_dir = output_dir
        self.method = method
        self.case_key = case_key
        self._names: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._remember)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self) -> None:
        self._names = []

    def _remember(self, engine: Engine) -> None:
        batch = engine.state.batch
        if isinstance(batch, Mapping):
            names = batch[self.case_key]
            self._names += [names] if isinstance(names, str) else [str(name) for name in names]
        else:
            self._names += [str(item[self.case_key]) for item in batch]

    def _write(self, engine: Engine) -> None:
        names = string_list_all_gather(self._names)
        order = list(dict.fromkeys(names))
        cases: dict[str, dict[str, Any]] = {name: {"case": name} for name in order}
        for id, details in engine.state.metric_details.items():
            method, _, metric = id.rpartition("/")
            values = torch.as_tensor(details, dtype=torch.float64).cpu().reshape(len(details), -1).mean(dim=1)
            if len(values) not in (len(names), len(order)):
                raise ValueError(
                    f"MetricsWriter: metric '{id}' must have one value per item ({len(names)}) or per case "
                    f"({len(order)}), got {len(values)}"
                )
            owners = names if len(values) == len(names) else order
            for name in order:
                own = [value for value, owner in zip(values.tolist(), owners, strict=True) if owner == name]
                cases[name].setdefault(method or self.method, {})[metric] = sum(own) / len(own)
        if idist.get_rank() == 0:
            write_metrics(self.output_dir, list(cases.values()))


def _clean(case: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(case.get("case"), str):
        raise ValueError(f"write_metrics: each case must have its name under 'case', got {case.get('case')!r}")
    row: dict[str, Any] = {"case": case["case"]}
    for method, metrics in case.items():
        if method == "case":
            continue
        if not isinstance(metrics, Mapping):
            raise ValueError(f"write_metrics: method '{method}' must have a dictionary of metrics, got {metrics!r}")
        row[method] = {name: _finite(value) for name, value in metrics.items()}
    return row


def _finite(value: Any) -> float | None:
    number = math.nan if value is None else float(value)
    return number if math.isfinite(number) else None


def _means(rows: Sequence[Mapping[str, Any]]) -> Summary:
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        for method, metrics in row.items():
            if method != "case":
                for metric, value in metrics.items():
                    known = values.setdefault(method, {}).setdefault(metric, [])
                    if value is not None:
                        known.append(value)
    return {
        method: {metric: sum(known) / len(known) if known else None for metric, known in metrics.items()}
        for method, metrics in values.items()
    }
