"""A new subject on a finished atlas: registered to the template, which stays as it is, labelled and measured."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from medkit.atlas.affine_registration import AffineRegistration
from medkit.atlas.intensity_preparation import prepared
from medkit.atlas.known_images import digests_of, refuse_known
from medkit.atlas.outputs.label_atlas import LABELS
from medkit.atlas.outputs.label_propagation import write_subject_labels
from medkit.atlas.outputs.measures import append_measures, subject_measures, write_label_volumes
from medkit.atlas.outputs.saved_transforms import write_transforms
from medkit.atlas.priors import RegistrationPrior
from medkit.atlas.registration import PairEnergy, register_pair
from medkit.atlas.result import AtlasFolder, Member, add_to_record, bring, stripped
from medkit.atlas.subjects import AtlasSubject
from medkit.atlas.volumes import appearance
from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)


def add_subject(
    atlas: AtlasFolder,
    subject: AtlasSubject,
    matrix: np.ndarray | AffineRegistration | None = None,
    factors: Sequence[float] = (4, 2, 1),
    n_steps: Sequence[int] = (60, 40, 20),
    prior: RegistrationPrior | None = None,
    replace: bool = False,
) -> Member:
    """Register a new subject to a finished template, and write for it what the atlas's own subjects have.

    If the atlas took the bias out of its images or brought them to one scale of intensities, this image gets the same.

    Its velocity, its transformations and warped images, its labels where the template has some (so that a new scan is
    labelled), and its measures, as the method ``added``. It is written into ``atlas.json`` beside the subjects that the
    template was made of: the template is the same before and after, and when it is computed anew.

    Args:
        atlas: the finished atlas, its template written.
        subject: the new one, with at least one of the atlas's contrasts.
        matrix: ``(4, 4)``, from RAS mm of the template to RAS mm of the subject, or what :func:`align_to_template`
            returned; ``None``: both are in one space.
        factors: see :func:`register_pair`.
        n_steps: see :func:`register_pair`.
        prior: see :func:`register_pair`.
        replace: whether it may take the place of a subject that was added under its name.

    Returns:
        The subject as it was added.

    Raises:
        ValueError: if the atlas was made of a subject of this name or of this image, it was added before, no contrast
            is known, the matrix is no affine map, or a file is bad.
        FileNotFoundError: if a file is gone.

    Example:
        >>> add_subject(AtlasFolder("my_atlas"), AtlasSubject("new", {"image": "new_brain.nii.gz"}))
    """
    images = {contrast: path for contrast, path in subject.images.items() if contrast in atlas.contrasts}
    if not images:
        raise ValueError(
            f"add_subject: {subject.name!r} must have one of the contrasts {', '.join(atlas.contrasts)}, it has "
            f"{', '.join(subject.images) or 'none'}"
        )
    fit = matrix if isinstance(matrix, AffineRegistration) else None
    affine = np.eye(4) if matrix is None else np.asarray(matrix if fit is None else fit.matrix, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine)) < 1e-12:
        raise ValueError(f"add_subject: 'matrix' must be an invertible (4, 4) matrix, got {affine.tolist()}")
    taken = dataclasses.replace(subject, images=images)
    refuse_known(atlas, [taken], "add_subject", replace)
    ready = prepared(atlas.folder, taken, atlas.intensities)
    looks = {contrast: appearance(*stripped(ready, contrast)) for contrast in images}
    member = Member(
        ready,
        affine,
        {contrast: (look.low, look.high) for contrast, look in looks.items()},
        {contrast: look.is_whole for contrast, look in looks.items()},
        digests=digests_of(taken),
        alignment={} if fit is None else {"score": fit.score, "overlap": fit.overlap},
    )
    template = atlas.template()
    aligned, weight = bring(member, atlas.contrasts, atlas.frame)
    found = register_pair(template, aligned, atlas.frame.grid.spacing, weight, atlas.model, factors, n_steps, prior)
    # What is kept is rounded; everything else, the energy too, is of what is kept.
    kept = found.velocity.half()
    with atomic_path(atlas.folder / "velocities" / f"{member.name}.npy") as temporary:
        np.save(temporary, kept[0].numpy())
    problem = PairEnergy(atlas.model, atlas.frame.grid, template, aligned, weight)
    member = dataclasses.replace(member, energy=problem.energy(kept.float()))
    write_transforms(atlas, [member])
    has_labels = (atlas.folder / LABELS).is_file()
    dice = write_subject_labels(atlas, [member]) if has_labels else {}
    measures = subject_measures(atlas, member, template, dice.get(member.name))
    add_to_record(atlas.folder, member)
    atlas.added = (*(m for m in atlas.added if m.name != member.name), member)
    append_measures(atlas, {"case": member.name, "added": measures["atlas"]})
    if has_labels:
        write_label_volumes(atlas)
    logger.info("%s was added to %s", member.name, atlas.folder)
    return member
