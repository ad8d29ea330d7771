"""How well a template and its subjects explain each other, how far they are apart, and how volumes change."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medkit.atlas.outputs.label_atlas import LABELS
from medkit.atlas.outputs.saved_transforms import read_forward, read_inverse
from medkit.atlas.result import AtlasFolder, Member, bring
from medkit.ops import folding, jacobian_determinant, warp
from medkit.workflow import atomic_path, is_shown, write_metrics

FOREGROUND = 0.05  # of intensities from 0 to 1
CASES = "metrics.json"
WHOLE = "summary.json"
VOLUMES = "label_volumes.csv"


@dataclass(frozen=True)
class Likeness:
    """How alike two images are where they count.

    Args:
        correlation: normalised cross-correlation, -1 to 1.
        psnr: peak signal-to-noise ratio, intensities being 0 to 1, dB.
    """

    correlation: float
    psnr: float


def likeness(first: Tensor, second: Tensor, weight: Tensor | None = None) -> Likeness:
    """Compare two images in the foreground of either of them.

    Args:
        first: real, ``(1, C, *S)``, 0 to 1.
        second: the same.
        weight: ``(1, C, *S)``, how much each voxel counts; ``None``: 1.

    Returns:
        Means over the channels that count somewhere; NaN if none does.
    """
    found = []
    for k in range(first.shape[1]):
        a, b = first[0, k].double(), second[0, k].double()
        share = (torch.maximum(a, b) > FOREGROUND).double()
        if weight is not None:
            share = share * weight[0, k].double()
        total = float(share.sum())
        if total <= 0:
            continue
        a_mean, b_mean = (float((share * x).sum()) / total for x in (a, b))
        cross = float((share * (a - a_mean) * (b - b_mean)).sum())
        norms = float((share * (a - a_mean).square()).sum() * (share * (b - b_mean).square()).sum())
        error = float((share * (a - b).square()).sum()) / total
        psnr = -10 * math.log10(error) if error > 0 else math.inf
        found.append((cross / math.sqrt(norms) if norms > 0 else math.nan, psnr))
    if not found:
        return Likeness(math.nan, math.nan)
    means = [sum(x) / len(found) for x in zip(*found, strict=True)]
    return Likeness(means[0], means[1])


def subject_measures(
    atlas: AtlasFolder, member: Member, template: Tensor, dice: Mapping[int, float] | None = None
) -> dict[str, dict[str, float]]:
    """Measure one subject, from its saved transformations.

    Args:
        atlas: of the subject.
        member: the subject.
        template: ``(1, C, *frame.size)``.
        dice: overlap of each label, if it has labels.

    Returns:
        For ``affine``, the affine map alone, and ``atlas``, all: ``ncc_to_subject`` and ``psnr_to_subject`` of the
        template pushed to the subject, ``ncc_to_template`` and ``psnr_to_template`` of the subject pulled to the
        template. For ``atlas`` also ``energy``, ``jacobian_min``, ``jacobian_max``, ``folded_percent`` and
        ``log_jacobian_std`` of the warp, its ``mean_displacement_mm`` in the foreground, and ``dice``, the mean over
        the labels.
    """
    placed, forward = read_forward(atlas, member)
    aligned, weight = bring(placed, atlas.contrasts, atlas.frame)
    pulled, pulled_weight = bring(placed, atlas.contrasts, atlas.frame, forward)
    pushed = likeness(warp(template, read_inverse(atlas, member)), aligned, weight)
    back = likeness(pulled, template, pulled_weight)
    start = likeness(template, aligned, weight)
    steps = torch.tensor(atlas.frame.grid.spacing).reshape(1, 3, 1, 1, 1)
    length = (forward * steps).square().sum(1, keepdim=True).sqrt()
    seen = template.amax(1, keepdim=True) > FOREGROUND
    changes = folding(forward)
    measures = {
        **_named(pushed, back),
        "energy": member.energy,
        "jacobian_min": changes.minimum,
        "jacobian_max": changes.maximum,
        "folded_percent": 100 * changes.fraction,
        "log_jacobian_std": changes.log_std,
        "mean_displacement_mm": float(length[seen].mean()) if bool(seen.any()) else math.nan,
    }
    if dice:
        measures["dice"] = sum(dice.values()) / len(dice)
    return {"affine": _named(start, start), "atlas": measures}


def _named(to_subject: Likeness, to_template: Likeness) -> dict[str, float]:
    return {
        "ncc_to_subject": to_subject.correlation,
        "psnr_to_subject": to_subject.psnr,
        "ncc_to_template": to_template.correlation,
        "psnr_to_template": to_template.psnr,
    }


def sharpness(template: Tensor, spacing: Sequence[float], inside: Tensor | None = None) -> float:
    """Mean length of an image's gradient in its foreground, per mm: to look at, not to maximise, for noise raises it.

    Args:
        template: real, ``(1, C, *S)``, 0 to 1.
        spacing: mm between voxels.
        inside: bool, the same shape: where else than in the foreground; ``None``: there.
    """
    slopes = torch.gradient(template.double(), spacing=[float(h) for h in spacing], dim=[2, 3, 4])
    length = torch.stack(list(slopes)).square().sum(0).sqrt()
    seen = template > FOREGROUND if inside is None else inside
    return float(length[seen].mean()) if bool(seen.any()) else math.nan


def bias(atlas: AtlasFolder) -> float:
    """Mean length of the mean of the velocities, mm: how far the template leans to one side. 0 is unbiased."""
    total = torch.zeros(1, 3, *atlas.metric.size, dtype=torch.float64)
    for member in atlas.members:
        total += atlas.velocity(member).double()
    mean = atlas.metric.to_mm(total / len(atlas.members))
    return float(mean.square().sum(1).sqrt().mean())


def write_measures(atlas: AtlasFolder, dice: Mapping[str, Mapping[int, float]] | None = None) -> dict[str, float]:
    """Write ``metrics.json`` and ``metrics.csv`` of the subjects, ``summary.json`` of the whole, and ``energy.json``.

    The form of the first two is that of :func:`medkit.workflow.write_metrics`, what is in them says
    :func:`subject_measures`. The summary holds the number of subjects, ``sharpness_per_mm`` and ``bias_mm``. Where
    there are labels, :func:`write_label_volumes` adds its table.

    Args:
        atlas: the finished atlas.
        dice: for each subject that has labels the overlap of each; of a subject that is not in it, what was written
            before stays.

    Returns:
        The numbers of the summary.

    Raises:
        FileNotFoundError: if the template or a transformation was not written.
    """
    template, scores, before = atlas.template(), dice or {}, _written(atlas)
    cases = []
    for member in tqdm((*atlas.members, *atlas.added), "metrics", disable=not is_shown()):
        measures = subject_measures(atlas, member, template, scores.get(member.name))
        known = before.get(member.name, {})
        if member.name not in scores and "dice" in known:
            measures["atlas"]["dice"] = known["dice"]
        added = member not in atlas.members
        cases.append({"case": member.name, **({"added": measures["atlas"]} if added else measures)})
    write_metrics(atlas.folder, cases)
    summary = {
        "n_subjects": len(atlas.members),
        "sharpness_per_mm": sharpness(template, atlas.frame.grid.spacing),
        "bias_mm": bias(atlas),
    }
    for name, content in ((WHOLE, summary), ("energy.json", atlas.trace)):
        with atomic_path(atlas.folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    if (atlas.folder / LABELS).is_file():
        write_label_volumes(atlas)
    return summary


def append_measures(atlas: AtlasFolder, case: Mapping[str, object]) -> None:
    """Write the measures of one more subject into ``metrics.json`` and ``metrics.csv``, in the place of older ones."""
    write_metrics(atlas.folder, [*(old for old in _cases(atlas) if old["case"] != case["case"]), case])


def _cases(atlas: AtlasFolder) -> list[dict[str, Any]]:
    path = atlas.folder / CASES
    return list(json.loads(path.read_text(encoding="utf-8"))["cases"]) if path.is_file() else []


def _written(atlas: AtlasFolder) -> dict[str, dict[str, float]]:
    """Measures of each subject that were written before."""
    return {case["case"]: case.get("atlas", case.get("added", {})) for case in _cases(atlas)}


def write_label_volumes(atlas: AtlasFolder) -> None:
    """Write ``label_volumes.csv``: for each subject and label of the template how its volume changes.

    Columns: ``subject``, ``label``, ``template_mm3``, the volume in the template, ``subject_mm3``, that of its image in
    the subject, ``volume_change``, the ratio of both without that of the affine map, and ``mean_log_jacobian`` of the
    warp. Subjects that were added come last.

    Args:
        atlas: the atlas, its labels written.

    Raises:
        FileNotFoundError: if labels or transformations were not written.
    """
    labels = np.asarray(nib.load(atlas.folder / LABELS).dataobj).ravel()
    values, indices = np.unique(labels, return_inverse=True)
    counts = np.bincount(indices)
    unit = atlas.frame.grid.voxel_volume
    with atomic_path(atlas.folder / VOLUMES) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", "label", "template_mm3", "subject_mm3", "volume_change", "mean_log_jacobian"])
        for member in (*atlas.members, *atlas.added):
            placed, forward = read_forward(atlas, member)
            jacobian = jacobian_determinant(forward).clamp(min=1e-6).double().numpy().ravel()
            ratios = np.bincount(indices, jacobian) / counts
            logarithms = np.bincount(indices, np.log(jacobian)) / counts
            affine = abs(np.linalg.det(placed.matrix[:3, :3]))
            for k, value in enumerate(values):
                if value:
                    volume = counts[k] * unit
                    row = (volume, volume * ratios[k] * affine, ratios[k], logarithms[k])
                    writer.writerow([member.name, int(value), *(f"{x:.8g}" for x in row)])
