"""Tests of the samples of an epoch: the same however many processes and workers share them."""

from __future__ import annotations

import ignite.distributed as idist
import pytest
import torch
from ignite.engine import Engine
from monai.data import DataLoader
from monai.transforms import Compose, RandScaleIntensity, RandShiftIntensity

from medkit.workflow import EpochSampler, SeedEachEpoch, SeededDataset


def epoch(n: int = 7, epoch: int = 1, **options: int) -> list[tuple[int, int]]:
    """Return what a sampler of ``n`` items draws in an epoch."""
    sampler = EpochSampler(range(n), **options)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_nothing_is_drawn_twice_before_all_was_drawn() -> None:
    indices = [index for index, _ in epoch(7, num_samples=17)]
    assert len(indices) == 17
    assert sorted(indices[:7]) == sorted(indices[7:14]) == list(range(7))
    assert len(set(indices[14:])) == 3


def test_every_sample_has_its_own_seed() -> None:
    seeds = [seed for e in (1, 2) for _, seed in epoch(500, epoch=e)]
    assert len(set(seeds)) == 1000


def test_epochs_and_seeds_differ_and_repeat() -> None:
    assert epoch() == epoch()
    assert epoch() != epoch(epoch=2)
    assert epoch() != epoch(seed=1)


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_each_batch_of_one_process(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = epoch(10, num_samples=14)
    monkeypatch.setattr(idist, "get_world_size", lambda: world)
    parts = []
    for rank in range(world):
        monkeypatch.setattr(idist, "get_rank", lambda rank=rank: rank)
        parts.append(epoch(10, num_samples=14))
        assert len(parts[-1]) == len(EpochSampler(range(10), 14)) == 14 // world
    batch = 2
    for step in range(14 // world // batch):
        together = [sample for part in parts for sample in part[step * batch : (step + 1) * batch]]
        assert sorted(together) == sorted(whole[step * batch * world : (step + 1) * batch * world])


def test_random_transforms_follow_the_sample_not_the_worker() -> None:
    def seen(num_workers: int, batch_size: int) -> list[torch.Tensor]:
        transform = Compose([RandShiftIntensity(1.0, prob=0.7), RandScaleIntensity(1.0, prob=0.7)])
        dataset = SeededDataset(list(torch.arange(1.0, 7.0)[:, None]), transform)
        sampler = EpochSampler(dataset, num_samples=12)
        loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler, num_workers=num_workers)
        values: list[torch.Tensor] = []
        engine = Engine(lambda engine, batch: values.append(batch))
        SeedEachEpoch(0).attach(engine)
        engine.run(loader, max_epochs=2)
        return list(torch.cat(values).flatten())

    alone = seen(0, 1)
    assert len(set(map(float, alone))) > 15
    assert seen(1, 3) == seen(2, 2) == alone


def test_index_alone_works_as_in_monai() -> None:
    dataset = SeededDataset([1, 2, 3], lambda x: 10 * x)
    assert dataset[1] == 20
    assert dataset[1, 5] == 20
    assert len(dataset) == 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: EpochSampler([]), "'dataset' must not be empty"),
        (lambda: EpochSampler([1], num_samples=0), "'num_samples' must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call()


def test_fewer_samples_than_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idist, "get_world_size", lambda: 4)
    with pytest.raises(ValueError, match="at least the number of processes, 4, got 3"):
        list(EpochSampler(range(3)))
