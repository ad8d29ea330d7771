"""Intensities of a cohort before anything else: bias taken out, and one scale for all, as pieces of work on files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from medkit.atlas.building.jobs import Jobs, Record
from medkit.atlas.building.settings import AtlasSettings
from medkit.atlas.intensity_preparation import IntensityPreparation, corrected, prepared, quantiles
from medkit.atlas.subjects import AtlasSubject


def prepare_intensities(
    jobs: Jobs, settings: AtlasSettings, subjects: Sequence[AtlasSubject], folder: Path
) -> tuple[list[AtlasSubject], IntensityPreparation]:
    """Write the images of all subjects as the atlas takes them, if its settings change any.

    The reference of the intensities is the median of all subjects' quantiles, which one odd scan does not change. It is
    fixed before the first round: the images do not change while the atlas is built, and its energy stays comparable.

    Args:
        jobs: runs the pieces.
        settings: of the atlas.
        subjects: its subjects.
        folder: of the atlas; the images go into ``prepared``.

    Returns:
        The subjects, with their new files, and what was done.

    Raises:
        ValueError: if a file is bad.
    """
    found = list(subjects)
    originals = {subject.name: dict(subject.images) for subject in subjects}
    if settings.bias_correction:
        place = jobs.root / "unbiased" if settings.match_intensities else folder
        found = _written(jobs, "bias", found, place, IntensityPreparation(bias_correction=True))
    reference: dict[str, list[float]] = {}
    if settings.match_intensities:
        known = {subject.name: subject for subject in found}

        def work(name: str) -> Record:
            return {contrast: _curve(known[name], contrast) for contrast in known[name].images}

        records = jobs.each("quantiles", list(known), work)
        for contrast in sorted({contrast for record in records.values() for contrast in record}):
            curves = [record[contrast] for record in records.values() if contrast in record]
            reference[contrast] = [median(values) for values in zip(*curves, strict=True)]
        found = _written(jobs, "matching", found, folder, IntensityPreparation(reference=reference))
    done = IntensityPreparation(settings.bias_correction, reference, originals)
    return found, done if not done.does_nothing else IntensityPreparation()


def _written(
    jobs: Jobs, phase: str, subjects: Sequence[AtlasSubject], folder: Path, preparation: IntensityPreparation
) -> list[AtlasSubject]:
    """Write the images of all subjects."""
    known = {subject.name: subject for subject in subjects}

    def work(name: str) -> Record:
        try:
            return {"images": dict(prepared(folder, known[name], preparation).images)}
        except (ValueError, FileNotFoundError) as error:
            raise _named(name, error) from error

    records = jobs.each(phase, list(known), work)
    return [replace(known[name], images=records[name]["images"]) for name in known]


def _curve(subject: AtlasSubject, contrast: str) -> list[float]:
    try:
        volume, inside, _ = corrected(subject, contrast, bias_correction=False)
        return quantiles(volume, inside).tolist()
    except (ValueError, FileNotFoundError) as error:
        raise _named(subject.name, error) from error


def _named(name: str, error: Exception) -> ValueError:
    return ValueError(f"HybridAtlas: the subject {name!r} cannot be used: {error}")
