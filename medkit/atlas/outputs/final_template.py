"""The template as a function of saved transformations and the subjects' own images, each interpolated once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.atlas.outputs.saved_transforms import read_forward, read_inverse
from medkit.atlas.result import AtlasFolder, Member, bring, template_name
from medkit.atlas.template import SMALLEST_VOLUME, TemplateSums
from medkit.ops import jacobian_determinant
from medkit.workflow import write_nifti

Forward = Callable[[Member], tuple[Member, Tensor]]
Inverse = Callable[[Member], Tensor]


@dataclass(frozen=True)
class TemplateEstimate:
    """A template and how sure it is.

    Args:
        template: float32, ``(1, C, *S)``.
        std: standard deviation of the subjects that were pulled to it, the same shape and unit.
        weight: how many subjects count at each voxel, each of them weighted by its change of volume, the same shape.
    """

    template: Tensor
    std: Tensor
    weight: Tensor


def estimate_template(
    atlas: AtlasFolder,
    members: Sequence[Member],
    forward: Forward,
    inverse: Inverse,
    n_steps: int,
    shares: Sequence[float] | None = None,
) -> TemplateEstimate:
    """TemplateEstimate the template that explains subjects best, for given transformations.

    The weighted mean of the subjects' images, pulled by one interpolation of their files, weighted by the change of
    volume (form ``"subject"`` of the energy), and then steps that bring back what the interpolation blurred. Subjects
    are read one after the other, in their order; sums are float64.

    Args:
        atlas: where the model, the frame and the contrasts are from.
        members: the subjects.
        forward: for a subject, it with its affine map, and the displacement of the template to it.
        inverse: for a subject, the displacement of the inverse.
        n_steps: majorise-minimise steps, none for form ``"template"`` of the energy, whose minimum is the mean.
        shares: how much each subject counts, at least 0; ``None``: 1. Subjects of share 0 are not read.

    Returns:
        The estimate.

    Raises:
        ValueError: if a file is bad.
        FileNotFoundError: if a file is gone.
    """
    counts = [1.0] * len(members) if shares is None else [float(share) for share in shares]
    present = [(m, share) for m, share in zip(members, counts, strict=True) if share > 0]
    is_subject_form = atlas.model.form == "subject"
    like = torch.zeros(1, len(atlas.contrasts), *atlas.frame.size)
    sums, squares = TemplateSums.zeros(like), TemplateSums.zeros(like)
    aligned: list[Member] = []
    for member, share in present:
        placed, displacement = forward(member)
        aligned.append(placed)
        images, weight = bring(placed, atlas.contrasts, atlas.frame, displacement)
        counted = torch.full_like(images, share)
        if is_subject_form:
            counted = counted * jacobian_determinant(displacement).clamp(min=SMALLEST_VOLUME)
        if weight is not None:
            counted = counted * weight
        sums.add(images, counted)
        squares.add(images.double().square(), counted)
    sums, squares = (_symmetric(atlas, s) for s in (sums, squares))
    template = sums.template()
    bottom = sums.denominator.clamp(min=1e-12)
    variance = squares.numerator / bottom - (sums.numerator / bottom).square()
    for _ in range(n_steps if is_subject_form else 0):
        residuals = TemplateSums.zeros(like)
        for placed, (member, share) in zip(aligned, present, strict=True):
            images, weight = bring(placed, atlas.contrasts, atlas.frame)
            residuals.add_residual(template, images, inverse(member), weight, sigma=share**-0.5)
        template = _symmetric(atlas, residuals).majorised(template)
    return TemplateEstimate(template, variance.clamp(min=0).sqrt().float(), sums.denominator.float())


def _symmetric(atlas: AtlasFolder, sums: TemplateSums) -> TemplateSums:
    return sums.mirrored() if atlas.symmetric else sums


def recompute_template(atlas: AtlasFolder) -> TemplateEstimate:
    """Make the template anew from the saved transformations and the subjects' images, and write it.

    It depends on nothing else, so that template and transformations belong together. Writes ``atlas.nii.gz``, its
    standard deviation over the subjects ``atlas_std.nii.gz`` and how many count ``atlas_weight.nii.gz``; where there
    are several contrasts, ``atlas_<contrast>.nii.gz`` and so on.

    Args:
        atlas: the built atlas, its transformations written by :func:`write_transforms`.

    Returns:
        What was written.

    Raises:
        ValueError: if a file is bad.
        FileNotFoundError: if a transformation was not written, or an image is gone.

    Example:
        >>> recompute_template(AtlasFolder("my_atlas")).template.shape
        torch.Size([1, 1, 192, 224, 192])
    """
    estimate = estimate_template(
        atlas,
        atlas.members,
        lambda member: read_forward(atlas, member),
        lambda member: read_inverse(atlas, member),
        atlas.n_final_steps,
    )
    for part, images in (("", estimate.template), ("std", estimate.std), ("weight", estimate.weight)):
        for k, contrast in enumerate(atlas.contrasts):
            path = atlas.folder / template_name(contrast, atlas.contrasts, part)
            write_nifti(path, images[0, k], atlas.frame.affine)
    return estimate
