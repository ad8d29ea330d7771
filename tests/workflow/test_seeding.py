"""Tests of the seeds of an epoch: they depend on seed, epoch and rank, and on nothing else."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader, Dataset
from monai.transforms import Compose, Lambda, RandLambda, RandShiftIntensity

from medkit.workflow import SeedEachEpoch, epoch_seed


def draws_of_epochs(
    seed: int, max_epochs: int = 3, num_workers: int = 0, disturbance: int = 0, start: int = 0, **options: Any
) -> list[Any]:
    """Return what each epoch draws from everything that can be drawn from."""
    transform = Compose([RandShiftIntensity(10.0, prob=0.5), RandLambda(torch.clone, prob=0.5)])
    loader = DataLoader(Dataset(list(torch.arange(6.0)[:, None]), transform), shuffle=True, num_workers=num_workers)
    epochs: list[Any] = []

    def step(engine: Engine, batch: torch.Tensor) -> None:
        drawn = (batch.item(), torch.rand(()).item(), np.random.rand(), random.random())  # noqa: NPY002
        epochs[-1].append(drawn)
        torch.rand(disturbance)

    engine = Engine(step)
    SeedEachEpoch(seed, **options).attach(engine)
    engine.add_event_handler(Events.EPOCH_STARTED, lambda: epochs.append([]))
    engine.add_event_handler(Events.STARTED, lambda engine: setattr(engine.state, "epoch", start))
    np.random.seed(disturbance)  # noqa: NPY002
    engine.run(loader, max_epochs=max_epochs)
    return epochs


@pytest.mark.parametrize("num_workers", [0, 1])
def test_epoch_is_replayed_whatever_came_before(num_workers: int) -> None:
    whole = draws_of_epochs(3, num_workers=num_workers)
    assert draws_of_epochs(3, num_workers=num_workers, start=2) == whole[2:]
    if num_workers == 0:
        assert [epoch[0] for epoch in draws_of_epochs(3, disturbance=5)] == [epoch[0] for epoch in whole]


def test_epochs_and_seeds_differ() -> None:
    first, second, third = draws_of_epochs(3)
    assert first != second != third
    assert draws_of_epochs(4)[0] != first


def test_short_epochs_start_the_data_anew() -> None:
    loader = DataLoader(Dataset(list(range(9)), Lambda(lambda x: x)), batch_size=1)
    seen: list[int] = []
    engine = Engine(lambda engine, batch: seen.append(int(batch)))
    SeedEachEpoch(0).attach(engine)
    engine.run(loader, max_epochs=2, epoch_length=2)
    assert seen == [0, 1, 0, 1]


def test_own_generator_of_the_loader_is_seeded() -> None:
    orders: list[list[int]] = []
    for _ in range(2):
        generator = torch.Generator().manual_seed(len(orders))
        loader = torch.utils.data.DataLoader(range(20), shuffle=True, generator=generator)  # type: ignore[arg-type]
        order: list[int] = []
        engine = Engine(lambda engine, batch, order=order: order.append(int(batch)))
        SeedEachEpoch(0).attach(engine)
        engine.run(loader, max_epochs=2)
        orders.append(order)
    assert orders[0] == orders[1]
    assert orders[0][:20] != orders[0][20:]


def test_given_dataset_is_seeded() -> None:
    transform = RandShiftIntensity(10.0, prob=1.0)
    values = []
    for _ in range(2):
        engine = Engine(lambda engine, batch: values.append(float(transform(torch.zeros(1)))))
        SeedEachEpoch(0, dataset=Dataset([0], transform)).attach(engine)
        engine.run([0], max_epochs=1)
    assert values[0] == values[1] != 0


def test_epoch_seed_has_no_collisions_nearby() -> None:
    seeds = {epoch_seed(seed, epoch, rank) for seed in range(10) for epoch in range(1, 11) for rank in range(10)}
    assert len(seeds) == 1000
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_persistent_workers_are_refused() -> None:
    loader = DataLoader(Dataset([0]), num_workers=1, persistent_workers=True)
    engine = Engine(lambda engine, batch: None)
    SeedEachEpoch(0).attach(engine)
    with pytest.raises(ValueError, match="must have persistent_workers=False"):
        engine.run(loader)


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True, None])
def test_wrong_seed_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="SeedEachEpoch: 'seed' must be a whole number"):
        SeedEachEpoch(seed)
