"""What the two models of a transformation have in common: a velocity in, the displacement and its inverse out."""

from typing import Protocol

from torch import Tensor

from medkit.ops import exponential


class Transformation(Protocol):
    """A way from a velocity to a smooth invertible map; :class:`GeodesicShooting` is another one."""

    def displacement(self, velocity: Tensor, inverse: bool = False) -> Tensor:
        """Return the displacement of the map, or of its inverse, ``(B, D, *S)`` in and out, in voxels."""


class StationaryVelocity:
    """Flow of a velocity that does not change in time.

    Args:
        n_squarings: see :func:`medkit.ops.exponential`; ``None``: as many as the velocity needs.

    Example:
        >>> import torch
        >>> StationaryVelocity().displacement(torch.full((1, 2, 4, 4), 0.5), inverse=True)[0, 0, 0, 0]
        tensor(-0.5000)
    """

    def __init__(self, n_squarings: int | None = None):
        self.n_squarings = n_squarings

    def displacement(self, velocity: Tensor, inverse: bool = False) -> Tensor:
        """See :func:`medkit.ops.exponential`."""
        return exponential(velocity, self.n_squarings, inverse)
