"""Which distillation helps a small classifier? Eight methods, two tasks, several seeds, equal budgets and equal tuning.

The protocol beside this file says what is run; each run is a training of a bundle with its overlays and one line of the
CSV file. A sweep that was stopped goes on where it was, also in the middle of a run:

    python -m tests.benchmarks.distillation --output rows.csv            # train what is missing, then print the table
    python -m tests.benchmarks.distillation --output rows.csv --minutes 20 --task artefacts
    python -m tests.benchmarks.distillation --output rows.csv --table    # only print what there is
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from torch import Tensor, nn

from medkit.distill import class_names, classification_metrics, image_list
from tests.benchmarks.distillation_table import print_table
from tests.bundle_runs import ROOT, configs
from tests.conftest import real_data_folder

PROTOCOL = Path(__file__).with_suffix(".json")
logger = logging.getLogger("distillation")


@dataclass(frozen=True)
class Run:
    """One training to do.

    Args:
        task: name of the task.
        method: name of the method, or ``teacher``.
        trial: which of the method's trials; -1 for the teacher.
        seed: of the training.
        stage: ``teacher``, ``tune`` or ``final``.
    """

    task: str
    method: str
    trial: int
    seed: int
    stage: str

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.task}_{self.method}_{self.trial}_{self.seed}"


@dataclass(frozen=True)
class Row:
    """One line of the CSV file: accuracies are of the epoch named, seconds of training without validation."""

    protocol: str
    task: str
    method: str
    trial: int
    seed: int
    stage: str
    epochs: int
    val_last: float
    val_best: float
    best_epoch: int
    test_last: float
    test_best: float
    test_auc: float
    test_ece: float
    seconds: float
    cpu_ms_per_step: float
    parameters: int
    threads: int


def fingerprint(protocol: dict[str, Any]) -> str:
    """Return a hash of a protocol: rows of different ones do not mix."""
    return hashlib.sha256(json.dumps(protocol, sort_keys=True).encode()).hexdigest()[:8]


def read_rows(path: Path) -> list[Row]:
    """Return the rows that there are."""
    if not path.is_file():
        return []
    kinds = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Row)}
    with path.open(newline="", encoding="utf-8") as file:
        return [Row(**{name: kinds[name](value) for name, value in row.items()}) for row in csv.DictReader(file)]


def add_row(path: Path, row: Row) -> None:
    """Append a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.is_file()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        if is_new:
            writer.writeheader()
        writer.writerow(asdict(row))


def missing_runs(protocol: dict[str, Any], rows: list[Row], task: str | None = None) -> Iterator[Run]:
    """Yield what is still to be run, the teacher first, then the trials, then the best of them with other seeds.

    Args:
        protocol: what is to be run.
        rows: what was run; may grow while this is read.
        task: only this one.
    """
    for name, options in protocol["tasks"].items():
        if task not in (None, name):
            continue
        plan = [Run(name, "teacher", -1, options["teacher"]["seed"], "teacher")] if _has_teacher_run(options) else []
        for method, own in protocol["methods"].items():
            for trial in range(len(own["trials"])):
                plan += [Run(name, method, trial, seed, "tune") for seed in protocol["tuning_seeds"]]
        yield from (run for run in plan if not _is_done(rows, run))
        for method in protocol["methods"]:
            trial = best_trial(rows, name, method)
            for seed in protocol["seeds"]:
                run = Run(name, method, trial, seed, "final")
                if not _is_done(rows, run):
                    yield run


def best_trial(rows: list[Row], task: str, method: str) -> int:
    """Return the trial whose last epoch is best on validation, mean over the tuning seeds; of equals the first."""
    values: dict[int, list[float]] = {}
    for row in rows:
        if (row.task, row.method, row.stage) == (task, method, "tune"):
            values.setdefault(row.trial, []).append(row.val_last)
    return max(sorted(values), key=lambda trial: sum(values[trial]) / len(values[trial]))


