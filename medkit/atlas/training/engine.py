"""Handlers for MONAI's engines that train and evaluate priors: clipped gradients, pictures, metrics on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.engines import IterationEvents
from torch import Tensor, nn

from medkit.atlas.training.energies import PairProblem, SymmetricPairEnergy, pair_problem
from medkit.atlas.training.figures import draw_pair
from medkit.data.keys import CASE, IMAGE, PRED, SEG_FIXED, SEG_MOVING
from medkit.ops import folding, warp
from medkit.workflow import write_metrics


class ClipGradients:
    """Scale the gradients down where their norm is above a bound, before each step of the optimizer.

    A handler for MONAI's trainer.

    Args:
        network: whose gradients.
        max_norm: the bound, positive.

    Raises:
        ValueError: if the bound is not positive.

    Example:
        >>> ClipGradients(net, 1.0).attach(trainer)
    """

    def __init__(self, network: nn.Module, max_norm: float = 1.0) -> None:
        if not max_norm > 0:
            raise ValueError(f"ClipGradients: 'max_norm' must be positive, got {max_norm}")
        self.network, self.max_norm = network, max_norm

    def attach(self, engine: Engine) -> None:
        """Clip in each iteration of ``engine``.

        Args:
            engine: the trainer.
        """
        engine.add_event_handler(IterationEvents.BACKWARD_COMPLETED, self._clip)

    def _clip(self, engine: Engine) -> None:
        scaler = getattr(engine, "scaler_", None)
        if scaler is not None:
            scaler.unscale_(engine.optimizer)
        nn.utils.clip_grad_norm_(self.network.parameters(), self.max_norm)


def _problem(energy: SymmetricPairEnergy, pred: Tensor, image: Tensor) -> PairProblem:
    return pair_problem(pred[None].float(), image[None].float(), energy.model, energy.spacing)


class PreviewPairs:
    """Draw the first pair of each validation: ``<run_dir>/previews/epoch_0001.png`` and the newest as ``preview.png``.

    A handler for the validation engine of a training.

    Args:
        run_dir: folder of the run.
        energy: the loss, which knows what a velocity does.

    Example:
        >>> PreviewPairs("runs/first", SymmetricPairEnergy()).attach(evaluator)
    """

    def __init__(self, run_dir: str | os.PathLike[str], energy: SymmetricPairEnergy) -> None:
        self.run_dir, self.energy = Path(run_dir), energy

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._draw)

    @torch.no_grad()
    def _draw(self, engine: Engine) -> None:
        # MONAI's evaluator counts iterations from 1 in each validation, and its epoch is the trainer's.
        if engine.state.iteration != 1 or idist.get_rank() != 0:
            return
        sample, output = engine.state.batch[0], engine.state.output[0]
        problem = _problem(self.energy, output[PRED], sample[IMAGE])
        epoch = engine.state.epoch
        for name in (f"previews/epoch_{epoch:04d}.png", "preview.png"):
            _draw(self.run_dir / name, problem, f"{sample.get(CASE, '')}, epoch {epoch}")


def _draw(path: Path, problem: PairProblem, title: str) -> None:
    fixed, moving = problem.there.template, problem.there.subject
    draw_pair(path, fixed[0, 0], moving[0, 0], warp(moving, problem.forward)[0, 0], title)


class SavePairs:
    """Write ``metrics.json``, ``metrics.csv`` and pictures of pairs that a prior was asked about.

    A handler for an evaluator. Of each pair and of the methods ``prior`` and ``no_motion``: ``relative_energy``, the
    energy as a part of that with no motion; ``ssd_ratio``, the squared difference as a part of that with no motion;
    ``folded``, the share of voxels where the map folds; where there are labels ``dice``, of the moving image's labels,
    carried over, with the fixed one's, mean over the fixed one's labels but 0.

    Args:
        output_dir: folder to write to.
        energy: the loss, which knows what a velocity does.
        n_pictures: of so many first pairs, ``<case>.png``.
        method: name of the prior in the tables.

    Example:
        >>> SavePairs("evaluate", SymmetricPairEnergy()).attach(evaluator)
    """

    def __init__(
        self,
        output_dir: str | os.PathLike[str],
        energy: SymmetricPairEnergy,
        n_pictures: int = 3,
        method: str = "prior",
    ) -> None:
        self.output_dir, self.energy = Path(output_dir), energy
        self.n_pictures, self.method = n_pictures, method
        self._cases: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``.

        Args:
            engine: the evaluator.
        """
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add)
        engine.add_event_handler(Events.COMPLETED, self._write)

    def _start(self) -> None:
        self._cases = []

    @torch.no_grad()
    def _add(self, engine: Engine) -> None:
        for sample, output in zip(engine.state.batch, engine.state.output, strict=True):
            problem = _problem(self.energy, output[PRED], sample[IMAGE])
            case = str(sample[CASE])
            if len(self._cases) < self.n_pictures:
                _draw(self.output_dir / f"{case}.png", problem, case)
            self._cases.append(
                {
                    CASE: case,
                    "no_motion": _measured(problem, torch.zeros_like(problem.velocity), sample),
                    self.method: _measured(problem, problem.velocity, sample),
                }
            )

    def _write(self) -> None:
        write_metrics(self.output_dir, self._cases)


def _measured(problem: PairProblem, velocity: Tensor, sample: Any) -> dict[str, float]:
    fixed, moving = problem.there.template, problem.there.subject
    field = problem.there.displacement(velocity)
    still = float(problem.energies(torch.zeros_like(velocity)))
    rest = float((moving - fixed).square().sum())
    found = {
        "relative_energy": float(problem.energies(velocity)) / still if still else 1.0,
        "ssd_ratio": float((warp(moving, field) - fixed).square().sum()) / rest if rest else 1.0,
        "folded": folding(field).fraction,
    }
    if SEG_MOVING in sample and SEG_FIXED in sample:
        labels = sample[SEG_MOVING][None].to(field.device)
        carried = warp(labels, field, mode="nearest")
        found["dice"] = mean_dice(carried[0], sample[SEG_FIXED].to(field.device))
    return found


def mean_dice(labels: Tensor, reference: Tensor) -> float:
    """Mean overlap of the labels of ``reference`` but 0, 0 to 1; NaN where it has none.

    Args:
        labels: whole numbers, any shape.
        reference: the same.

    Example:
        >>> mean_dice(torch.tensor([0, 1, 1, 2]), torch.tensor([0, 1, 2, 2]))
        0.6666666865348816
    """
    values = [value for value in reference.unique().tolist() if value]
    scores = []
    for value in values:
        a, b = labels == value, reference == value
        scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(torch.stack(scores).mean()) if scores else float("nan")
