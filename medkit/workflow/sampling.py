"""Samples that depend on seed, epoch and place in the epoch alone, not on the number of processes or workers."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from monai.data import Dataset
from monai.data.utils import set_rnd
from torch.utils.data import Sampler


class EpochSampler(Sampler[tuple[int, int]]):
    """Draw the indices of an epoch, each with a seed of its own, and share them out among the processes.

    All processes draw the same epoch, from (seed, epoch); the process of rank r of n takes the places r, r + n, …. So n
    processes with batches of b see together, step by step, the samples of one process with batches of n b. To be used
    with :class:`SeededDataset`, and :class:`SeedEachEpoch`, which tells the epoch.

    Args:
        dataset: anything with a length of at least 1.
        num_samples: samples of an epoch, of all processes together; a remainder that does not go round is left out.
            ``None``: as many as ``dataset`` has. Nothing is drawn twice before all was drawn once.
        seed: the seed of the run, 0 … 2**32 - 1.

    Raises:
        ValueError: if ``dataset`` is empty, or ``num_samples`` is below 1; on iteration, if it is below the number of
            processes.

    Example:
        >>> len(EpochSampler(range(10), num_samples=25))
        25
    """

    def __init__(self, dataset: Sized, num_samples: int | None = None, seed: int = 0) -> None:
        if len(dataset) < 1:
            raise ValueError("EpochSampler: 'dataset' must not be empty; give it at least one sample")
        if num_samples is not None and num_samples < 1:
            raise ValueError(f"EpochSampler: 'num_samples' must be at least 1, got {num_samples}")
        self.n = len(dataset)
        self.num_samples = num_samples or self.n
        self.seed = seed
        self.epoch = 1

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch to draw.

        Args:
            epoch: number of the epoch, from 1.
        """
        self.epoch = epoch

    def __len__(self) -> int:
        """Return the number of samples of an epoch on this process."""
        return self.num_samples // idist.get_world_size()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield (index, seed) of the samples of this process."""
        world, rank = idist.get_world_size(), idist.get_rank()
        if self.num_samples < world:
            raise ValueError(
                f"EpochSampler: 'num_samples' must be at least the number of processes, {world}, got {self.num_samples}"
            )
        sequence = np.random.SeedSequence((self.seed, self.epoch))
        order_seed, *seeds = (int(s) for s in sequence.generate_state(1 + self.num_samples))
        generator = torch.Generator().manual_seed(order_seed)
        rounds = -(-self.num_samples // self.n)
        order = torch.cat([torch.randperm(self.n, generator=generator) for _ in range(rounds)]).tolist()
        used = len(self) * world
        yield from list(zip(order, seeds, strict=False))[rank:used:world]


class SeededDataset(Dataset):
    """MONAI's ``Dataset``, whose random transforms are seeded by the sampler, sample by sample.

    Args:
        data: sequence of items.
        transform: callable applied to an item.

    Example:
        >>> SeededDataset([1.0, 2.0])[1, 7]
        2.0
    """

    def __getitem__(self, index: Any) -> Any:
        """Return the item at ``index``; of a pair, the second is the seed of its random transforms."""
        if isinstance(index, tuple):
            index, seed = index
            set_rnd(self.transform, seed)
        return super().__getitem__(index)
