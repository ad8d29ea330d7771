"""The files of a cohort, each read once before anything is computed, so that a bad one ends the run at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from medkit.atlas.building.jobs import Jobs, Record
from medkit.atlas.frame import resampled
from medkit.atlas.known_images import digest_of
from medkit.atlas.outputs.label_maps import check_labels
from medkit.atlas.result import stripped
from medkit.atlas.subjects import AtlasSubject
from medkit.atlas.volumes import Appearance, appearance, load_volume


@dataclass(frozen=True)
class Look:
    """What is known of an image before it is used.

    Args:
        seen: its intensities and its foreground.
        spacing: least one of its axes, mm.
        digest: of the voxels of the file that the user gave.
    """

    seen: Appearance
    spacing: float
    digest: str


Looks = Mapping[str, Mapping[str, Look]]


def look_at(jobs: Jobs, phase: str, subjects: Sequence[AtlasSubject]) -> Looks:
    """Read all files of subjects.

    Args:
        jobs: runs the pieces, one for each subject.
        phase: name of the phase.
        subjects: the subjects.

    Returns:
        For each subject what is known of each of its images, by contrast.

    Raises:
        ValueError: if a file is bad, names the subject.
    """
    known = {subject.name: subject for subject in subjects}

    def work(name: str) -> Record:
        subject = known[name]
        try:
            found = {contrast: _look(subject, contrast) for contrast in subject.images}
            if subject.labels is not None:
                check_labels(subject.labels, load_volume(list(subject.images.values())[-1])[1])
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(f"HybridAtlas: the subject {name!r} cannot be used: {error}") from error
        return {contrast: asdict(look) for contrast, look in found.items()}

    records = jobs.each(phase, list(known), work)
    return {
        name: {c: Look(Appearance(**each["seen"]), each["spacing"], each["digest"]) for c, each in record.items()}
        for name, record in records.items()
    }


def _look(subject: AtlasSubject, contrast: str) -> Look:
    volume, source = stripped(subject, contrast)
    weight = None
    if subject.weight is not None:
        values, grid = load_volume(subject.weight)
        weight = resampled(values, grid, source, mode="nearest", padding="zeros")
    seen = appearance(volume, source, weight)
    own = volume if subject.mask is None else load_volume(subject.images[contrast])[0]
    return Look(seen, float(min(source.grid.spacing)), digest_of(own))
