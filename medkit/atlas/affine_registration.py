"""Rigid, similarity and affine registration of two volumes on grids of their own, found again from any position."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medkit.atlas.affine_descent import KINDS, METRICS, improved
from medkit.atlas.affine_starts import FOREGROUND, LARGE_TURN, Framed, angle_of, framed, likeness, moved, starts
from medkit.atlas.intensities import normalised

logger = logging.getLogger(__name__)

N_VOXELS = (24, 48, 72)  # along the longest side of the object at each level: 8, 4 and 3 mm for a brain
N_VOXELS_OF_STARTS = 16
NEAR = 20.0  # degrees between starts that are followed
LARGE_TURN_GAIN = 0.03  # by which a start that is turned further must be better


@dataclass(frozen=True)
class AffineRegistration:
    """A map found between two volumes.

    Args:
        matrix: ``(D + 1, D + 1)`` float64, from RAS mm of the fixed volume to RAS mm of the moving one.
        score: how alike both are under it, inside the fixed weight (or the fixed object less its edge):
            correlation for ``"lncc"``, mutual information as a share of the entropies for ``"mi"``; 1: the same, 0: no
            relation.
        overlap: Dice overlap of both objects under the map, 0 to 1.
        n_starts: positions that were compared.
        start: the one that won, ``(D + 1, D + 1)``.
    """

    matrix: np.ndarray
    score: float
    overlap: float
    n_starts: int
    start: np.ndarray


def register_affine(
    fixed: Tensor | np.ndarray,
    fixed_affine: Any,
    moving: Tensor | np.ndarray,
    moving_affine: Any,
    *,
    kind: str = "affine",
    metric: str = "mi",
    fixed_weight: Tensor | np.ndarray | None = None,
    moving_weight: Tensor | np.ndarray | None = None,
    start: Any = None,
    n_starts: int = 4,
) -> AffineRegistration:
    """Find the linear map between two volumes, whatever their grids and positions.

    Without a start the objects are laid on each other in many turns, compared on a coarse grid, and the best few are
    followed, by a quasi-Newton method. There is no chance in it: on a CPU with as many threads, repeats are equal bit
    for bit.

    Args:
        fixed: real, ``(X, Y, Z)`` or ``(X, Y)``, any unit.
        fixed_affine: ``(D + 1, D + 1)``, its voxel indices to RAS mm.
        moving: real, as many axes, on a grid of its own.
        moving_affine: ``(D + 1, D + 1)``, its voxel indices to RAS mm.
        kind: ``"rigid"``, ``"similarity"`` (one scale) or ``"affine"``.
        metric: ``"mi"``, mutual information, or ``"lncc"``, local correlation: slower, for one contrast under bias.
        fixed_weight: like ``fixed``, where above 0.5 it counts; ``None``: everywhere.
        moving_weight: like ``moving``.
        start: ``(D + 1, D + 1)``, from fixed to moving RAS mm, where to begin; ``None``: search for it.
        n_starts: of those compared, how many are followed.

    Returns:
        The map and how well it fits. A moving volume that is constant gives score 0.

    Raises:
        ValueError: if a volume is not finite, has not two or three axes, or ``fixed`` is constant, an affine is
            singular, or an option is unknown.

    Example:
        >>> found = register_affine(template, np.eye(4), subject, subject_affine, kind="rigid")
        >>> found.matrix.shape
        (4, 4)
    """
    if kind not in KINDS or metric not in METRICS or n_starts < 1:
        raise ValueError(
            f"register_affine: 'kind' must be one of {', '.join(KINDS)}, 'metric' one of {', '.join(METRICS)}, "
            f"'n_starts' at least 1, got {kind!r}, {metric!r} and {n_starts}"
        )
    still = _framed("fixed", fixed, fixed_affine, fixed_weight)
    other = _framed("moving", moving, moving_affine, moving_weight)
    if still.values.ndim != other.values.ndim:
        raise ValueError(
            "register_affine: 'fixed' and 'moving' must have as many axes, got "
            f"{still.values.ndim - 2} and {other.values.ndim - 2}"
        )
    if not bool(still.values.any()):
        raise ValueError("register_affine: 'fixed' must show something, it is constant")
    levels: list[tuple[Framed, Framed]] = []
    for n in N_VOXELS:
        level = (still.at(still.extent / n), other.at(still.extent / n))
        if not levels or level[0].values.shape != levels[-1][0].values.shape:  # a small volume has fewer
            levels.append(level)
    given = None if start is None else _checked_affine("start", start, len(still.affine) - 1)
    if not bool(other.values.any()):
        logger.warning("register_affine: the moving volume is constant")
        matrix = np.eye(len(still.affine)) if given is None else given
        return AffineRegistration(matrix, 0.0, 0.0, 0, matrix)
    if given is None:
        found, n_compared, origin = _from_anywhere(*levels[0], metric, n_starts)
        remaining = levels[1:] or levels
    else:
        found, n_compared, origin, remaining = given, 1, given, levels
    for level in remaining:
        found = improved(*level, found, kind, metric)
    score, overlap = _fit(*levels[min(1, len(levels) - 1)], found, metric)
    return AffineRegistration(found, score, overlap, n_compared, origin)


def _checked_affine(argument: str, affine: Any, n_axes: int) -> np.ndarray:
    matrix = np.asarray(affine, dtype=np.float64)
    wanted = (n_axes + 1, n_axes + 1)
    if matrix.shape != wanted or not np.isfinite(matrix).all() or abs(np.linalg.det(matrix)) < 1e-12:
        raise ValueError(f"register_affine: '{argument}' must be an invertible {wanted} matrix, got {matrix.tolist()}")
    return matrix


def _framed(argument: str, volume: Tensor | np.ndarray, affine: Any, weight: Tensor | np.ndarray | None) -> Framed:
    values = torch.as_tensor(volume, dtype=torch.float32).detach().cpu()
    if values.ndim not in (2, 3) or min(values.shape) < 4 or not bool(torch.isfinite(values).all()):
        raise ValueError(
            f"register_affine: '{argument}' must be finite with two or three axes of at least 4 voxels, got "
            f"{tuple(values.shape)}"
        )
    counted = None if weight is None else torch.as_tensor(weight, dtype=torch.float32).detach().cpu()
    if counted is not None and (counted.shape != values.shape or not bool((counted > 0.5).any())):
        raise ValueError(
            f"register_affine: '{argument}_weight' must be {tuple(values.shape)} and somewhere above 0.5, got "
            f"{tuple(counted.shape)}"
        )
    return framed(normalised(values), counted, _checked_affine(f"{argument}_affine", affine, values.ndim))


def _fit(fixed: Framed, moving: Framed, matrix: np.ndarray, metric: str) -> tuple[float, float]:
    """Score and overlap of the objects."""
    here, there = fixed.values > FOREGROUND, moved(fixed, moving, matrix)[0] > FOREGROUND
    mask = fixed.weight
    if mask is None:
        # Without the object's edge, which any filled shape would fit.
        pool = F.max_pool2d if here.ndim == 4 else F.max_pool3d
        inner = 1 - pool((~here).float(), 3, stride=1, padding=1)
        mask = inner if bool(inner.any()) else here.float()
    both = 2 * float((here & there).sum()) / max(float(here.sum() + there.sum()), 1.0)
    return likeness(fixed, moving, matrix, metric, mask), both


def _doubt(matrix: np.ndarray) -> float:
    """Brains are nearly symmetric and headers mostly right: what turns far must be better by more than chance."""
    return LARGE_TURN_GAIN if angle_of(matrix[:-1, :-1]) > LARGE_TURN else 0.0


def _from_anywhere(fixed: Framed, moving: Framed, metric: str, n_starts: int) -> tuple[np.ndarray, int, np.ndarray]:
    """Rigid map at the coarsest level, how many starts were compared, and the one that won."""
    candidates = list(starts(fixed, moving))
    few = fixed.at(fixed.extent / N_VOXELS_OF_STARTS), moving.at(fixed.extent / N_VOXELS_OF_STARTS)
    scores = [likeness(*few, matrix, metric) - _doubt(matrix) for matrix in candidates]
    chosen: list[np.ndarray] = []
    for index in np.argsort(-np.array(scores), kind="stable"):
        near = (angle_of(candidates[index][:-1, :-1].T @ other[:-1, :-1]) < NEAR for other in chosen)
        if not any(near):
            chosen.append(candidates[index])
        if len(chosen) == n_starts:
            break
    best, best_score, origin = chosen[0], -np.inf, chosen[0]
    for candidate in chosen:
        found = improved(fixed, moving, candidate, "rigid", metric)
        score = likeness(fixed, moving, found, metric) - _doubt(found)
        if score > best_score:
            best, best_score, origin = found, score, candidate
    return best, len(candidates), origin
