"""Registration of two files, and images brought through the saved transformations of a subject."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from medkit.atlas.affine_registration import register_affine
from medkit.atlas.frame import Frame, resampled
from medkit.atlas.misalignment import misaligned
from medkit.atlas.outputs.measures import likeness
from medkit.atlas.outputs.panels import Layer, png
from medkit.atlas.outputs.pictures import draw_layers
from medkit.atlas.outputs.planes import Planes
from medkit.atlas.outputs.saved_transforms import read_forward, read_inverse
from medkit.atlas.priors import RegistrationPrior
from medkit.atlas.registration import Registration, RegistrationModel, register_pair
from medkit.atlas.result import AtlasFolder, Member, bring, stripped
from medkit.atlas.subject_names import SUFFIXES
from medkit.atlas.subjects import AtlasSubject
from medkit.atlas.transform_files import write_affine, write_composite, write_displacement
from medkit.atlas.volumes import appearance, load_volume, scaled
from medkit.ops import folding, warp
from medkit.workflow import atomic_path, write_metrics, write_nifti

logger = logging.getLogger(__name__)

ALIGNMENTS = ("affine", "rigid", "none")
CONTRAST = "image"


def _member(name: str, image: str | Path, mask: str | Path | None) -> tuple[Member, torch.Tensor, Frame]:
    """A subject that lies where its file says, with its image, 0 to 1, and its grid."""
    subject = AtlasSubject(name, {CONTRAST: str(image)}, None if mask is None else str(mask))
    volume, frame = stripped(subject, CONTRAST)
    look = appearance(volume, frame)
    member = Member(subject, np.eye(4), {CONTRAST: (look.low, look.high)}, {CONTRAST: look.is_whole})
    return member, scaled(volume, look.low, look.high), frame


def register_files(
    fixed: str | Path,
    moving: str | Path,
    output_dir: str | Path,
    fixed_mask: str | Path | None = None,
    moving_mask: str | Path | None = None,
    alignment: str = "affine",
    model: RegistrationModel | None = None,
    factors: Sequence[float] = (4, 2, 1),
    n_steps: Sequence[int] = (60, 40, 20),
    prior: RegistrationPrior | None = None,
    composite: bool = False,
) -> Registration:
    """Register two images, and write the transformations between them.

    Into the folder go ``1Warp.nii.gz``, ``1InverseWarp.nii.gz`` and ``0GenericAffine.mat``, as ANTs and ITK read them
    (``antsApplyTransforms -i moving -r fixed -t 1Warp.nii.gz -t 0GenericAffine.mat``); ``warped.nii.gz``, the moving
    image on the fixed one's grid by one interpolation, with its own intensities; ``metrics.json`` and ``metrics.csv``;
    and ``preview.png``.

    Args:
        fixed: NIfTI file.
        moving: NIfTI file, which is brought to it.
        output_dir: folder of the results.
        fixed_mask: NIfTI file, what is kept of the fixed image, such as its brain; ``None``: all.
        moving_mask: the same of the moving image.
        alignment: what goes before: ``"affine"``, ``"rigid"``, or ``"none"`` for images that are aligned already.
        model: the energy; ``None``: its defaults.
        factors: see :func:`register_pair`.
        n_steps: see :func:`register_pair`.
        prior: see :func:`register_pair`.
        composite: write ``Composite.h5`` too, all in one file for ITK.

    Returns:
        The registration, on the fixed image's grid.

    Raises:
        FileNotFoundError: if a file is not there.
        ValueError: if a file is bad, or an argument is out of its range.

    Example:
        >>> register_files("a.nii.gz", "b.nii.gz", "b_to_a")
    """
    if not fixed or not moving:
        raise ValueError(f"register_files: 'fixed' and 'moving' must be NIfTI files, got {fixed!r} and {moving!r}")
    if alignment not in ALIGNMENTS:
        raise ValueError(f"register_files: 'alignment' must be one of {', '.join(ALIGNMENTS)}, got {alignment!r}")
    folder = Path(output_dir)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"register_files: 'output_dir' must be a folder, {folder} is a file")
    _, target, frame = _member("fixed", fixed, fixed_mask)
    member, image, source = _member("moving", moving, moving_mask)
    matrix = np.eye(4)
    if alignment != "none":
        found = register_affine(target[0, 0], frame.affine, image[0, 0], source.affine, kind=alignment)
        logger.info("%s alignment: score %.3f, overlap %.3f", alignment, found.score, found.overlap)
        for _, reason in misaligned([found.score], [found.matrix], [found.overlap]):
            logger.warning(
                "the alignment of %s failed: %s; look at what is written, or align before and set alignment to 'none'",
                moving, reason,
            )  # fmt: skip
        matrix = found.matrix
    member = Member(member.subject, matrix, member.intensities, member.is_whole)
    aligned, weight = bring(member, (CONTRAST,), frame)
    if not bool((aligned if weight is None else aligned * weight).any()):
        raise ValueError(
            f"register_files: nothing of {moving} lies where {fixed} is; bring both into one space, or let 'alignment' "
            "be 'affine' or 'rigid'"
        )
    result = register_pair(target, aligned, frame.grid.spacing, weight, model, factors, n_steps, prior)
    write_displacement(folder / "1Warp.nii.gz", result.forward, frame.affine)
    write_displacement(folder / "1InverseWarp.nii.gz", result.inverse, frame.affine)
    write_affine(folder / "0GenericAffine.mat", matrix)
    if composite:
        write_composite(folder / "Composite.h5", result.forward, frame.affine, matrix)
    volume, grid = load_volume(moving)
    beyond = "zeros" if member.is_whole[CONTRAST] else "border"
    pulled = resampled(volume, grid, frame, matrix, result.forward, padding=beyond)
    write_nifti(folder / "warped.nii.gz", pulled[0, 0], frame.affine)
    warped, _ = bring(member, (CONTRAST,), frame, result.forward)
    changes = folding(result.forward)
    rows = {}
    for method, seen in (("affine", aligned), ("registered", warped)):
        alike = likeness(target, seen)
        rows[method] = {"ncc": alike.correlation, "psnr": alike.psnr}
    rows["registered"] |= {
        "jacobian_min": changes.minimum,
        "jacobian_max": changes.maximum,
        "folded_percent": 100 * changes.fraction,
        "inverse_ncc": likeness(warp(target, result.inverse), aligned).correlation,
    }
    write_metrics(folder, [{"case": Path(moving).name.split(".")[0], **rows}])
    planes = Planes.through_middle(target[0, 0], frame.affine, 0.05)
    layers = [
        Layer("fixed", target[0, 0]),
        Layer("moving, aligned", aligned[0, 0]),
        Layer("moving, registered", warped[0, 0]),
        Layer("difference", (warped - target)[0, 0], "RdBu_r", -0.5, 0.5, True),
    ]
    with atomic_path(folder / "preview.png") as temporary:
        temporary.write_bytes(png(draw_layers(layers, planes)))
    return result


def apply_transformation(
    atlas: AtlasFolder,
    name: str,
    image: str | Path,
    output: str | Path,
    inverse: bool = False,
    mode: str = "linear",
) -> None:
    """Bring an image through the saved transformations of a subject.

    Args:
        atlas: the finished atlas.
        name: of the subject.
        image: NIfTI file in the subject's space; with ``inverse`` in the template's.
        output: NIfTI file to write: on the template's grid; with ``inverse`` on that of the subject's first image.
        inverse: from the template to the subject.
        mode: ``"linear"``, or ``"nearest"`` for labels.

    Raises:
        ValueError: if there is no such subject, a file is bad or lies elsewhere, or the output is no NIfTI file.
        FileNotFoundError: if a file is not there.

    Example:
        >>> apply_transformation(AtlasFolder("my_atlas"), "1001", "activation.nii.gz", "on_template.nii.gz")
    """
    if not str(output).lower().endswith(SUFFIXES):
        raise ValueError(f"apply_transformation: 'output' must be a NIfTI file (.nii, .nii.gz), got {output}")
    member, forward = read_forward(atlas, atlas.member(name))
    volume, source = load_volume(image)
    if not inverse:
        found = resampled(volume, source, atlas.frame, member.matrix, forward, mode, "zeros")
        grid = atlas.frame
    else:
        _, grid = load_volume(next(iter(member.subject.images.values())))
        # The affine map back to the template's space, then the inverse warp there: one interpolation of the image.
        moved = resampled(read_inverse(atlas, member), atlas.frame, grid, np.linalg.inv(member.matrix))
        found = _through(volume, source, grid, np.linalg.inv(member.matrix), moved, atlas.frame, mode)
    if not bool(found.any()):
        where = f"the image of {name!r}" if not inverse else "the template"
        raise ValueError(f"apply_transformation: nothing of {image} lies where {where} is; it must be in its space")
    labels = found.round().to(torch.int32) if mode == "nearest" and bool((volume == volume.round()).all()) else found
    write_nifti(output, labels[0, 0], grid.affine)


def _through(
    volume: torch.Tensor,
    source: Frame,
    grid: Frame,
    matrix: np.ndarray,
    moved: torch.Tensor,
    frame: Frame,
    mode: str,
) -> torch.Tensor:
    """Read a volume at ``matrix`` times each voxel of a grid, displaced there by vectors in voxels of a frame."""
    # The displacement comes after the matrix here: as one before it, in voxels of the grid.
    whole = np.linalg.inv(np.linalg.inv(frame.affine) @ matrix @ grid.affine)[:3, :3]
    before = torch.einsum("ij,bjxyz->bixyz", torch.from_numpy(whole), moved.double())
    return resampled(volume, source, grid, matrix, before, mode, "zeros")
