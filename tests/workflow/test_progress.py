"""Tests of the progress bar: seen in a terminal, silent elsewhere."""

from __future__ import annotations

import io
import logging
import sys
import time
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine

from medkit.workflow import ProgressBar, is_shown


class Terminal(io.StringIO):
    """A text stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def run(result: Any, seconds: float = 0.0, **options: Any) -> str:
    def step(engine: Engine, batch: Any) -> Any:
        time.sleep(seconds)
        return result

    engine = Engine(step)
    ProgressBar("train", **options).attach(engine)
    engine.run(range(3), max_epochs=2)
    return sys.stderr.getvalue() if isinstance(sys.stderr, io.StringIO) else ""


@pytest.mark.parametrize(
    ("output", "options"),
    [
        ([{"loss": torch.tensor(0.25)}], {}),
        ({"loss": 0.25}, {}),
        (0.5, {"output": lambda value: value / 2}),
    ],
)
def test_bar_shows_epoch_and_loss(monkeypatch: pytest.MonkeyPatch, output: Any, options: dict[str, Any]) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = run(output, seconds=0.11, **options)  # tqdm draws ten times a second
    assert "train epoch 2/2" in shown
    assert "3/3" in shown
    assert "loss=0.25" in shown


def test_output_without_loss_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert "loss" not in run([{"pred": torch.zeros(3)}]) + run(None) + run([])


def test_nothing_is_shown_outside_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert not is_shown()
    assert run({"loss": 1.0}) == ""


def test_nothing_is_shown_on_other_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setattr(idist, "get_rank", lambda: 1)
    assert run({"loss": 1.0}) == ""


def test_logging_is_given_back_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    before = list(logging.root.handlers)
    engine = Engine(lambda engine, batch: engine.terminate())
    ProgressBar().attach(engine)
    engine.run(range(3))
    assert logging.root.handlers == before