def carry_out(protocol: dict[str, Any], run: Run, folder: Path) -> Row:
    """Train, test, and return the row.

    Args:
        protocol: what is to be run.
        run: which of it.
        folder: where runs leave their checkpoints.
    """
    parser = _config(protocol, run, folder)
    set_determinism(seed=run.seed)
    trainer = parser.get_parsed_content("train#trainer")
    network, evaluator = parser.get_parsed_content("network"), parser.get_parsed_content("validate#evaluator")
    clock = _Clock(trainer)
    started = time.perf_counter()
    trainer.run()
    seconds = time.perf_counter() - started
    images, labels = _test_set(parser)
    last = classification_metrics(_said(network, images), labels)
    network.load_state_dict(torch.load(folder / run.name / "model.pt", weights_only=True))
    best = classification_metrics(_said(network, images), labels)
    return Row(
        protocol=fingerprint(protocol),
        **asdict(run),
        epochs=trainer.state.max_epochs,
        val_last=round(float(evaluator.state.metrics["accuracy"]), 5),
        val_best=round(float(evaluator.state.best_metric), 5),
        best_epoch=evaluator.state.best_metric_epoch,
        test_last=round(last["accuracy"], 5),
        test_best=round(best["accuracy"], 5),
        test_auc=round(last["auc"], 5),
        test_ece=round(last["ece"], 5),
        seconds=round(seconds, 1),
        cpu_ms_per_step=round(1000 * clock.per_step, 2),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        threads=torch.get_num_threads(),
    )


class _Clock:
    """Processor seconds of the steps of a training: its data, both networks, loss and backward, not its validation."""

    def __init__(self, trainer: Engine) -> None:
        self.epochs: list[float] = []
        self._start = self._end = 0.0
        self._steps = 0
        trainer.add_event_handler(Events.EPOCH_STARTED, self._open)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self._step)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self._close)

    def _open(self) -> None:
        self._start, self._steps = time.process_time(), 0

    def _step(self) -> None:
        self._end, self._steps = time.process_time(), self._steps + 1

    def _close(self) -> None:
        self.epochs.append((self._end - self._start) / max(1, self._steps))

    @property
    def per_step(self) -> float:
        """Mean over the epochs; nan where nothing was trained."""
        return sum(self.epochs) / len(self.epochs) if self.epochs else float("nan")


def _config(protocol: dict[str, Any], run: Run, folder: Path) -> ConfigParser:
    """The bundle's configuration with the method's overlays and this run's values."""
    task = protocol["tasks"][run.task]
    own = {"bundle": "unikd", "overlays": ["teacher"], "trials": []} if run.stage == "teacher" else None
    own = own or protocol["methods"][run.method]
    parser = ConfigParser()
    bundle = ROOT / "bundles" / own["bundle"]
    parser.read_config(configs(bundle, "train", *own["overlays"]))
    values = {**protocol["common"], **task["overrides"]}
    values |= {"bundle_root": str(bundle), "output_dir": str(folder), "run_name": run.name, "seed": run.seed}
    values |= {"dataset_dir": dataset_of(task), "device": "$torch.device('cpu')"}
    if run.stage == "teacher":
        values |= {key: value for key, value in task["teacher"].items() if key != "seed"}
    else:
        if _has_teacher_run(task):
            teacher = Run(run.task, "teacher", -1, task["teacher"]["seed"], "teacher")
            values["teacher_path"] = str(folder / teacher.name / "model.pt")
        elif task["teacher"] is None:
            values["teacher_path"] = None
        values |= own["trials"][run.trial]
    for key, value in values.items():
        parser[key] = value
    for handler in parser["train"]["handlers"]:  # the teacher is looked at once, in its own row
        if handler["_target_"].endswith("DistillationHandler"):
            handler["evaluator"] = None
    quiet = ("PreviewClassification", "TensorBoardStatsHandler", "StatsHandler")
    for part in ("train", "validate"):
        kept = [h for h in parser[part]["handlers"] if part == "train" or not h["_target_"].endswith(quiet)]
        parser[part]["handlers"] = kept
    for handler in parser["train"]["handlers"]:
        if handler["_target_"].endswith(quiet):
            handler["_disabled_"] = True
    return parser


