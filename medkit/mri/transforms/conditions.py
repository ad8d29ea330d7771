"""A sequence of transforms for some samples alone, with draws that the name of a case can fix."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, Randomizable

from medkit.data.seeding import generator_of


class OnlyWithd(Randomizable, MapTransform):
    """Apply transforms to the samples that have all of some keys; others pass unchanged.

    For what belongs to magnitude images alone: a random deformation of them must not touch the references of an exam
    whose target is k-space. Reads and writes what the transforms do. Not invertible.

    Args:
        keys: the keys that a sample needs.
        transforms: what to apply, in order.
        seed_key: key of a name by which all draws are fixed, for validation; ``None``: new draws each time, from
            ``self.R``.
        seed: with ``seed_key``, another seed gives other draws.

    Raises:
        ValueError: on a call, if the sample has no ``seed_key``.

    Example:
        >>> double = lambda sample: {"magnitude": 2 * sample["magnitude"]}
        >>> transform = OnlyWithd("magnitude", [double])
        >>> transform({"magnitude": 1}), transform({"kspace": 1})
        ({'magnitude': 2}, {'kspace': 1})
    """

    def __init__(
        self,
        keys: KeysCollection,
        transforms: Sequence[Callable[..., Any]],
        seed_key: str | None = None,
        seed: int = 0,
    ) -> None:
        MapTransform.__init__(self, keys)
        self.sequence = Compose(transforms)
        self.seed_key = seed_key
        self.seed = seed

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> OnlyWithd:
        """Seed this and the transforms in it; see MONAI's ``Randomizable``."""
        super().set_random_state(seed, state)
        self.sequence.set_random_state(seed=int(self.R.randint(2**31 - 1)))
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return what the transforms make of a copy of ``data``, or that copy; see the class."""
        d = dict(data)
        if not all(key in d for key in self.keys):
            return d
        if self.seed_key is not None:
            rng = generator_of(self.R, d, self.seed_key, self.seed, "OnlyWithd")
            self.sequence.set_random_state(seed=int(rng.randint(2**31 - 1)))
        return self.sequence(d)
