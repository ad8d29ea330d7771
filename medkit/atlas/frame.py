"""The grid in space on which a template lives, and images of subjects brought to it by one interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from nibabel.affines import voxel_sizes
from torch import Tensor

from medkit.atlas.pyramid import Grid
from medkit.ops import identity_points, sample

# Numbers of voxels whose Fourier transform is fast: products of 2, 3 and 5, and even, so that half of them is whole.
FAST_FACTORS = (2, 3, 5)


@dataclass(frozen=True, eq=False)
class Frame:
    """A grid of voxels with its place in space.

    Args:
        size: voxels along each axis, three.
        affine: float64, ``(4, 4)``, voxel indices to RAS mm.

    Raises:
        ValueError: if the size or the affine is not as wanted.

    Example:
        >>> Frame((8, 8, 8), np.diag([2.0, 2.0, 2.0, 1.0])).grid.spacing
        (2.0, 2.0, 2.0)
    """

    size: tuple[int, ...]
    affine: np.ndarray

    def __post_init__(self) -> None:
        """Check the numbers."""
        if len(self.size) != 3 or min(self.size) < 1:
            raise ValueError(f"Frame: 'size' must be 3 positive numbers of voxels, got {self.size}")
        affine = np.asarray(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError(f"Frame: 'affine' must be a finite, invertible (4, 4) matrix, got {affine.tolist()}")
        object.__setattr__(self, "affine", affine)

    @property
    def grid(self) -> Grid:
        """Its size and spacing."""
        return Grid(self.size, tuple(float(h) for h in voxel_sizes(self.affine)))

    @property
    def centre(self) -> np.ndarray:
        """Middle of the grid in RAS mm, ``(3,)``."""
        return self.affine[:3, :3] @ ((np.array(self.size) - 1) / 2) + self.affine[:3, 3]

    def shares_grid_with(self, other: Frame) -> bool:
        """Tell whether voxels of both are the same points, to a thousandth of a voxel."""
        tolerance = 1e-3 * min(self.grid.spacing)
        return self.size == other.size and bool(np.abs(self.affine - other.affine).max() < tolerance)

    def padded(self, margin: Sequence[tuple[int, int]]) -> Frame:
        """Return the frame with voxels added, or taken away, before and after each axis."""
        size = tuple(n + low + high for n, (low, high) in zip(self.size, margin, strict=True))
        affine = self.affine.copy()
        affine[:3, 3] -= affine[:3, :3] @ np.array([low for low, _ in margin], dtype=np.float64)
        return Frame(size, affine)


def fast_size(n: int) -> int:
    """Return the least even number from ``n`` on whose Fourier transform is fast.

    Args:
        n: at least 1.

    Example:
        >>> fast_size(187)
        192
    """
    candidate = n + n % 2
    while True:
        rest = candidate
        for factor in FAST_FACTORS:
            while rest % factor == 0:
                rest //= factor
        if rest == 1:
            return candidate
        candidate += 2


def resampled(
    image: Tensor,
    source: Frame,
    target: Frame,
    matrix: np.ndarray | None = None,
    displacement: Tensor | None = None,
    mode: str = "linear",
    padding: str = "border",
) -> Tensor:
    r"""Read an image on another grid through a displacement and an affine map, by one interpolation.

    The value at a voxel x of the target is that of the image at :math:`V_s^{-1} A \, V_t (x + u(x))`, V being the
    affines of the grids.

    Args:
        image: real, ``(1, C, *source.size)``, any unit.
        source: grid of the image.
        target: grid of the result.
        matrix: ``(4, 4)``, from RAS mm of the target to RAS mm of the source; ``None``: the same space.
        displacement: ``(1, 3, *target.size)``, in voxels of the target; ``None``: none.
        mode: ``"linear"``, or ``"nearest"`` for labels.
        padding: beyond the image: ``"border"``, the value at its edge, or ``"zeros"``.

    Returns:
        ``(1, C, *target.size)``, float32; the image itself where nothing moves.

    Raises:
        ValueError: if the image is not on its grid.

    Example:
        >>> frame = Frame((4, 4, 4), np.eye(4))
        >>> resampled(torch.ones(1, 1, 4, 4, 4), frame, Frame((2, 2, 2), np.eye(4))).shape
        torch.Size([1, 1, 2, 2, 2])
    """
    if tuple(image.shape[2:]) != source.size:
        raise ValueError(f"resampled: 'image' must lie on the grid {source.size}, got {tuple(image.shape)}")
    moved = np.eye(4) if matrix is None else np.asarray(matrix, dtype=np.float64)
    whole = np.linalg.inv(source.affine) @ moved @ target.affine
    if displacement is None and source.size == target.size and np.abs(whole - np.eye(4)).max() < 1e-9:
        return image.float()
    # In float64: an index of some hundred voxels in float32 leaves but five digits behind the point.
    points = identity_points(target.size, torch.zeros((), dtype=torch.float64, device=image.device))
    if displacement is not None:
        points = points + displacement.double()
    linear, shift = (torch.from_numpy(part).to(image.device) for part in (whole[:3, :3], whole[:3, 3]))
    mapped = torch.einsum("ij,bjxyz->bixyz", linear, points) + shift.reshape(1, 3, 1, 1, 1)
    return sample(image.double(), mapped, mode, padding).float()


def common_frame(
    boxes: Sequence[tuple[Sequence[float], Sequence[float]]], spacing: float, margin: int = 8, centred: bool = True
) -> Frame:
    """Return a frame along the RAS axes that holds the heads of all subjects.

    Args:
        boxes: for each subject the lowest and the highest corner of its foreground, RAS mm.
        spacing: of the frame, mm.
        margin: voxels of background around the foreground; velocities are periodic, and need them.
        centred: whether subjects will be shifted onto each other: the frame then holds the largest of them around the
            median of their centres. Otherwise it holds all as they lie.

    Returns:
        The frame.

    Raises:
        ValueError: if there is no subject, a box is empty, or the frame would be over a thousand voxels long.

    Example:
        >>> common_frame([((-10, -10, -10), (10, 10, 10))], 1.0, margin=5).size
        (32, 32, 32)
    """
    corners = np.array(boxes, dtype=np.float64)
    if corners.ndim != 3 or corners.shape[1:] != (2, 3) or not np.isfinite(corners).all():
        raise ValueError("common_frame: 'boxes' must be a pair of finite corners for each of at least one subject")
    if not 0 < spacing < math.inf or margin < 0 or (corners[:, 1] < corners[:, 0]).any():
        raise ValueError(
            f"common_frame: 'spacing' must be positive, 'margin' at least 0 and no box empty, got {spacing}, {margin}"
        )
    low, high = corners[:, 0].min(0), corners[:, 1].max(0)
    if centred:
        middle, extent = np.median(corners.mean(1), axis=0), (corners[:, 1] - corners[:, 0]).max(0)
        low, high = middle - extent / 2, middle + extent / 2
    size = tuple(fast_size(math.ceil(n) + 1 + 2 * margin) for n in (high - low) / spacing)
    if max(size) > 1000:
        raise ValueError(
            f"common_frame: the subjects span {np.round(high - low).tolist()} mm, {size} voxels of {spacing} mm; align "
            "them first, or take a larger spacing"
        )
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (low + high) / 2 - spacing * (np.array(size) - 1) / 2
    return Frame(size, affine)
