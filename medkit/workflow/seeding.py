"""Randomness that a resumed run can replay: everything is seeded again at the start of each epoch."""

from __future__ import annotations

import random
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data.utils import set_rnd


class SeedEachEpoch:
    """Seed torch, numpy, Python and the transforms of a dataset from (seed, epoch, rank) when each epoch starts.

    A handler for a trainer. What an epoch draws then depends on its number and on nothing that came before, so a run
    that is resumed at an epoch draws what the uninterrupted one drew: weights of dropout, order of the samples, random
    transforms, also in the workers of the data loader (with the same ``num_workers`` and number of processes). The data
    loader is started anew for every epoch.

    Args:
        seed: the seed of the run, 0 … 2**32 - 1.
        dataset: its random transforms (anything with ``set_random_state``) are seeded too; default the dataset of the
            engine's data loader.

    Raises:
        ValueError: if ``seed`` is out of range; when training starts, if the workers of the data loader persist, since
            these keep the random state of the epoch before.

    Example:
        >>> SeedEachEpoch(seed=0).attach(trainer)
    """

    def __init__(self, seed: int = 0, dataset: Any = None) -> None:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"SeedEachEpoch: 'seed' must be a whole number in 0 … 2**32 - 1, got {seed!r}")
        self.seed = seed
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Seed at the start of each epoch of ``engine``.

        Args:
            engine: the trainer.
        """
        engine.add_event_handler(Events.STARTED, self._refuse_persistent_workers)
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        """Seed for the epoch that ``engine`` is in.

        Args:
            engine: the trainer.
        """
        seed = epoch_seed(self.seed, engine.state.epoch, idist.get_rank())
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002  the global state that other libraries draw from
        torch.manual_seed(seed)
        loader = engine.state.dataloader
        dataset = getattr(loader, "dataset", None) if self.dataset is None else self.dataset
        if dataset is not None:
            set_rnd(dataset, seed)
        sampler = getattr(loader, "sampler", None)
        set_epoch = getattr(sampler, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(engine.state.epoch)
        for owner in (loader, sampler):
            generator = getattr(owner, "generator", None)
            if isinstance(generator, torch.Generator):
                generator.manual_seed(seed)
        if loader is not None:
            engine.set_data(loader)  # a new iterator, whose order and workers draw from the new seed

    def _refuse_persistent_workers(self, engine: Engine) -> None:
        if getattr(engine.state.dataloader, "persistent_workers", False):
            raise ValueError(
                "SeedEachEpoch: the data loader must have persistent_workers=False, got True; "
                "persistent workers keep the random state of the epoch before"
            )


def epoch_seed(seed: int, epoch: int, rank: int = 0) -> int:
    """Mix seed, epoch and rank into one seed, such that neighbours have nothing in common.

    Args:
        seed: the seed of the run.
        epoch: number of the epoch, from 1.
        rank: number of the process, from 0.

    Returns:
        A number in 0 … 2**32 - 1.

    Example:
        >>> epoch_seed(0, 1) == epoch_seed(0, 1), epoch_seed(0, 1) == epoch_seed(0, 2)
        (True, False)
    """
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])
