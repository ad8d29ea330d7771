"""Lesions: blobs of abnormal tissue in the brain, seen by every contrast or by one alone."""

import torch
from torch import Tensor

from medkit.data.cohort.lattice import Grid, band, uniform


def draw_lesions(
    hull: Tensor,
    position: Tensor,
    grid: Grid,
    gen: torch.Generator,
    count: tuple[int, int],
    radius: tuple[float, float],
) -> Tensor:
    """Draw ragged blobs inside the brain.

    Args:
        hull: signed distance in mm to the brain's cover, negative inside, ``(X, Y, Z)``.
        position: template position of each voxel in mm, ``(3, X, Y, Z)``.
        grid: voxel grid.
        gen: source of randomness.
        count: fewest and most blobs.
        radius: smallest and largest radius in mm.

    Returns:
        Share of lesion in each voxel, float32, ``(X, Y, Z)``, 0 to 1.
    """
    n = int(uniform(count[0], count[1] + 0.999, gen))
    level = torch.full(grid.shape, 30.0)
    for _ in range(n):
        middle = [uniform(*span, gen) for span in ((15, 50), (-75, 50), (-5, 50))]
        middle[0] *= 1 if uniform(0, 1, gen) < 0.5 else -1
        size = uniform(radius[0], radius[1], gen)
        axes = [size * uniform(0.7, 1.3, gen) for _ in range(3)]
        q = sum(((position[k] - middle[k]) / axes[k]).square() for k in range(3))
        level = torch.minimum(level, (torch.as_tensor(q).sqrt() - 1) * size)
    level = level + 0.8 * band(8.0, grid, gen)[0]
    return (0.5 - level / grid.spacing).clamp_(0, 1) * (hull < -6)
