"""What MONAI's engines lack for classifiers: a table of probabilities, metrics of the whole, and pictures."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor, nn

from medkit.data.keys import CASE, IMAGE, LABEL, PRED
from medkit.distill.figures import draw_confusion, draw_contact_sheet
from medkit.distill.metrics import class_probabilities, classification_metrics, is_correct
from medkit.workflow import atomic_path, write_metrics

N_DRAWN = 40  # pictures on a contact sheet


class SaveClassification:
    """Write what a classifier says: ``predictions.csv``, ``preview.png``, and where labels are known its metrics.

    A handler for an evaluator with decollated batches: each sample has ``case`` and ``image``, where it is known
    ``label``, and the output ``pred``, logits ``(C,)``. ``predictions.csv`` has a line for each case: the true class
    where it is known, the predicted one, its probability, and the probability of each class. ``preview.png`` shows
    40 pictures, evenly out of all. With labels there are ``metrics.json``, ``metrics.csv`` and, of one class at a time,
    ``confusion_<method>.png``: of each case ``accuracy`` (1 or 0) and ``likelihood`` (the probability of the true
    class), and of all together those of :func:`classification_metrics`. All files are replaced atomically at the end.

    Args:
        output_dir: folder to write to; made when missing.
        method: name of the method, in lower case.
        classes: their names.
        others: name and network of further methods that are measured on the same pictures, such as the teacher;
            ``None`` is left out.
        is_multilabel: whether several classes may hold at a time.

    Raises:
        ValueError: if ``method`` is empty or ``"case"``; in the run, if the network has another number of classes.

    Example:
        >>> SaveClassification("results", "unikd", ["healthy", "ill"]).attach(evaluator)
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        method: str,
        classes: Sequence[str],
        others: Mapping[str, nn.Module | None] | None = None,
        is_multilabel: bool = False,
    ) -> None:
        if method in ("", CASE) or method in (others or {}):
            raise ValueError(
                f"SaveClassification: 'method' must be a name, not {CASE!r} and none of 'others', got {method!r}"
            )
        self.output_dir, self.method, self.classes = Path(output_dir), method, list(classes)
        self.others = {name: network for name, network in (others or {}).items() if network is not None}
        self.is_multilabel = is_multilabel
        self._clear()

    def _clear(self) -> None:
        self._cases: list[str] = []
        self._images: list[np.ndarray] = []
        self._labels: list[Tensor | None] = []
        self._logits: dict[str, list[Tensor]] = {self.method: [], **{name: [] for name in self.others}}

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _collect(self, engine: Engine) -> None:
        for sample, output in zip(engine.state.batch, engine.state.output, strict=True):
            logits = output[PRED].detach().float().cpu().reshape(-1)
            if len(logits) != len(self.classes):
                raise ValueError(
                    f"SaveClassification: the network has {len(logits)} classes, 'classes' has {len(self.classes)}; "
                    "name the classes that it was trained for"
                )
            self._cases.append(str(sample[CASE]))
            # Eight bits, since they are kept until the end.
            self._images.append((255 * sample[IMAGE].detach().float().cpu().clamp(0, 1)).byte().numpy())
            self._labels.append(torch.as_tensor(sample[LABEL]).cpu() if LABEL in sample else None)
            self._logits[self.method].append(logits)
        if self.others:
            image = torch.stack([torch.as_tensor(sample[IMAGE]) for sample in engine.state.batch])
            for name, network in self.others.items():
                with torch.no_grad():
                    said = network.eval()(image.to(engine.state.device))
                self._logits[name] += list(said.float().cpu())

    def _write(self, engine: Engine) -> None:
        if not self._cases or idist.get_rank() != 0:
            return
        if all(label is not None for label in self._labels):
            self._write_metrics(torch.stack([label for label in self._labels if label is not None]))
        self._write_table()
        draw_predictions(
            self.output_dir / "preview.png",
            [image.astype(np.float32) / 255 for image in self._images],
            self._logits[self.method],
            self._labels,
            self.classes,
            self.is_multilabel,
        )
        self._clear()

    def _write_metrics(self, label: Tensor) -> None:
        rows: list[dict[str, Any]] = [{"case": case} for case in self._cases]
        together = {}
        for method, logits in self._logits.items():
            stacked = torch.stack(logits)
            together[method] = classification_metrics(stacked, label)
            right, probabilities = is_correct(stacked, label), class_probabilities(stacked, self.is_multilabel)
            for i, row in enumerate(rows):
                row[method] = {"accuracy": float(right[i])}
                if not self.is_multilabel:
                    row[method]["likelihood"] = float(probabilities[i, int(label[i])])
            if not self.is_multilabel:
                draw_confusion(
                    self.output_dir / f"confusion_{method}.png",
                    label.reshape(-1).tolist(),
                    stacked.argmax(dim=1).tolist(),
                    self.classes,
                    f"{method}: accuracy {together[method]['accuracy']:.3f}, {len(rows)} pictures",
                )
        write_metrics(self.output_dir, rows, together)

    def _write_table(self) -> None:
        path = self.output_dir / "predictions.csv"
        is_known = all(label is not None for label in self._labels)
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["case", *(["label"] if is_known else []), "predicted", "probability", *self.classes])
            for case, label, logits in zip(self._cases, self._labels, self._logits[self.method], strict=True):
                probabilities = class_probabilities(logits[None], self.is_multilabel)[0]
                chosen = _chosen(probabilities, self.is_multilabel)
                truth = [] if label is None or not is_known else ["|".join(self.classes[k] for k in _true(label))]
                names = "|".join(self.classes[k] for k in chosen)
                numbers = [f"{float(p):.4f}" for p in (probabilities.max(), *probabilities)]
                writer.writerow([case, *truth, names, *numbers])


