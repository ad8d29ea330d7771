"""Randomness of a transform: drawn anew each time, or fixed by the name of a case."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np


def generator_of(
    rng: np.random.RandomState, data: Mapping[Hashable, Any], seed_key: Hashable | None, seed: int, name: str
) -> np.random.RandomState:
    """Return the generator to draw from: the transform's own, or one seeded by a stable hash of ``data[seed_key]``.

    Args:
        rng: the transform's own, ``self.R``.
        data: the sample.
        seed_key: key of a name; ``None``: no fixed seed.
        seed: mixed into the hash, for another series of draws.
        name: the transform's name, mixed into the hash so that two transforms do not draw the same numbers.

    Returns:
        The generator.

    Raises:
        ValueError: if the sample has no such key.
    """
    if seed_key is None:
        return rng
    if seed_key not in data:
        raise ValueError(
            f"{name}: 'seed_key' must be a key of the sample, got {seed_key!r}; it has {sorted(map(str, data))}"
        )
    digest = hashlib.sha256(f"{name}:{seed}:{data[seed_key]}".encode()).digest()
    return np.random.RandomState(int.from_bytes(digest[:4], "big"))
