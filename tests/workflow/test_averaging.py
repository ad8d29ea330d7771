"""Tests of averaged weights against the formula."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine

from medkit.workflow import WeightAverage


def test_average_follows_the_formula() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(network, decay=0.75)
    engine = Engine(lambda engine, batch: torch.nn.init.constant_(network.weight, batch))
    average.attach(engine)
    engine.run([8.0, 4.0, 0.0])
    assert average.network.weight.item() == pytest.approx(0.75 * (0.75 * 8 + 0.25 * 4))  # type: ignore[union-attr]
    assert network.weight.item() == 0


def test_buffers_are_copied() -> None:
    network = torch.nn.BatchNorm1d(2)
    average = WeightAverage(network)
    network.running_mean = torch.ones(2)
    average.update()
    assert torch.equal(average.network.running_mean, torch.ones(2))  # type: ignore[arg-type]


def test_state_continues() -> None:
    network = torch.nn.Linear(1, 1)
    first, second = WeightAverage(network, 0.5), WeightAverage(network, 0.5)
    first.update()
    second.load_state_dict(first.state_dict())
    torch.nn.init.constant_(network.weight, 5.0)
    for average in (first, second):
        average.update()
    assert torch.equal(first.network.weight, second.network.weight)  # type: ignore[arg-type]
    assert not torch.equal(first.network.weight, network.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_wrong_decay_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=r"WeightAverage: 'decay' must be in \[0, 1\)"):
        WeightAverage(torch.nn.Linear(1, 1), decay)
