"""Progress of an engine as a bar in the terminal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import ExitStack
from numbers import Real
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


class ProgressBar:
    """Show iterations of an engine as a tqdm bar, one per epoch, with the loss beside it.

    A handler for trainers and evaluators. Appears only when standard error is a terminal, and on rank 0 alone; log
    lines are printed above it.

    Args:
        description: word in front of the bar; the number of the epoch follows when there are several.
        output: takes the engine's output and returns a number to show as ``loss``; default the ``loss`` of MONAI's
            output, where there is one.

    Example:
        >>> ProgressBar("train").attach(trainer)
    """

    def __init__(self, description: str = "", output: Callable[[Any], Any] | None = None) -> None:
        self.description = description
        self.output = _monai_loss if output is None else output
        self._bar: tqdm | None = None
        self._redirected = ExitStack()

    def attach(self, engine: Engine) -> None:
        """Follow ``engine``.

        Args:
            engine: trainer or evaluator.
        """
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._close)
        engine.add_event_handler(Events.TERMINATE, self._close)

    def _open(self, engine: Engine) -> None:
        self._close(engine)
        if not is_shown():
            return
        state = engine.state
        epoch = f" epoch {state.epoch}/{state.max_epochs}" if (state.max_epochs or 1) > 1 else ""
        self._redirected.enter_context(logging_redirect_tqdm([logging.root]))
        self._bar = tqdm(total=state.epoch_length, desc=(self.description + epoch).strip(), leave=False)

    def _advance(self, engine: Engine) -> None:
        if self._bar is None:
            return
        loss = self.output(engine.state.output)
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            loss = loss.item()
        if isinstance(loss, Real):
            self._bar.set_postfix(loss=f"{float(loss):.4g}", refresh=False)
        self._bar.update()

    def _close(self, engine: Engine) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
            self._redirected.close()


def is_shown() -> bool:
    """Return whether bars are shown: standard error is a terminal, and this is rank 0.

    Example:
        >>> for case in tqdm(cases, disable=not is_shown()): ...
    """
    return idist.get_rank() == 0 and sys.stderr is not None and sys.stderr.isatty()


def _monai_loss(output: Any) -> Any:
    first = output[0] if isinstance(output, (list, tuple)) and output else output
    return first.get("loss") if isinstance(first, dict) else None
