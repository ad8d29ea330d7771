"""The template that the first round begins with, where a user says which: a file, or one of the subjects."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkit.atlas.affine_registration import register_affine
from medkit.atlas.building.jobs import Jobs, Record
from medkit.atlas.building.settings import AtlasSettings
from medkit.atlas.building.velocities import load, store
from medkit.atlas.frame import Frame
from medkit.atlas.pyramid import downsampled
from medkit.atlas.result import Member, bring
from medkit.atlas.subjects import AtlasSubject
from medkit.atlas.volumes import appearance, load_volume

logger = logging.getLogger(__name__)


def check_initial(initial: str, subjects: Sequence[AtlasSubject]) -> None:
    """Refuse an initial template that is neither a subject nor a good file, before anything is computed.

    Args:
        initial: name of a subject, or a NIfTI file.
        subjects: of the atlas.

    Raises:
        FileNotFoundError: if there is neither.
        ValueError: if the file is bad.
    """
    names = [subject.name for subject in subjects]
    if initial in names:
        return
    if not Path(initial).is_file():
        raise FileNotFoundError(
            "HybridAtlas: 'initial' must be a NIfTI file or the name of a subject, there is no file and no subject "
            f"{initial!r}; subjects are {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
        )
    try:
        appearance(*load_volume(initial))
    except ValueError as error:
        raise ValueError(f"HybridAtlas: the initial template {initial} cannot be used: {error}") from error


def write_initial(
    jobs: Jobs,
    phase: str,
    initial: str,
    settings: AtlasSettings,
    frame: Frame,
    members: Sequence[Member],
    contrasts: tuple[str, ...],
    images: Path,
    mean: Path,
) -> Path:
    """Bring the initial template to the grid of a level.

    A file shows the atlas's first contrast. It is aligned with the mean of the subjects as they were with each other,
    or stays where its coordinates say if they were not aligned. What it does not show is the mean of the subjects.

    Args:
        jobs: runs the piece.
        phase: its name.
        initial: name of a subject, or a NIfTI file.
        settings: of the atlas.
        frame: of the atlas.
        members: its subjects.
        contrasts: its contrasts.
        images: folder of the subjects on the frame.
        mean: file of the mean of the subjects on the level's grid, ``(1, C, *S)``.

    Returns:
        File of the template on the level's grid, ``(1, C, *S)``.

    Raises:
        ValueError: if the subject was left out, or nothing of the file lies in the frame.
    """
    path = jobs.folder(phase) / "template.npy"

    def work() -> Record:
        member = next((m for m in members if m.name == initial), None)
        if member is None:
            member = _placed(initial, settings, frame, members, contrasts[0], images)
        image, weight = bring(member, contrasts, frame)
        if not bool((image if weight is None else image * weight).any()):
            raise ValueError(
                f"HybridAtlas: nothing of the initial template {initial} lies where the subjects are; bring it into "
                "their space, or set alignment to other than 'none'"
            )
        rest = load(mean)
        size = rest.shape[2:]
        shown = torch.ones_like(image) if weight is None else weight
        start = downsampled(image * shown, size) + (1 - downsampled(shown, size)) * rest
        store(path, 0.5 * (start + start.flip(2)) if settings.symmetric else start)
        return {}

    jobs.once(phase, work)
    return path


def _placed(
    initial: str, settings: AtlasSettings, frame: Frame, members: Sequence[Member], contrast: str, images: Path
) -> Member:
    """Return a file as if it were a subject, aligned with the mean of the subjects where these were aligned."""
    if not Path(initial).is_file():
        raise ValueError(f"HybridAtlas: the subject {initial!r} of 'initial' was left out; name another one")
    volume, source = load_volume(initial)
    look = appearance(volume, source)
    matrix = np.eye(4)
    if settings.alignment != "none":
        total: Tensor = torch.zeros(frame.size, dtype=torch.float64)
        for member in members:  # their first channel is the first contrast, which an alignment needs of all
            total += load(images / f"{member.name}.npy")[0]
        fixed = (total / len(members)).float()
        found = register_affine(fixed, frame.affine, volume[0, 0], source.affine, kind=settings.alignment)
        logger.info("%s alignment of the initial template: score %.3f", settings.alignment, found.score)
        matrix = found.matrix
    subject = AtlasSubject("initial", {contrast: initial})
    return Member(subject, matrix, {contrast: (look.low, look.high)}, {contrast: look.is_whole})
