"""Training that survives a kill: the whole state after each epoch, loaded when the same run is started again."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from torch import nn

from medkit.workflow.atomic import atomic_path

logger = logging.getLogger(__name__)


class Resume:
    """Save the state of a training after each epoch, and continue from it when the run is started again.

    A handler for the trainer. When training starts and ``<run_dir>/checkpoint.pt`` exists, everything in ``save_dict``,
    the trainer's epoch and iteration, its gradient scaler and the evaluator's best metric are loaded; with
    :class:`SeedEachEpoch` the resumed run is then bit-identical on CPU to one that was never interrupted. A finished
    run that is started again trains no further and says so. Files are replaced atomically, by rank 0 alone:

    ``checkpoint.pt``
        the state after the last saved epoch, of tensors and plain values only;
    ``model.pt``
        the state dict of ``weights`` at the evaluator's best epoch (without an evaluator: at the last saved epoch).

    MONAI's ``CheckpointSaver`` and ``CheckpointLoader`` are not used since they write in place (a kill while writing
    leaves half a file), need to be told whether there is a file, and forget the best metric.

    Args:
        run_dir: folder of this run, usually ``<output_dir>/<run_name>``.
        save_dict: what to save, by name; each has ``state_dict`` and ``load_state_dict``: network, optimizer,
            lr_scheduler, a loss with a state, a :class:`WeightAverage`. Holds ``network`` unless ``weights`` is given.
        evaluator: the validation engine; its ``best_metric`` and ``best_metric_epoch`` are kept.
        weights: the network whose best weights become ``model.pt``; default ``save_dict["network"]``.
        interval: epochs between two checkpoints; the last epoch is always saved.

    Raises:
        ValueError: if an item of ``save_dict`` has no state, no network is given, or ``interval`` is below 1; on start,
            if the checkpoint does not fit what is to be loaded.

    Example:
        >>> handler = Resume("runs/first", {"network": net, "optimizer": optimizer}, evaluator=evaluator)
        >>> handler.attach(trainer)
    """

    def __init__(
        self,
        run_dir: str | os.PathLike[str],
        save_dict: Mapping[str, Any],
        evaluator: Engine | None = None,
        weights: nn.Module | None = None,
        interval: int = 1,
    ) -> None:
        for name, item in save_dict.items():
            if not (hasattr(item, "state_dict") and hasattr(item, "load_state_dict")):
                raise ValueError(
                    f"Resume: 'save_dict' must hold objects with a state_dict, got {type(item).__name__} for '{name}'"
                )
        if weights is None and "network" not in save_dict:
            raise ValueError(f"Resume: 'save_dict' must hold 'network', or give 'weights'; got {sorted(save_dict)}")
        if interval < 1:
            raise ValueError(f"Resume: 'interval' must be at least 1 epoch, got {interval}")
        self.run_dir = Path(run_dir)
        self.save_dict = dict(save_dict)
        self.evaluator = evaluator
        self.weights = save_dict["network"] if weights is None else weights
        self.interval = interval
        self._is_saving = False

    @property
    def checkpoint(self) -> Path:
        """Path of the file that a training continues from."""
        return self.run_dir / "checkpoint.pt"

    @property
    def model(self) -> Path:
        """Path of the best weights."""
        return self.run_dir / "model.pt"

    def attach(self, engine: Engine) -> None:
        """Load when ``engine`` starts, save after its epochs.

        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.STARTED, self._start)

    def _start(self, engine: Engine) -> None:
        if self.checkpoint.is_file():
            self.load(engine)
        if not self._is_saving:
            # Added only now, so that it runs after the handlers that validate and step the learning rate, wherever
            # this handler stands in the list.
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch_completed)
            self._is_saving = True

    def _epoch_completed(self, engine: Engine) -> None:
        if idist.get_rank() != 0:
            return
        epoch = engine.state.epoch
        is_best = self.evaluator is None or self.evaluator.state.best_metric_epoch == epoch
        is_due = epoch % self.interval == 0 or epoch == engine.state.max_epochs
        if is_best and (is_due or self.evaluator is not None):
            _save(_bare(self.weights).state_dict(), self.model)
        if is_due:
            self.save(engine)

    def save(self, engine: Engine) -> None:
        """Write the checkpoint of ``engine`` and of everything in ``save_dict``.

        Args:
            engine: the trainer.
        """
        state: dict[str, Any] = {name: _bare(item).state_dict() for name, item in self.save_dict.items()}
        state["_trainer"] = {"epoch": engine.state.epoch, "iteration": engine.state.iteration}
        if self.evaluator is not None:
            best = self.evaluator.state
            state["_best"] = {"metric": _plain(best.best_metric), "epoch": int(best.best_metric_epoch)}
        scaler = getattr(engine, "scaler_", None)
        if scaler is not None:
            state["_scaler"] = scaler.state_dict()
        _save(state, self.checkpoint)

    def load(self, engine: Engine) -> None:
        """Load the checkpoint into ``engine`` and into everything in ``save_dict``.

        Args:
            engine: the trainer.

        Raises:
            ValueError: if the checkpoint lacks an item, or an item does not fit.
        """
        state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        remedy = f"choose another run_name, or delete {self.run_dir}"
        missing = sorted(set(self.save_dict) - set(state))
        if missing:
            raise ValueError(f"Resume: {self.checkpoint} holds no {missing}: it is of another kind of run; {remedy}")
        for name, item in self.save_dict.items():
            asked = _learning_rates(item)
            try:
                _bare(item).load_state_dict(state[name])
            except (RuntimeError, ValueError, KeyError) as error:
                reason = " ".join(str(error).split())[:200]
                raise ValueError(f"Resume: {self.checkpoint} does not fit '{name}' ({reason}); {remedy}") from error
            if (kept := _learning_rates(item)) != asked and idist.get_rank() == 0:
                logger.warning(f"{self.run_dir}: the run goes on with its learning rate {kept}, not {asked}; {remedy}.")
        engine.state.epoch = state["_trainer"]["epoch"]
        engine.state.iteration = state["_trainer"]["iteration"]
        if self.evaluator is not None and "_best" in state:
            self.evaluator.state.best_metric = state["_best"]["metric"]
            self.evaluator.state.best_metric_epoch = state["_best"]["epoch"]
        if getattr(engine, "scaler_", None) is not None and "_scaler" in state:
            engine.scaler_.load_state_dict(state["_scaler"])
        if idist.get_rank() == 0:
            self._say(engine)
        if engine.state.max_epochs is not None:
            engine.state.epoch = min(engine.state.epoch, engine.state.max_epochs)  # the engine's loop ends at equality

    def _say(self, engine: Engine) -> None:
        epoch, last = engine.state.epoch, engine.state.max_epochs
        if last is not None and epoch >= last:
            logger.info(
                f"{self.run_dir}: this run is finished ({epoch} of {last} epochs), nothing is left to train; "
                "raise max_epochs to train on, or choose another run_name."
            )
        else:
            logger.info(f"{self.run_dir}: resumed after epoch {epoch} of {last}.")


def _bare(item: Any) -> Any:
    """Take the network out of DistributedDataParallel, so that a checkpoint fits any number of processes."""
    return item.module if isinstance(item, (nn.parallel.DistributedDataParallel, nn.DataParallel)) else item


def _learning_rates(item: Any) -> list[float]:
    """Initial learning rate of each group of an optimizer; nothing for other items."""
    groups = getattr(item, "param_groups", [])
    return [float(group.get("initial_lr", group["lr"])) for group in groups]


def _plain(value: Any) -> float:
    return float(value.item()) if hasattr(value, "item") else float(value)


def _save(state: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        torch.save(state, temporary)
