"""Which subjects of a cohort an affine registration has failed for, and why."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

FLOORS = {"mi": 0.03, "lncc": 0.3}
OUTLIER = 3.5  # robust standard deviations below the cohort's median
SMALLEST_SPREAD = 0.1  # of the median score: good cohorts scatter by less, and that is no reason to name anybody
SCALES = (0.6, 1.67)
SMALLEST_OVERLAP = 0.75
SMALLEST_COHORT = 4


def misaligned(
    scores: Sequence[float],
    matrices: Any,
    overlaps: Sequence[float] | None = None,
    *,
    metric: str = "mi",
    floor: float | None = None,
    scales: tuple[float, float] = SCALES,
    smallest_overlap: float = SMALLEST_OVERLAP,
) -> list[tuple[int, str]]:
    """Name the subjects whose alignment should not be trusted.

    A subject is named for the first of: numbers that are not finite, a map that reflects, scales out of range, too
    little overlap, a score below the floor, and a score far below the others' (3.5 robust standard deviations by the
    median absolute deviation, at least 4 subjects).

    Args:
        scores: of :func:`register_affine`, all by one metric, higher is better.
        matrices: ``(N, D + 1, D + 1)``, from the template to each subject, in mm.
        overlaps: Dice of template and subject, 0 to 1; ``None``: not looked at.
        metric: that of the scores.
        floor: least score; ``None``: 0.03 for ``"mi"`` and 0.3 for ``"lncc"``. On brains of ten people the right maps
            have 0.07 to 0.12 and 0.38 to 0.68, maps that are upside down at most 0.03 and 0.24.
        scales: least and largest stretch in any direction.
        smallest_overlap: least overlap.

    Returns:
        Index and reason, one sentence, of each one named, in their order.

    Raises:
        ValueError: if there are not as many of each, or the metric is unknown.

    Example:
        >>> misaligned([0.1, 0.1, 0.0], [np.eye(4)] * 3)
        [(2, 'the images have almost nothing in common: score 0.000, at least 0.030 is expected')]
    """
    maps = np.asarray(matrices, dtype=np.float64)
    values = np.asarray(scores, dtype=np.float64)
    shared = None if overlaps is None else np.asarray(overlaps, dtype=np.float64)
    if maps.ndim != 3 or maps.shape[1:] not in ((3, 3), (4, 4)) or values.shape != maps.shape[:1]:
        raise ValueError(
            f"misaligned: 'matrices' must be (N, D + 1, D + 1) with one of 'scores' for each, got {maps.shape} and "
            f"{values.shape}"
        )
    if shared is not None and shared.shape != values.shape:
        raise ValueError(f"misaligned: 'overlaps' must be one for each of {len(values)} subjects, got {shared.shape}")
    if metric not in FLOORS:
        raise ValueError(f"misaligned: 'metric' must be one of {', '.join(FLOORS)}, got {metric!r}")
    lowest = FLOORS[metric] if floor is None else floor
    usual, least = _usual(values)
    named = []
    for i, (score, matrix) in enumerate(zip(values, maps, strict=True)):
        overlap = 1.0 if shared is None else float(shared[i])
        reason = _reason(float(score), matrix[:-1, :-1], overlap, lowest, scales, smallest_overlap)
        if reason is None and score < least:
            reason = f"it fits far worse than the others: score {score:.3f}, half of them have more than {usual:.3f}"
        if reason is not None:
            named.append((i, reason))
    return named


def _usual(values: np.ndarray) -> tuple[float, float]:
    """Median of the scores, and the least that is no outlier."""
    finite = values[np.isfinite(values)]
    if len(finite) < SMALLEST_COHORT:
        return math.nan, -math.inf
    median = float(np.median(finite))
    spread = max(1.4826 * float(np.median(np.abs(finite - median))), SMALLEST_SPREAD * abs(median))
    return median, median - OUTLIER * spread


def _reason(
    score: float, linear: np.ndarray, overlap: float, floor: float, scales: tuple[float, float], smallest_overlap: float
) -> str | None:
    """What is wrong with one subject by itself."""
    if not math.isfinite(score) or not math.isfinite(overlap) or not np.isfinite(linear).all():
        return "its score, its overlap or its map is not finite"
    if np.linalg.det(linear) <= 0:
        return "its map reflects: left and right are exchanged, or the map is singular"
    stretches = np.linalg.svd(linear, compute_uv=False)
    if stretches[-1] < scales[0] or stretches[0] > scales[1]:
        return (
            f"its map stretches by {stretches[-1]:.2f} to {stretches[0]:.2f}, from {scales[0]:g} to {scales[1]:g} is "
            "plausible"
        )
    if overlap < smallest_overlap:
        return f"the objects overlap by {overlap:.2f} (Dice), at least {smallest_overlap:g} is expected"
    if score < floor:
        return f"the images have almost nothing in common: score {score:.3f}, at least {floor:.3f} is expected"
    return None