class PreviewClassification:
    """Draw the first batch of each validation: ``<run_dir>/previews/epoch_0001.png``, the newest as ``preview.png``.

    A handler for the validation engine of a training.

    Args:
        run_dir: folder of the run.
        classes: names of the classes.
        is_multilabel: whether several classes may hold at a time.

    Example:
        >>> PreviewClassification("runs/first", ["healthy", "ill"]).attach(evaluator)
    """

    def __init__(self, run_dir: str | os.PathLike[str], classes: Sequence[str], is_multilabel: bool = False) -> None:
        self.run_dir, self.classes, self.is_multilabel = Path(run_dir), list(classes), is_multilabel

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    def _draw(self, engine: Engine) -> None:
        # MONAI's evaluator counts iterations from 1 in each validation, and its epoch is the trainer's.
        if engine.state.iteration != 1 or idist.get_rank() != 0:
            return
        samples, outputs = engine.state.batch, engine.state.output
        newest = self.run_dir / "preview.png"
        draw_predictions(
            newest,
            [sample[IMAGE].detach().float().cpu().numpy() for sample in samples],
            [output[PRED].detach().float().cpu() for output in outputs],
            [torch.as_tensor(sample[LABEL]).cpu() for sample in samples],
            self.classes,
            self.is_multilabel,
            f"epoch {engine.state.epoch}",
        )
        with atomic_path(self.run_dir / "previews" / f"epoch_{engine.state.epoch:04d}.png") as temporary:
            shutil.copyfile(newest, temporary)


def draw_predictions(
    path: Path,
    images: Sequence[np.ndarray],
    logits: Sequence[Tensor],
    labels: Sequence[Tensor | None],
    classes: Sequence[str],
    is_multilabel: bool = False,
    title: str = "",
) -> None:
    """Write a contact sheet of at most 40 pictures with what was said of them, and where that is wrong, the truth.

    Args:
        path: the PNG.
        images: ``(C, H, W)``, 0 to 1.
        logits: ``(n_classes,)`` each.
        labels: number of the class, or 0 and 1 ``(n_classes,)``; or ``None``.
        classes: names.
        is_multilabel: whether several classes may hold at a time.
        title: text above.
    """
    picked = np.unique(np.linspace(0, len(images) - 1, min(N_DRAWN, len(images))).round().astype(int))
    notes: list[str] = []
    right: list[bool | None] = []
    for i in picked:
        probabilities = class_probabilities(logits[i][None], is_multilabel)[0]
        chosen, label = _chosen(probabilities, is_multilabel), labels[i]
        truth = None if label is None else list(_true(label))
        said = ", ".join(classes[k] for k in chosen) or "none"
        note = f"{said} {100 * float(probabilities.max()):.0f} %"
        if truth is not None and truth != chosen:
            note += "\nis " + (", ".join(classes[k] for k in truth) or "none")
        notes.append(note)
        right.append(None if truth is None else truth == chosen)
    draw_contact_sheet(path, [images[i] for i in picked], notes, right, title)


def _chosen(probabilities: Tensor, is_multilabel: bool) -> list[int]:
    if is_multilabel:
        return [int(k) for k in (probabilities > 0.5).nonzero()[:, 0]]
    return [int(probabilities.argmax())]


def _true(label: Tensor) -> Iterator[int]:
    if label.ndim == 0 or (label.numel() == 1 and not label.is_floating_point()):
        yield int(label)
    else:
        yield from (int(k) for k in (label > 0.5).nonzero()[:, 0])
