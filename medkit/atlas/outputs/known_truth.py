"""A template compared with the true one: of the simulated cohort, which is known, or of a file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkit.atlas.frame import Frame, resampled
from medkit.atlas.outputs.label_maps import dice_scores
from medkit.atlas.outputs.measures import FOREGROUND, sharpness
from medkit.atlas.result import AtlasFolder
from medkit.atlas.volumes import load_volume
from medkit.data import BrainCohort
from medkit.data.cohort.labels import BRAIN


@dataclass(frozen=True)
class Truth:
    """The true template of a cohort.

    Args:
        image: float32, ``(1, 1, *frame.size)``, any unit, of the atlas's first contrast.
        frame: its grid, in the space of the subjects.
        labels: of the same shape, float32; ``None``: none are known.
    """

    image: Tensor
    frame: Frame
    labels: Tensor | None = None


def simulated_cohort(atlas: AtlasFolder, n_subjects: int = 1, split: str | None = None) -> BrainCohort | None:
    """Return a cohort like the one whose simulated subjects an atlas was built of.

    Args:
        atlas: the atlas.
        n_subjects: of the cohort that is returned.
        split: of it; ``None``: that of the atlas.

    Returns:
        The cohort; ``None`` if the atlas was built of other images, or by another version of the generator.
    """
    splits, spacings = set(), set()
    for member in atlas.members:
        images = atlas.intensities.originals.get(member.name, member.subject.images)
        for contrast, image in images.items():
            path = Path(image)
            found = re.fullmatch(r"brain-cohort-v\d+-(\w+)-[0-9a-f]{12}", path.parent.parent.name)
            if found is None or path.name != f"{path.parent.name}_{contrast}.nii" or not path.is_file():
                return None
            splits.add((found[1], path.parent.parent.name.rsplit("-", 1)[0]))
            spacings.add(round(float(load_volume(path)[1].grid.spacing[0]), 6))
    if len(splits) != 1 or len(spacings) != 1:
        return None
    own, kind = splits.pop()
    spacing = spacings.pop()
    known = BrainCohort(n_subjects, own, spacing=spacing, contrasts=atlas.contrasts)
    if known.folder.name.rsplit("-", 1)[0] != kind:
        return None
    return known if split is None else BrainCohort(n_subjects, split, spacing=spacing, contrasts=atlas.contrasts)


def read_truth(atlas: AtlasFolder, path: str | Path | None = None) -> Truth | None:
    """Return the true template of an atlas, if it is known.

    Args:
        atlas: the atlas.
        path: NIfTI file of it, in the space of the subjects; ``None``: that of the simulated cohort, if the atlas was
            built of it.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is bad.
    """
    if path is not None:
        return Truth(*load_volume(path))
    cohort = simulated_cohort(atlas)
    if cohort is None:
        return None
    true = cohort.template
    inside = torch.from_numpy(np.isin(true.labels.numpy(), [cohort.LABELS[name] for name in BRAIN]))
    frame = Frame(tuple(inside.shape), true.affine)
    images, labels = (x.float() * inside for x in (true.images[atlas.contrasts[0]], true.labels))
    return Truth(images[None, None], frame, labels[None, None])


def truth_on(atlas: AtlasFolder, truth: Truth) -> Truth:
    """Bring a truth to the grid of an atlas: a point of the template lies in the mean of where the affine maps take it.

    For the truth is in the middle of the subjects as they were before the alignment; without one nothing moves.
    """
    mean = np.mean([member.matrix for member in atlas.members], axis=0)
    image = resampled(truth.image, truth.frame, atlas.frame, mean, padding="zeros")
    if truth.labels is None:
        return Truth(image, atlas.frame)
    labels = resampled(truth.labels, truth.frame, atlas.frame, mean, mode="nearest", padding="zeros")
    return Truth(image, atlas.frame, labels)


def against_truth(template: Tensor, truth: Tensor, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> dict[str, float]:
    """Compare a template with the truth, whatever its scale of intensities.

    Args:
        template: real, ``(1, 1, *S)``, any unit.
        truth: ``(1, 1, *S)``, 0 to 1.
        spacing: mm between voxels.

    Returns:
        ``ncc``; and after the linear map of intensities that brings it closest to the truth, ``rmse`` and
        ``log_sharpness``, the absolute logarithm of the ratio of mean gradients in the foreground of the truth.

    Raises:
        ValueError: if shapes differ, or one of the images is the same everywhere.

    Example:
        >>> truth = torch.rand(1, 1, 8, 8, 8)
        >>> round(against_truth(200 * truth + 5, truth)["ncc"], 6)
        1.0
    """
    x, y = template.flatten().double(), truth.flatten().double()
    if template.shape != truth.shape or not bool(x.std() > 0) or not bool(y.std() > 0):
        raise ValueError(
            f"against_truth: 'template' and 'truth' must be of one shape and not flat, got {tuple(template.shape)} and "
            f"{tuple(truth.shape)}"
        )
    x, centred = x - x.mean(), y - y.mean()
    slope = float((x @ centred) / (x @ x))
    mapped = (slope * x + y.mean()).reshape(truth.shape)
    inside = truth > FOREGROUND
    ratio = sharpness(mapped, spacing, inside) / sharpness(truth, spacing, inside)
    return {
        "ncc": float((x @ centred) / (x.norm() * centred.norm())),
        "rmse": float((mapped.flatten() - y).square().mean().sqrt()),
        "log_sharpness": abs(math.log(ratio)) if ratio > 0 else math.inf,
    }


def label_agreement(first: Tensor, second: Tensor) -> float:
    """Mean Dice of the labels that are in one of two maps of whole numbers; NaN without any."""
    scores = dice_scores(*(x.round().to(torch.int64).numpy() for x in (first, second)))
    return sum(scores.values()) / len(scores) if scores else math.nan
