"""Where the velocities of all subjects are at some moment: files of one phase, less a share of their mean."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkit.ops import resize_field
from medkit.workflow import atomic_path


def rounded(velocity: Tensor) -> Tensor:
    """Return a velocity as it will be read again: stored with 16 bits."""
    return velocity.half().float()


@dataclass(frozen=True)
class Velocities:
    """Velocities of a phase, centred lazily: what is stored stays as it is, and the mean is subtracted on reading.

    Args:
        folder: of the files ``<name>.npy``; ``None``: nothing moves yet.
        n_axes: of space.
        mean: file of their mean; ``None``: none was taken.
        share: of the mean that is subtracted.
    """

    folder: Path | None = None
    n_axes: int = 3
    mean: Path | None = None
    share: float = 0.0

    def of(self, name: str, size: tuple[int, ...]) -> Tensor:
        """Return a subject's velocity, float32, ``(1, D, *size)``, in voxels of a grid of that size."""
        if self.folder is None:
            return torch.zeros(1, self.n_axes, *size)
        velocity = torch.from_numpy(np.load(self.folder / f"{name}.npy")).float()[None]
        if self.mean is not None and self.share:
            velocity = rounded(velocity - self.share * load(self.mean))
        if velocity.shape[2:] == torch.Size(size):
            return velocity
        return rounded(resize_field(velocity, size, corners=False))


def store(path: Path, array: Tensor) -> None:
    """Write a tensor, whole or not at all."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, array.numpy())


def load(path: Path) -> Tensor:
    """Read what :func:`store` wrote."""
    return torch.from_numpy(np.load(path))
