"""Slices of volumes in the three planes, turned as radiologists look at them, with letters for the sides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from nibabel.affines import voxel_sizes
from nibabel.orientations import apply_orientation, io_orientation
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# For each plane the axis across it, and the axes that run right and up in the picture; all RAS. Both are reversed where
# the picture runs the other way: the patient's right is on the left, anterior is on the left of a sagittal slice.
PLANES = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
LETTERS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}  # left, right, top, bottom


@dataclass(frozen=True)
class Planes:
    """Ways to cut volumes on one grid.

    Args:
        affine: float64, ``(4, 4)``, voxel indices of the volumes to RAS mm.
        size: voxels along each axis.
        place: the voxel through which the planes go, in the order of the axes of the volumes turned to RAS.
    """

    affine: np.ndarray
    size: tuple[int, ...]
    place: tuple[int, int, int]

    @classmethod
    def through_middle(cls, image: Tensor, affine: np.ndarray, threshold: float) -> Planes:
        """Planes through the middle of what is brighter than a threshold in a volume ``(X, Y, Z)``."""
        seen = turned(image.numpy(), affine) > threshold
        centre = [round(float(x)) for x in np.argwhere(seen).mean(0)] if seen.any() else [n // 2 for n in seen.shape]
        return cls(affine, tuple(image.shape), (centre[0], centre[1], centre[2]))

    @property
    def spacing(self) -> np.ndarray:
        """Voxel sizes along the RAS axes, mm."""
        order = np.argsort(io_orientation(self.affine)[:, 0])
        return voxel_sizes(self.affine)[order]

    def cut(self, image: Tensor, plane: str) -> np.ndarray:
        """Return a slice of a volume ``(X, Y, Z)`` as rows from the top and columns from the left."""
        across, right, up = PLANES[plane]
        volume = turned(image.detach().cpu().numpy(), self.affine)
        piece = np.take(volume, self.place[across], axis=across)
        rows = piece.T if right < up else piece
        return rows[::-1, ::-1]

    def shape(self, plane: str) -> tuple[float, float]:
        """Height and width of a slice, mm."""
        _, right, up = PLANES[plane]
        order = np.argsort(io_orientation(self.affine)[:, 0])
        extent = np.array(self.size)[order] * self.spacing
        return float(extent[up]), float(extent[right])

    def grid_lines(self, displacement: Tensor, plane: str, every: int) -> list[np.ndarray]:
        """Lines of the grid where a displacement takes them, each ``(n, 2)``, column and row in pixels of the slice.

        Args:
            displacement: ``(3, X, Y, Z)``, in voxels.
            plane: in which; what moves out of it is not seen.
            every: so many voxels lie between lines.
        """
        across, right, up = PLANES[plane]
        in_mm = np.einsum("ij,jxyz->ixyz", self.affine[:3, :3], displacement.detach().cpu().double().numpy())
        pieces = []
        for axis in (right, up):
            volume = turned(in_mm[axis], self.affine)
            piece = np.take(volume, self.place[across], axis=across) / self.spacing[axis]
            pieces.append(piece)
        n, m = pieces[0].shape
        first, second = np.meshgrid(np.arange(n), np.arange(m), indexing="ij")
        column = n - 1 - (first + pieces[0])
        row = m - 1 - (second + pieces[1])
        points = np.stack([column, row], axis=-1)
        return [points[i] for i in range(0, n, every)] + [points[:, j] for j in range(0, m, every)]


def turned(volume: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """Turn a volume ``(X, Y, Z)`` so that its axes run nearest to right, anterior and superior."""
    return apply_orientation(volume, io_orientation(affine))


def write_letters(axes: Axes, plane: str, extent: tuple[float, float, float, float], color: str = "#ffd34d") -> None:
    """Write at the edges of a picture which side is which: R, L, A, P, S, I.

    Args:
        axes: to write on.
        plane: of the slice.
        extent: its left, right, lower and upper edge.
        color: of the letters.
    """
    from matplotlib.patheffects import withStroke

    left, right, bottom, top = extent
    x, y = (left + right) / 2, (bottom + top) / 2
    # So many points from the edge, however narrow the picture is: a share of it would push letters over the edge.
    inset = 4
    places = (((left, y), (inset, 0), "left", "center"), ((right, y), (-inset, 0), "right", "center"),
              ((x, top), (0, -inset), "center", "top"), ((x, bottom), (0, inset), "center", "bottom"))  # fmt: skip
    for letter, (edge, offset, across, along) in zip(LETTERS[plane], places, strict=True):
        text = axes.annotate(
            letter, edge, offset, "data", "offset points", ha=across, va=along, color=color, fontsize=9,
            fontweight="bold", annotation_clip=False,
        )  # fmt: skip
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])
