"""Lesions: blobs of abnormal tissue in the brain, seen by every contrast or by one alone."""

from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.data.cohort.lattice import Field, Grid, band_field, uniform
from medkit.data.cohort.shape import soft

LESION_LABELS = {"all": 1, "t1": 2, "t2": 3, "pd": 4, "flair": 5}  # of the map: which contrasts see a lesion


@dataclass(frozen=True)
class Lesions:
    """Ragged blobs: ellipsoids with ``middles`` (template position) and half ``axes`` in mm, and a ``rough`` edge."""

    middles: tuple[tuple[float, ...], ...]
    axes: tuple[tuple[float, ...], ...]
    rough: Field

    @classmethod
    def draw(cls, gen: torch.Generator, count: tuple[int, int], radius: tuple[float, float]) -> "Lesions":
        """Draw blobs in the hemispheres.

        Args:
            gen: source of randomness.
            count: fewest and most blobs.
            radius: smallest and largest radius in mm.
        """
        middles, axes = [], []
        for _ in range(int(uniform(count[0], count[1] + 0.999, gen))):
            x, y, z = (uniform(*span, gen) for span in ((15, 50), (-75, 50), (-5, 50)))
            middles.append((x if uniform(0, 1, gen) < 0.5 else -x, y, z))
            size = uniform(*radius, gen)
            axes.append(tuple(size * uniform(0.7, 1.3, gen) for _ in range(3)))
        return cls(tuple(middles), tuple(axes), band_field(8.0, gen))

    def share(self, hull: Tensor, position: Tensor, grid: Grid) -> Tensor:
        """Compute the share of lesion in each voxel.

        Args:
            hull: signed distance in mm to the brain's cover, negative inside, ``(X, Y, Z)``.
            position: template position of each voxel in mm, ``(3, X, Y, Z)``.
            grid: voxel grid.

        Returns:
            Float32, ``(X, Y, Z)``, 0 to 1.
        """
        level = torch.full(grid.shape, 30.0)
        for middle, axes in zip(self.middles, self.axes, strict=True):
            q = torch.zeros(grid.shape)
            for k in range(3):
                q += ((position[k] - middle[k]) / axes[k]).square_()
            level = torch.minimum(level, q.sqrt_().sub_(1).mul_(min(axes)))
        return soft(level + 0.8 * self.rough.on(grid)[0], grid) * (hull < -6)
