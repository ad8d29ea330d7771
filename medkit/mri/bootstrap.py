"""How sure a difference between two methods is: the same subjects, drawn again and again."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

FEWEST = 5  # subjects; of fewer, an interval by resampling says next to nothing
BATCH = 1000  # resamples in memory at a time


class PairedDifference(NamedTuple):
    """A mean difference between two methods, and where it may lie: of :func:`paired_bootstrap`.

    Args:
        mean: of the first method less the second, over subjects, in the unit of the values.
        low: lower end of the confidence interval of that mean.
        high: upper end.
        n: number of subjects.
    """

    mean: float
    low: float
    high: float
    n: int


def paired_bootstrap(
    a: Sequence[float] | np.ndarray,
    b: Sequence[float] | np.ndarray,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    subjects: Sequence[Hashable] | None = None,
) -> PairedDifference:
    """Confidence interval of the mean difference between two methods over the same subjects, by the bootstrap.

    Whole subjects are resampled, since cases of one subject are alike: their differences are averaged first. The
    interval is the bias-corrected and accelerated one (BCa) of :func:`scipy.stats.bootstrap`; where that is not
    defined, as for differences that are all equal, it is between percentiles. Where 0 lies outside, the methods differ
    by more than the choice of subjects explains; it does not cover another training, scanner or population.

    Args:
        a: a metric of the first method, a value for each case.
        b: the same metric of the second method, for the same cases in the same order.
        n_resamples: how often subjects are drawn.
        confidence: how often such an interval should hold the mean of all subjects, above 0 and below 1.
        seed: of the drawing.
        subjects: whose each case is; ``None``: each case is of another subject.

    Returns:
        ``mean``, ``low`` and ``high`` of ``a`` less ``b``, in their unit, and ``n``, the number of subjects.

    Raises:
        ValueError: if the lengths differ, a value is not finite, there are fewer than 5 subjects, or ``n_resamples`` or
            ``confidence`` is out of its range.

    Example:
        >>> paired_bootstrap([31.0, 33.0, 30.0, 35.0, 34.0], [30.0, 30.0, 29.0, 32.0, 30.0]).mean
        2.4
    """
    from scipy.stats import DegenerateDataWarning, bootstrap

    first, second = (np.asarray(values, dtype=np.float64) for values in (a, b))
    n_subjects = None if subjects is None else len(subjects)
    if first.ndim != 1 or first.shape != second.shape or n_subjects not in (None, len(first)):
        raise ValueError(
            "paired_bootstrap: 'a', 'b' and 'subjects' must have one entry for each case, got shapes "
            f"{first.shape} and {second.shape}" + f", and {n_subjects} subjects" * (n_subjects is not None)
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("paired_bootstrap: 'a' and 'b' must be finite; leave out cases of which one is not")
    if n_resamples < 1 or not 0 < confidence < 1:
        raise ValueError(
            "paired_bootstrap: 'n_resamples' must be at least 1 and 'confidence' between 0 and 1, got "
            f"{n_resamples} and {confidence}"
        )
    own: dict[Hashable, list[float]] = {}
    for who, value in zip(range(len(first)) if subjects is None else subjects, first - second, strict=True):
        own.setdefault(who, []).append(float(value))
    differences = np.array([np.mean(values) for values in own.values()])
    if len(differences) < FEWEST:
        raise ValueError(
            f"paired_bootstrap: there must be at least {FEWEST} subjects, got {len(differences)}; compare more of them"
        )
    low = high = math.nan
    for method in ("BCa", "percentile"):
        if math.isfinite(low) and math.isfinite(high):
            break
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore", DegenerateDataWarning)
            interval = bootstrap(
                (differences,),
                np.mean,
                n_resamples=n_resamples,
                batch=BATCH,
                confidence_level=confidence,
                method=method,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return PairedDifference(float(differences.mean()), low, high, len(differences))
