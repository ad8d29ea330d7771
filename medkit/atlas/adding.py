"""New scans for a finished atlas: named, aligned with its template, and refused where that cannot be trusted."""

from __future__ import annotations

import logging
from pathlib import Path

from medkit.atlas.affine_registration import AffineRegistration, register_affine
from medkit.atlas.frame import resampled
from medkit.atlas.known_images import original_images, refuse_known
from medkit.atlas.misalignment import misaligned
from medkit.atlas.outputs.failed_alignment import draw_failure
from medkit.atlas.outputs.new_subject import add_subject
from medkit.atlas.result import AtlasFolder, Member, stripped
from medkit.atlas.subjects import AtlasSubject, Files, list_subjects
from medkit.atlas.volumes import appearance, scaled

logger = logging.getLogger(__name__)

ALIGNMENTS = ("affine", "rigid", "none")


class MisalignedError(ValueError):
    """An alignment that should not be trusted; its message names the subject, the reason and a picture."""


def add_scans(
    folder: str | Path,
    images: Files,
    masks: Files | None = None,
    alignment: str = "affine",
    exclude_failed: bool = False,
    replace: bool = False,
) -> list[Member]:
    """Register new scans to a finished template, and label them; see :func:`add_subject`.

    All of them are read and aligned before the first is added. They are named as the files of the atlas were: what
    those end with is taken off.

    Args:
        folder: of the atlas.
        images: of the atlas's first contrast: pattern, folder, or list of NIfTI files.
        masks: what is kept of each image, such as its brain.
        alignment: what goes before: ``"affine"``, ``"rigid"``, or ``"none"`` for scans in the template's space.
        exclude_failed: whether to leave out scans whose alignment failed; otherwise nothing is added then.
        replace: whether scans may take the place of those that were added under their names.

    Returns:
        The subjects that were added.

    Raises:
        FileNotFoundError: if there is no finished atlas, or a file is not there.
        ValueError: if the atlas has a scan already, an alignment failed (:class:`MisalignedError`), or a file is bad.

    Example:
        >>> add_scans("my_atlas", ["new_T1.nii.gz"])
    """
    atlas = AtlasFolder(folder)
    if alignment not in ALIGNMENTS:
        raise ValueError(f"add_scans: 'alignment' must be one of {', '.join(ALIGNMENTS)}, got {alignment!r}")
    subjects = list_subjects({atlas.contrasts[0]: images}, masks=masks, like=files_of(atlas))
    refuse_known(atlas, subjects, "add_scans", replace)
    maps = aligned_scans(atlas, subjects, alignment, exclude_failed)
    known = {subject.name: subject for subject in subjects}
    # The folder is read anew each time: who was added last is in it.
    return [add_subject(AtlasFolder(folder), known[name], found, replace=replace) for name, found in maps.items()]


def files_of(atlas: AtlasFolder) -> dict[str, str]:
    """Return the file of each subject that an atlas was built of, in its first contrast, as the user gave it."""
    contrast = atlas.contrasts[0]
    files = {member.name: original_images(atlas, member).get(contrast) for member in atlas.members}
    return {name: path for name, path in files.items() if path is not None}


def aligned_scans(
    atlas: AtlasFolder, subjects: list[AtlasSubject], alignment: str, exclude_failed: bool
) -> dict[str, AffineRegistration | None]:
    """Align new subjects with a template; those for whom it failed end the run, or are left out with a warning.

    Args:
        atlas: the finished atlas.
        subjects: the subjects.
        alignment: ``"affine"``, ``"rigid"`` or ``"none"``.
        exclude_failed: whether to leave out who failed.

    Returns:
        The map of each one; ``None`` where there is nothing to align.

    Raises:
        MisalignedError: if an alignment failed, and ``exclude_failed`` is not set, or nobody is left.
    """
    maps: dict[str, AffineRegistration | None] = {}
    faults = []
    for subject in subjects:
        try:
            maps[subject.name] = None if alignment == "none" else align_to_template(atlas, subject, alignment)
        except MisalignedError as error:
            faults.append(str(error).partition(": ")[2])
        else:
            (atlas.folder / f"failed_{subject.name}.png").unlink(missing_ok=True)  # of an earlier try
    if faults and not (exclude_failed and maps):
        more = "" if exclude_failed else ", or leave such scans out by 'exclude_failed' (--exclude_failed)"
        raise MisalignedError(
            f"align_to_template: {'; '.join(faults)}; align before, and set alignment to 'none'{more}"
        )
    for fault in faults:
        logger.warning("left out: %s", fault)
    return maps


def align_to_template(atlas: AtlasFolder, subject: AtlasSubject, kind: str = "affine") -> AffineRegistration:
    """Find the linear map from a template to a new subject.

    Args:
        atlas: the finished atlas.
        subject: with the atlas's first contrast.
        kind: ``"affine"`` or ``"rigid"``.

    Returns:
        Its ``matrix``, ``(4, 4)``, is from RAS mm of the template to RAS mm of the subject.

    Raises:
        MisalignedError: if it should not be trusted; ``failed_<name>.png`` in the atlas's folder shows it.
        ValueError: if a file is bad, or the contrast is missing.
    """
    contrast = atlas.contrasts[0]
    if contrast not in subject.images:
        raise ValueError(f"align_to_template: {subject.name!r} must have the contrast {contrast!r}")
    volume, source = stripped(subject, contrast)
    look = appearance(volume, source)
    moving, template, frame = scaled(volume, look.low, look.high), atlas.template()[:, :1], atlas.frame
    found = register_affine(template[0, 0], frame.affine, moving[0, 0], source.affine, kind=kind)
    logger.info("%s alignment of %s: score %.3f, overlap %.3f", kind, subject.name, found.score, found.overlap)
    for _, reason in misaligned([found.score], [found.matrix], [found.overlap]):
        placed = resampled(moving, source, frame, found.matrix, padding="zeros")
        picture = draw_failure(atlas.folder, subject.name, template, placed, frame)
        raise MisalignedError(
            f"align_to_template: the alignment of {subject.name!r} failed: {reason}; look at {picture}"
        )
    return found
