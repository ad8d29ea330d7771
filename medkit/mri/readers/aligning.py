"""Bring a reference contrast onto the grid of its target, by the files' geometry alone or by a rigid registration."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medkit.data import keys as names
from medkit.mri.readers.acquisition import Acquisition
from medkit.mri.readers.caching import file_stamp
from medkit.mri.readers.opening import open_acquisition
from medkit.workflow import atomic_path, write_nifti

logger = logging.getLogger(__name__)

MODES = ("none", "grid", "rigid")
VERSION = 2  # of what is done: counted up by any change, so that no kept file outlives it
MIN_SLICES = 8
SAMPLES = 300_000  # voxels that the mutual information is taken from at each scale
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def aligned_guide(target: Acquisition, guide: Acquisition, mode: str) -> tuple[Path, dict[str, float]]:
    """Resample a reference contrast on the grid of its target, after estimating how the head moved between them.

    The result is kept in ``$MEDKIT_CACHE/aligned``, and made again when one of the files changes.

    Args:
        target: a volume with geometry.
        guide: another one, of the same head.
        mode: ``"grid"``: trust the geometry in the files; ``"rigid"``: search the rotation and the translation with the
            largest mutual information, starting from that geometry, also when the grids are the same: the patient may
            have moved between the scans.

    Returns:
        Path of the aligned volume, with the axes of the target's file, and the motion that was found:
        ``rotation_deg``, and ``translation_mm`` of the middle of the volume.

    Raises:
        ImportError: if SimpleITK is missing.
        ValueError: if the target has fewer than 8 slices, the registration fails, or the two do not overlap.
    """
    identity = [str(guide.path), *file_stamp(guide.path), str(target.path), *file_stamp(target.path), mode, VERSION]
    slice_axis = getattr(target, "slice_axis", 2)
    digest = hashlib.sha256(json.dumps([*identity, slice_axis]).encode("utf-8")).hexdigest()[:16]
    folder = Path(os.environ.get("MEDKIT_CACHE") or Path.home() / ".cache" / "medkit") / "aligned"
    kept, record = folder / f"{guide.name}-{digest}.nii", folder / f"{guide.name}-{digest}.json"
    if kept.is_file() and record.is_file():
        return kept, json.loads(record.read_text(encoding="utf-8"))
    volume, motion = _registered(target, guide, mode)
    order = [axis for axis in range(3) if axis != slice_axis] + [slice_axis]
    back = [order.index(axis) for axis in range(3)]
    write_nifti(kept, volume.permute(back), target.affine[:, [*back, 3]])
    with atomic_path(record) as temporary:
        temporary.write_text(json.dumps(motion) + "\n", encoding="utf-8")
    return kept, motion


def align_entry(entry: dict[str, Any], mode: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return an entry of a list of pairs with its reference contrasts aligned, and report the motion found."""
    target = open_acquisition(entry[names.PATH], **options)
    paths = []
    for path in entry[names.GUIDE]:
        guide = open_acquisition(path, **options)
        aligned, motion = aligned_guide(target, guide, mode)
        if mode == "rigid":
            logger.info(
                "%s: %s had moved by %.2f mm and %.2f degrees against %s",
                entry[names.CASE],
                guide.path.name,
                motion["translation_mm"],
                motion["rotation_deg"],
                target.path.name,
            )
        paths.append(str(aligned))
    return {**entry, names.GUIDE: paths}


def _registered(target: Acquisition, guide: Acquisition, mode: str) -> tuple[torch.Tensor, dict[str, float]]:
    """Reference on the grid of the target (H, W, S), and the motion."""
    try:
        import SimpleITK as sitk  # noqa: N813  its own abbreviation
    except ImportError as error:
        raise ImportError("aligned_guide: SimpleITK is not installed; run: pip install 'medkit[slicer]'") from error
    fixed, moving = (_itk_image(sitk, exam) for exam in (target, guide))
    motion = sitk.Euler3DTransform()
    size, matrix = np.array(fixed.GetSize()), np.eye(3)
    middle = np.array(fixed.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in size.tolist()]))
    if mode == "rigid":
        if target.n_slices < MIN_SLICES:
            raise ValueError(
                f"aligned_guide: {target.path} must have at least {MIN_SLICES} slices for a rigid alignment, it has "
                f"{target.n_slices}; pass align='grid'"
            )
        motion.SetCenter(middle.tolist())
        try:
            _search(sitk, fixed, moving, motion)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[-200:]
            raise ValueError(
                f"aligned_guide: {guide.path} cannot be aligned with {target.path}: {reason}; check that they show the "
                "same head in one space, or pass align='grid'"
            ) from error
        matrix = np.array(motion.GetMatrix()).reshape(3, 3)
    inside = sitk.Image(moving.GetSize(), sitk.sitkUInt8) + 1
    inside.CopyInformation(moving)
    covered = sitk.Resample(inside, fixed, motion, sitk.sitkNearestNeighbor, 0)
    if not sitk.GetArrayViewFromImage(covered).any():
        raise ValueError(
            f"aligned_guide: {guide.path} must show what {target.path} shows, but by their geometry the two have no "
            "voxel in common; mend the geometry of one of them, or take another file"
        )
    moved = np.array(motion.TransformPoint(middle.tolist())) - middle
    angle = np.degrees(np.arccos(np.clip((np.trace(matrix) - 1) / 2, -1, 1)))
    aligned = sitk.Resample(moving, fixed, motion, sitk.sitkBSpline, 0.0)
    array = sitk.GetArrayFromImage(aligned).transpose(2, 1, 0)
    limits = sitk.GetArrayViewFromImage(moving)
    array = np.clip(array, limits.min(), limits.max())  # splines overshoot at edges
    found = {"rotation_deg": float(angle), "translation_mm": float(np.linalg.norm(moved))}
    return torch.from_numpy(np.ascontiguousarray(array)), found


def _itk_image(sitk: Any, exam: Acquisition) -> Any:
    """Return a volume as an ITK image, whose axes are row, column and slice."""
    volume = exam.read_volume()[0].numpy()
    image = sitk.GetImageFromArray(np.ascontiguousarray(volume.transpose(2, 1, 0)))
    axes = RAS_TO_LPS @ exam.affine[:3, :3]
    spacing = np.linalg.norm(axes, axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((axes / spacing).ravel().tolist())
    image.SetOrigin((RAS_TO_LPS @ exam.affine[:3, 3]).tolist())
    return image


def _search(sitk: Any, fixed: Any, moving: Any, motion: Any) -> None:
    """Maximise the mutual information over the rigid ``motion``, coarse to fine; changes ``motion``."""
    shrink = [4, 2, 1]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=50)
    n_voxels = float(np.prod(fixed.GetSize()))
    if n_voxels > SAMPLES:  # of few voxels all are taken: chance would cost accuracy
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentagePerLevel([min(1.0, SAMPLES * k**3 / n_voxels) for k in shrink], seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(
        learningRate=1.0, minStep=1e-3, numberOfIterations=200, relaxationFactor=0.6, gradientMagnitudeTolerance=1e-8
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel(shrink)
    method.SetSmoothingSigmasPerLevel([2.0, 1.0, 0.0])
    method.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
    method.SetInitialTransform(motion, inPlace=True)
    method.Execute(fixed, moving)
