"""Measures of templates that ask the same of every tool: of time, of folding and bias, and of labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medkit.atlas import (
    AtlasFolder,
    AtlasSettings,
    AtlasSubject,
    Frame,
    HybridAtlas,
    RegistrationPrior,
    resampled,
)
from medkit.atlas.building.jobs import Jobs, Record
from medkit.ops import folding
from tests.benchmarks.ants_side import cpu_seconds


class TimedAtlas(HybridAtlas):
    """An atlas that knows when its velocities were found and when its template was written, in CPU-seconds.

    What comes between are files of the transformations, and what comes after are measures and pictures.
    """

    def _finish(self, jobs: Jobs, *args: Any) -> None:
        self.found_at = cpu_seconds()
        once = jobs.once

        def watched(phase: str, work: Callable[[], Record]) -> Record:
            record = once(phase, work)
            if phase == "outputs-template":
                self.written_at = cpu_seconds()
            return record

        jobs.once = watched  # type: ignore[method-assign]
        super()._finish(jobs, *args)


def timed_build(
    folder: Path, settings: AtlasSettings, subjects: Sequence[AtlasSubject], prior: RegistrationPrior | None = None
) -> tuple[AtlasFolder, dict[str, float]]:
    """Build an atlas, and return it with the CPU-seconds to its velocities, its template, and its end."""
    began = cpu_seconds()
    builder = TimedAtlas(folder, settings, prior)
    atlas = builder.build(subjects)
    moments = {"velocities_cpu_s": builder.found_at, "template_cpu_s": builder.written_at, "cpu_s": cpu_seconds()}
    return atlas, {name: moment - began for name, moment in moments.items()}


def field_measures(fields: Iterable[Tensor], spacing: Sequence[float]) -> dict[str, float]:
    """Measure displacements of a template to its subjects.

    Args:
        fields: each ``(1, 3, *S)``, in voxels.
        spacing: mm between voxels.

    Returns:
        ``folded``, how many voxels of all have a Jacobian determinant that is not positive, and ``mean_shift_mm``, the
        mean length of the mean displacement.
    """
    n_folded, total, n = 0, torch.zeros(()), 0
    for field in fields:
        n_folded += folding(field).n_folded
        total, n = total + field.double(), n + 1
    lengths = total / n * torch.tensor(spacing, dtype=torch.float64).reshape(1, -1, *[1] * len(spacing))
    return {"folded": n_folded, "mean_shift_mm": float(lengths.square().sum(1).sqrt().mean())}


def template_on(atlas: AtlasFolder, frame: Frame, image: Tensor | None = None) -> Tensor:
    """Return the template, or another image ``(1, 1, *S)`` on its grid, on the grid of the images it was made from."""
    return resampled(atlas.template() if image is None else image, atlas.frame, frame)


def interval(values: Sequence[float], seed: int = 0, n_resamples: int = 10_000) -> tuple[float, float, float]:
    """Return the mean of values of subjects, and the ends of its 95 % interval by resampling subjects."""
    array = np.asarray(values, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(array), size=(n_resamples, len(array)))
    low, high = np.quantile(array[drawn].mean(1), (0.025, 0.975))
    return float(array.mean()), float(low), float(high)


def dice_table(scores: Sequence[dict[int, float]], structures: Sequence[int]) -> dict[str, Any]:
    """Sum up the overlap of structures in several subjects.

    Args:
        scores: of each subject, for each label 0 to 1; a label that is missing from both maps has none.
        structures: labels that count.

    Returns:
        ``dice``, the mean over structures and subjects with its interval over subjects, and ``structures``, the same of
        each.
    """
    rows = [[score.get(label, 0.0) for label in structures] for score in scores]
    means = [sum(row) / len(row) for row in rows]
    each = {str(label): interval([row[k] for row in rows]) for k, label in enumerate(structures)}
    return {"dice": interval(means), "structures": each}
