"""The transformations of an atlas's subjects in files that ITK, ANTs and 3D Slicer apply, and what they make."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor
from tqdm import tqdm

from medkit.atlas.frame import Frame, resampled
from medkit.atlas.result import AtlasFolder, Member
from medkit.atlas.template import SMALLEST_VOLUME
from medkit.atlas.transform_files import (
    read_affine,
    read_displacement,
    write_affine,
    write_composite,
    write_displacement,
)
from medkit.atlas.volumes import load_volume
from medkit.ops import jacobian_determinant
from medkit.workflow import is_shown, write_nifti

logger = logging.getLogger(__name__)

WARP = "1Warp.nii.gz"
INVERSE_WARP = "1InverseWarp.nii.gz"
AFFINE = "0GenericAffine.mat"
COMPOSITE = "Composite.h5"


def subject_path(atlas: AtlasFolder, name: str, part: str) -> Path:
    """Return where a subject's result is: ``<folder>/subjects/<name>_<part>``."""
    return atlas.folder / "subjects" / f"{name}_{part}"


def warped_part(contrast: str, contrasts: Sequence[str]) -> str:
    """Return how the file of a warped image is called: ``warped.nii.gz``, or with the contrast's name before it."""
    return f"{contrast}_warped.nii.gz" if len(contrasts) > 1 else "warped.nii.gz"


def write_transforms(
    atlas: AtlasFolder,
    members: Sequence[Member] | None = None,
    composite: bool = False,
    smoothing: float = 0.0,
) -> None:
    """Write the transformations of subjects from their velocities, and their images on the template.

    Into ``subjects/`` go for each subject ``<name>_1Warp.nii.gz`` and ``<name>_1InverseWarp.nii.gz``, displacements in
    LPS mm on the template's grid, and ``<name>_0GenericAffine.mat``, the affine map that comes after the warp:
    ``antsApplyTransforms -i subject -r atlas -t 1Warp -t 0GenericAffine.mat``, and backwards ``-t
    [0GenericAffine.mat,1] -t 1InverseWarp``. Then ``<name>_warped.nii.gz``, its image on the template with its own
    intensities, by one interpolation (``<name>_<contrast>_warped.nii.gz`` where the atlas has several contrasts), and
    ``<name>_log_jacobian.nii.gz``, the logarithm of the change of volume of the warp: above 0 where the subject is
    larger than the template after the affine map.

    Args:
        atlas: the built atlas.
        members: of whom; ``None``: of all that it was built of.
        composite: write ``<name>_Composite.h5`` too, warp and affine map in one.
        smoothing: standard deviation of the Gaussian that smooths the logarithm of the Jacobian, mm; 0: none.

    Raises:
        ValueError: if ``smoothing`` is negative, or a file is bad.
        FileNotFoundError: if a subject's image is gone.

    Example:
        >>> write_transforms(AtlasFolder("my_atlas"), composite=True)
    """
    if not 0 <= smoothing < float("inf"):
        raise ValueError(f"write_transforms: 'smoothing' must be at least 0 mm, got {smoothing}")
    chosen = atlas.members if members is None else members
    for member in tqdm(chosen, "transforms", disable=not is_shown()):
        velocity = atlas.velocity(member)
        for part, inverse in ((WARP, False), (INVERSE_WARP, True)):
            field = atlas.moved(velocity, inverse)
            write_displacement(subject_path(atlas, member.name, part), field, atlas.frame.affine)
        write_affine(subject_path(atlas, member.name, AFFINE), member.matrix)
        saved, forward = read_forward(atlas, member)
        if composite:
            write_composite(subject_path(atlas, member.name, COMPOSITE), forward, atlas.frame.affine, saved.matrix)
        for contrast, path in member.subject.images.items():
            volume, source = load_volume(path)
            beyond = "zeros" if member.is_whole[contrast] else "border"
            pulled = resampled(volume, source, atlas.frame, saved.matrix, forward, padding=beyond)
            part = warped_part(contrast, atlas.contrasts)
            write_nifti(subject_path(atlas, member.name, part), pulled[0, 0], atlas.frame.affine)
        logarithm = log_jacobian(forward, atlas.frame, smoothing)
        write_nifti(subject_path(atlas, member.name, "log_jacobian.nii.gz"), logarithm[0, 0], atlas.frame.affine)
    logger.info("transformations of %d subjects are in %s", len(chosen), atlas.folder / "subjects")


def read_forward(atlas: AtlasFolder, member: Member) -> tuple[Member, Tensor]:
    """Read a subject's saved affine map and warp.

    Args:
        atlas: of the subject.
        member: the subject.

    Returns:
        The subject with the affine map of its file, and the displacement of the template to it, ``(1, 3,
        *frame.size)``, in voxels.

    Raises:
        FileNotFoundError: if they were not written.
        ValueError: if they are not of this atlas.
    """
    matrix = read_affine(subject_path(atlas, member.name, AFFINE))
    return replace(member, matrix=matrix), _read_field(atlas, member, WARP)


def read_inverse(atlas: AtlasFolder, member: Member) -> Tensor:
    """Read a subject's saved inverse warp, ``(1, 3, *frame.size)``, in voxels; see :func:`read_forward`."""
    return _read_field(atlas, member, INVERSE_WARP)


def _read_field(atlas: AtlasFolder, member: Member, part: str) -> Tensor:
    path = subject_path(atlas, member.name, part)
    field, affine = read_displacement(path)
    if not Frame(tuple(field.shape[2:]), affine).shares_grid_with(atlas.frame):
        raise ValueError(
            f"read_displacement: {path} must lie on the grid of the atlas {atlas.frame.size}, it is on another one "
            f"{tuple(field.shape[2:])}; write the transformations again"
        )
    return field


def log_jacobian(displacement: Tensor, frame: Frame, smoothing: float = 0.0) -> Tensor:
    """Logarithm of the change of volume of a transformation.

    Args:
        displacement: ``(1, 3, *frame.size)``, in voxels.
        frame: its grid.
        smoothing: standard deviation of a Gaussian that smooths it, mm; 0: none.

    Returns:
        ``(1, 1, *frame.size)``; what is folded counts as a volume of a millionth.
    """
    logarithm = jacobian_determinant(displacement).clamp(min=SMALLEST_VOLUME).log()
    if not smoothing:
        return logarithm
    smooth = GaussianFilter(3, [smoothing / h for h in frame.grid.spacing])
    return smooth(logarithm) / smooth(torch.ones_like(logarithm))
