"""Where an affine registration may start: turns about the middle of both objects, compared cheaply on a coarse grid."""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medkit.ops import identity_points, sample

FOREGROUND = 0.1  # of the range of intensities between their percentiles
MARGIN = 0.15  # of the object's extent, on each side
N_BINS = 32
LARGE_TURN = 60.0  # degrees
SMALLEST_SIZE = 8  # voxels along an axis of a coarse grid


@dataclass(frozen=True)
class Framed:
    """An object with some background around it.

    Args:
        values: ``(1, 1, *S)``, float32, 0 to 1, 0 outside the field of view.
        weight: ``(1, 1, *S)``, float32, or ``None``.
        affine: ``(D + 1, D + 1)``, voxel indices to mm.
    """

    values: Tensor
    weight: Tensor | None
    affine: np.ndarray

    @property
    def spacing(self) -> np.ndarray:
        """Voxel size in mm along each axis."""
        return np.linalg.norm(self.affine[:-1, :-1], axis=0)

    @property
    def middle(self) -> np.ndarray:
        """Middle of the frame in mm."""
        return self.affine[:-1, :-1] @ ((np.array(self.values.shape[2:]) - 1) / 2) + self.affine[:-1, -1]

    @property
    def centroid(self) -> np.ndarray:
        """Centre of the object's foreground in mm."""
        inside = (self.values[0, 0] > FOREGROUND).nonzero().double()
        return self.affine[:-1, :-1] @ inside.mean(0).numpy() + self.affine[:-1, -1]

    @property
    def extent(self) -> float:
        """Longest side in mm."""
        return float((np.array(self.values.shape[2:]) * self.spacing).max())

    def at(self, spacing: float) -> "Framed":
        """Return it with voxels of about ``spacing`` mm, none smaller than they are."""
        # Means over whole voxels: cheap, and the geometry stays exact.
        factors = [
            max(min(round(spacing / h), n // SMALLEST_SIZE), 1)
            for n, h in zip(self.values.shape[2:], self.spacing, strict=True)
        ]
        pool = F.avg_pool2d if len(factors) == 2 else F.avg_pool3d
        to_old = np.diag([*map(float, factors), 1.0])
        to_old[:-1, -1] = (np.array(factors) - 1) / 2
        least = F.max_pool2d if len(factors) == 2 else F.max_pool3d
        # A mean that takes in something without weight has none.
        weight = None if self.weight is None else 1 - least(1 - self.weight, factors)
        return Framed(pool(self.values, factors), weight, self.affine @ to_old)


def framed(values: Tensor, weight: Tensor | None, affine: np.ndarray) -> Framed:
    """Cut a volume to its foreground and a margin around it; where the object is cut off by the field of view, none.

    Args:
        values: ``(*S)``, 0 to 1.
        weight: ``(*S)``; ``None``: none.
        affine: ``(D + 1, D + 1)``, voxel indices to mm.
    """
    inside = (values > FOREGROUND).nonzero()
    window, padding, first = [], [], []
    spacing = np.linalg.norm(affine[:-1, :-1], axis=0)
    bounds = [(int(k.min()), int(k.max()) + 1) for k in inside.T] if len(inside) else [(0, n) for n in values.shape]
    margin = MARGIN * max((high - low) * h for (low, high), h in zip(bounds, spacing, strict=True))
    for (low, high), n, h in zip(bounds, values.shape, spacing, strict=True):
        width = round(margin / h)
        start = low - width if low > 0 else 0
        stop = high + width if high < n else n
        window.append(slice(max(start, 0), min(stop, n)))
        padding += [(max(-start, 0), max(stop - n, 0))]
        first.append(start)
    sides = [width for pair in reversed(padding) for width in pair]
    shift = np.eye(len(affine))
    shift[:-1, -1] = first

    def cut(x: Tensor) -> Tensor:
        return F.pad(x[tuple(window)].float(), sides)[None, None]

    return Framed(cut(values), None if weight is None else cut(weight), affine @ shift)


def _turn(plane: tuple[int, int], degrees: float, n_axes: int) -> np.ndarray:
    matrix = np.eye(n_axes)
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    (a, b) = plane
    matrix[a, a] = matrix[b, b] = c
    matrix[a, b], matrix[b, a] = -s, s
    return matrix


def turns(n_axes: int) -> list[np.ndarray]:
    """Return rotations to try, smallest first: 30 degrees about the axes, after all that permute them.

    No rotation in space is further than about 30 degrees from one of them.
    """
    planes = list(itertools.combinations(range(n_axes), 2))
    small = []
    for angles in itertools.product((-30.0, 0.0, 30.0), repeat=len(planes)):
        matrices = [_turn(plane, angle, n_axes) for plane, angle in zip(planes, angles, strict=True)]
        small.append(functools.reduce(np.matmul, matrices))
    whole = []
    for order in itertools.permutations(range(n_axes)):
        for signs in itertools.product((1.0, -1.0), repeat=n_axes):
            matrix = np.eye(n_axes)[list(order)] * np.array(signs)
            if np.linalg.det(matrix) > 0:
                whole.append(matrix)
    return sorted((a @ b for a in whole for b in small), key=lambda r: round(angle_of(r), 6))


def angle_of(rotation: np.ndarray) -> float:
    """Return the angle of a rotation, in degrees."""
    n_axes = len(rotation)
    cosine = (np.trace(rotation) - 1) / 2 if n_axes == 3 else rotation[0, 0]
    return float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


def starts(fixed: Framed, moving: Framed) -> Iterator[np.ndarray]:
    """Yield maps from the space of ``fixed`` to that of ``moving``: the headers' own, then turns about the middles."""
    n_axes = len(fixed.affine) - 1
    yield np.eye(n_axes + 1)
    centres = (fixed.centroid, moving.centroid), (fixed.middle, moving.middle)
    for turn in turns(n_axes):
        for a, b in centres if angle_of(turn) < LARGE_TURN else centres[:1]:
            matrix = np.eye(n_axes + 1)
            matrix[:-1, :-1], matrix[:-1, -1] = turn, b - turn @ a
            yield matrix


def moved(fixed: Framed, moving: Framed, matrix: np.ndarray) -> tuple[Tensor, Tensor | None]:
    """Return values and weight of ``moving`` on the grid of ``fixed``, 0 where there are none."""
    to_voxels = torch.from_numpy(np.linalg.inv(moving.affine) @ matrix @ fixed.affine).float()
    points = identity_points(fixed.values.shape[2:])
    n_axes = len(points[0])
    places = torch.einsum("ij,bj...->bi...", to_voxels[:n_axes, :n_axes], points)
    places = places + to_voxels[:n_axes, n_axes].reshape(1, -1, *[1] * n_axes)
    weight = None if moving.weight is None else sample(moving.weight, places, padding="zeros")
    return sample(moving.values, places, padding="zeros"), weight


def likeness(fixed: Framed, moving: Framed, matrix: np.ndarray, metric: str, mask: Tensor | None = None) -> float:
    """Return how alike two volumes are under a map, 0 (no relation) to 1 (the same).

    Correlation (below 0: inverted), or mutual information as a share of both entropies, times the share of the fixed
    weight that the moving one covers.
    """
    values, weight = moved(fixed, moving, matrix)
    counted = fixed.weight if mask is None else mask
    inside = torch.ones_like(values) if counted is None else counted
    covered = 1.0
    if weight is not None:
        both = inside * weight
        covered = float(both.sum() / inside.sum().clamp(min=1e-6))
        inside = both
    chosen = inside > 0.5
    a, b = fixed.values[chosen].double(), values[chosen].double()
    if len(a) < 2:
        return 0.0
    return covered * (_correlation(a, b) if metric == "lncc" else _shared_information(a, b))


def _correlation(a: Tensor, b: Tensor) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = float(a.norm() * b.norm())
    return float(a @ b) / length if length > 1e-9 else 0.0


def _shared_information(a: Tensor, b: Tensor) -> float:
    bins = [(x.clamp(0, 1) * (N_BINS - 1)).round().long() for x in (a, b)]
    joint = torch.bincount(bins[0] * N_BINS + bins[1], minlength=N_BINS**2).double().reshape(N_BINS, N_BINS) / len(a)

    def entropy(p: Tensor) -> float:
        return float(-(p[p > 0] * p[p > 0].log()).sum())

    alone = entropy(joint.sum(0)) + entropy(joint.sum(1))
    return 2 * (alone - entropy(joint.flatten())) / alone if alone > 1e-9 else 0.0
