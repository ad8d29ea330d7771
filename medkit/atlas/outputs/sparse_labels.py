"""Probabilities of many labels as lists of those that are not 0 at each voxel, and the most probable one at points."""

from __future__ import annotations

import itertools
from weakref import WeakKeyDictionary

import numpy as np

from medkit.atlas.outputs.label_atlas import PROBABILITIES, STEPS, read_probabilities
from medkit.atlas.result import AtlasFolder

VOTES = 2**21  # of a block of points, that memory does not grow with labels or voxels


class SparseLabels:
    """Probabilities of labels, voxel by voxel.

    Args:
        atlas: the atlas, its labels written by :func:`write_label_atlas`.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if the file is damaged.

    Example:
        >>> SparseLabels(AtlasFolder("my_atlas")).most_probable(np.array([[40.5], [50.0], [45.2]]))
        array([17])
    """

    def __init__(self, atlas: AtlasFolder):
        size = atlas.frame.size
        voxels, ranks, steps, values = [], [], [], []
        for rank, (value, volume) in enumerate(read_probabilities(atlas)):
            flat = volume.reshape(-1, order="F")  # as it is stored: no copy
            seen = np.flatnonzero(flat)
            voxels.append(seen.astype(np.int32 if flat.size < 2**31 else np.int64))
            ranks.append(np.full(len(seen), rank, np.int32))
            steps.append(flat[seen])
            values.append(value)
        self.values = np.array(values, np.int64)
        # One voxel of background around the grid: a point beside it needs no question where it is.
        self._shape = tuple(n + 2 for n in size)
        found = np.concatenate(voxels) if voxels else np.empty(0, np.int32)
        x, y, z = np.unravel_index(found, size, order="F")
        at = np.ravel_multi_index((x + 1, y + 1, z + 1), self._shape)
        order = np.argsort(at, kind="stable")
        self._ranks = (np.concatenate(ranks) if ranks else np.empty(0, np.int32))[order]
        self._steps = (np.concatenate(steps) if steps else np.empty(0, np.uint8))[order]
        counts = np.bincount(at, minlength=int(np.prod(self._shape)))
        self._first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32 if len(at) < 2**31 else np.int64)
        strides = (self._shape[1] * self._shape[2], self._shape[2], 1)
        self._corners = [(c, int(np.dot(c, strides))) for c in itertools.product((0, 1), repeat=3)]
        near = (counts > 0).reshape(self._shape)
        for axis in range(3):  # whether one of the eight voxels from here on has a label
            along = [slice(None)] * 3
            along[axis] = slice(0, -1)
            ahead = [slice(None)] * 3
            ahead[axis] = slice(1, None)
            near[tuple(along)] |= near[tuple(ahead)]
        self._near = near.ravel()

    def most_probable(self, points: np.ndarray) -> np.ndarray:
        """Return the most probable label where probabilities are interpolated linearly.

        Args:
            points: float64, ``(3, n)``, in voxels; beyond the grid is background, as is what the labels leave.

        Returns:
            int64, ``(n,)``.
        """
        limits = np.array(self._shape).reshape(3, 1) - 2
        low = np.floor(points)
        inside = ((low >= -1) & (low < limits)).all(0)
        cells = np.zeros(points.shape[1], np.int64)
        cells[inside] = np.ravel_multi_index(tuple(low[:, inside].astype(np.int64) + 1), self._shape)
        asked = np.flatnonzero(inside & self._near[cells])
        out = np.zeros(points.shape[1], np.int64)
        block = max(1, VOTES // (len(self.values) + 1))
        for start in range(0, len(asked), block):
            chosen = asked[start : start + block]
            out[chosen] = self._winners(cells[chosen], points[:, chosen] - low[:, chosen])
        return out

    def _winners(self, cells: np.ndarray, part: np.ndarray) -> np.ndarray:
        """Labels of points in cells, at a part of the way to the next voxel along each axis."""
        n = len(self.values)
        rows, entries, weights = [], [], []
        for corner, step in self._corners:
            at = cells + step
            first = self._first[at]
            counts = self._first[at + 1] - first
            weight = np.prod([part[k] if side else 1 - part[k] for k, side in enumerate(corner)], axis=0)
            row = np.repeat(np.arange(len(cells)), counts)
            ends = np.cumsum(counts)
            rows.append(row)
            entries.append(np.arange(len(row)) - np.repeat(ends - counts - first, counts))
            weights.append(weight[row])
        row, entry, weight = (np.concatenate(each) for each in (rows, entries, weights))
        votes = weight * self._steps[entry] / STEPS
        sums = np.bincount(row * n + self._ranks[entry], votes, minlength=len(cells) * n).reshape(len(cells), n)
        best = sums.argmax(1)
        is_background = sums[np.arange(len(cells)), best] <= 1 - sums.sum(1)  # what the labels leave
        return np.where(is_background, 0, self.values[best])


def sparse_labels(atlas: AtlasFolder) -> SparseLabels:
    """Return the probabilities of an atlas's labels; what was read is kept as long as the file and the atlas last."""
    path = atlas.folder / PROBABILITIES
    stamp = (path.stat().st_mtime_ns, path.stat().st_size) if path.is_file() else None
    known = _kept.get(atlas)
    if known is None or known[0] != stamp:
        known = _kept[atlas] = (stamp, SparseLabels(atlas))
    return known[1]


_kept: WeakKeyDictionary[AtlasFolder, tuple[tuple[int, int] | None, SparseLabels]] = WeakKeyDictionary()
