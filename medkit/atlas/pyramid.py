"""Coarser grids over the same space: their sizes and spacings, and images on them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from monai.networks.layers import GaussianFilter
from torch import Tensor

MODES_OF_RESIZING = {2: "bilinear", 3: "trilinear"}
SMALLEST_SIZE = 8


@dataclass(frozen=True)
class Grid:
    """Voxels over a box of space.

    Args:
        size: voxels along each axis, two or three.
        spacing: mm between them, one for each axis.

    Raises:
        ValueError: if a number is not positive, or there are not as many of both.

    Example:
        >>> Grid((160, 192), (1.0, 1.0)).coarser(4)
        Grid(size=(40, 48), spacing=(4.0, 4.0))
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.size) not in (2, 3) or min(self.size) < 1:
            raise ValueError(f"Grid: 'size' must be 2 or 3 positive numbers of voxels, got {self.size}")
        if len(self.spacing) != len(self.size) or not all(0 < h < math.inf for h in self.spacing):
            raise ValueError(f"Grid: 'spacing' must be {len(self.size)} positive numbers of mm, got {self.spacing}")

    @property
    def voxel_volume(self) -> float:
        """Volume of a voxel in mm³, or area in mm²."""
        return math.prod(self.spacing)

    def coarser(self, factor: float) -> "Grid":
        """Return the grid over the same box with about ``factor`` times fewer voxels along each axis.

        No axis gets fewer than 8 voxels, unless it has fewer already.

        Args:
            factor: at least 1.

        Raises:
            ValueError: if it is below 1.
        """
        if not factor >= 1:
            raise ValueError(f"Grid.coarser: 'factor' must be at least 1, got {factor}")
        size = tuple(max(round(n / factor), min(n, SMALLEST_SIZE)) for n in self.size)
        spacing = tuple(n * h / m for n, h, m in zip(self.size, self.spacing, size, strict=True))
        return Grid(size, spacing)


def downsampled(image: Tensor, size: Sequence[int]) -> Tensor:
    """Bring an image to a coarser grid over the same box: smoothed by half a new voxel, then read linearly.

    Args:
        image: real, ``(B, C, *S)``, any unit.
        size: voxels along each axis, at most those of the image.

    Returns:
        ``(B, C, *size)``, float32 or float64; the image itself where the grid is the same.

    Raises:
        ValueError: if ``size`` does not fit.

    Example:
        >>> downsampled(torch.ones(1, 1, 8, 8), (4, 4)).shape
        torch.Size([1, 1, 4, 4])
    """
    new, old = tuple(int(n) for n in size), tuple(image.shape[2:])
    if len(new) != len(old) or any(not 1 <= n <= m for n, m in zip(new, old, strict=True)):
        raise ValueError(f"downsampled: 'size' must be at most that of the image {old}, got {new}")
    x = image.to(torch.promote_types(image.dtype, torch.float32))
    if new == old:
        return x
    # In original voxels; an axis that stays as it is gets no smoothing.
    sigma = [0.5 * m / n if n < m else 0.0 for n, m in zip(new, old, strict=True)]
    with torch.autocast(x.device.type, enabled=False):
        smooth = GaussianFilter(len(new), sigma).to(x.device, x.dtype)
        # MONAI's filter takes zeros beyond the border: divided by what it makes of ones, nothing darkens there.
        blurred = smooth(x) / smooth(torch.ones_like(x[:1, :1]))
        return F.interpolate(blurred, new, mode=MODES_OF_RESIZING[len(new)], align_corners=False)