def dataset_of(task: dict[str, Any]) -> str | None:
    """Return the path of a task's data; a path that is not absolute is seen from the folder of real images."""
    return None if task["dataset"] is None else str(real_data_folder() / task["dataset"])


def _test_set(parser: ConfigParser) -> tuple[Tensor, Tensor]:
    """The pictures and labels of the test split, as the evaluation of the bundle reads them."""
    test = ConfigParser()
    test.read_config([*configs(Path(parser["bundle_root"]), "train", "evaluate")])
    test.update({key: parser[key] for key in ("bundle_root", "dataset_dir", "image_size", "spacing", "data_seed")})
    for key, own in (("n_test_subjects", "n_val_subjects"), ("n_test_per_class", "n_val_per_class")):
        if parser["spacing"] != ConfigParser.load_config_file(configs(ROOT / "bundles/unikd", "train")[0])["spacing"]:
            test[key] = parser[own]  # a small protocol has a small test set, too
    slices = test.get_parsed_content("val_slices") if test["dataset_dir"] is None else None
    items = image_list(test["dataset_dir"], "test", slices, class_names(test["dataset_dir"]))
    transform = test.get_parsed_content("validate#preprocessing")
    images = torch.stack([torch.as_tensor(transform(item)["image"]) for item in items])
    return images, torch.tensor([item["label"] for item in items])


def _said(network: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([network.eval()(part) for part in images.split(128)])


def _has_teacher_run(task: dict[str, Any]) -> bool:
    return isinstance(task["teacher"], dict)


def _is_done(rows: list[Row], run: Run) -> bool:
    wanted = (run.task, run.method, run.trial, run.seed)
    return any((row.task, row.method, row.trial, row.seed) == wanted for row in rows)


def sweep(protocol: dict[str, Any], output: Path, task: str | None = None, minutes: float | None = None) -> list[Row]:
    """Run what is missing, row by row.

    Args:
        protocol: what is to be run.
        output: the CSV file; checkpoints lie beside it in ``<name>_runs``.
        task: only this one.
        minutes: start no run after so many; one is run always.

    Returns:
        All rows.

    Raises:
        ValueError: if the file holds rows of another protocol, or the task is unknown.
    """
    rows = read_rows(output)
    if task is not None and task not in protocol["tasks"]:
        raise ValueError(f"sweep: 'task' must be one of {list(protocol['tasks'])}, got {task!r}")
    if strangers := {row.protocol for row in rows} - {fingerprint(protocol)}:
        raise ValueError(f"sweep: {output} holds rows of another protocol, {sorted(strangers)}; choose another file")
    started = time.monotonic()
    n_before = len(rows)
    for run in missing_runs(protocol, rows, task):
        if minutes is not None and len(rows) > n_before and time.monotonic() - started > 60 * minutes:
            break
        row = carry_out(protocol, run, output.with_name(f"{output.stem}_runs"))
        rows.append(row)
        add_row(output, row)
        logger.warning(f"{run.name}: test {row.test_last:.4f} (best {row.test_best:.4f}) in {row.seconds:.0f} s")
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Run the sweep and print the table."""
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="the CSV file, made or continued")
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    parser.add_argument("--task", help="only this one")
    parser.add_argument("--minutes", type=float, help="start no run after so many")
    parser.add_argument("--table", action="store_true", help="only print the table")
    options = parser.parse_args(arguments)
    protocol = json.loads(options.protocol.read_text(encoding="utf-8"))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    rows = (
        read_rows(options.output) if options.table else sweep(protocol, options.output, options.task, options.minutes)
    )
    print_table(protocol, rows, sys.stdout)


if __name__ == "__main__":
    main()
