"""What became of each lesion: error and contrast in its box, where a mean over the whole image tells nothing."""

from __future__ import annotations

import csv
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medkit.mri.metrics import WINDOW, nmse, psnr, ssim
from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)

MARGIN = 3  # voxels within the slice: of a box around its lesion, and of the ring that a lesion is compared with
MIN_VOXELS = 5
REFERENCE_ROW = "reference"  # the fully sampled image among the methods
BOUNDS = ("row_first", "row_last", "column_first", "column_last", "slice_first", "slice_last")
METRICS = ("psnr", "ssim", "nmse", "contrast")
COLUMNS = ("case", "lesion", "label", "voxels", *BOUNDS, "method", *METRICS)


@dataclass(frozen=True)
class Region:
    """A lesion: connected voxels of one label.

    Args:
        number: 1 for the largest one of its map, 2 for the next.
        label: its number in the map.
        n_voxels: its size.
        box: rows, columns and slices of its box: the slices it is in, and 3 voxels more than it has within them, as far
            as the image goes.
        inside: its voxels in that box, bool ``(h, w, s)``.
        ring: the voxels of no lesion within 3 voxels of it in its slices, bool, same shape.
    """

    number: int
    label: int
    n_voxels: int
    box: tuple[slice, slice, slice]
    inside: np.ndarray
    ring: np.ndarray

    @property
    def i_slice(self) -> int:
        """Index of the slice that shows most of it."""
        return self.box[2].start + int(self.inside.sum((0, 1)).argmax())

    @property
    def bounds(self) -> dict[str, int]:
        """First and last row, column and slice of the box, from 0."""
        ends = [end for part in self.box for end in (part.start, part.stop - 1)]
        return dict(zip(BOUNDS, ends, strict=True))


def find_regions(lesions: Tensor) -> list[Region]:
    """Find the lesions of a map: neighbours of one label, also over edge and corner, belong together.

    Args:
        lesions: labels, whole numbers, ``(H, W)`` or ``(H, W, S)``, 0 where no lesion is.

    Returns:
        The lesions of at least 5 voxels, the largest first.

    Raises:
        ValueError: if the map has another number of axes or is not of whole numbers.

    Example:
        >>> lesions = torch.zeros(16, 16, dtype=torch.uint8)
        >>> lesions[4:8, 4:8] = 2
        >>> [(region.label, region.n_voxels) for region in find_regions(lesions)]
        [(2, 16)]
    """
    from scipy.ndimage import binary_dilation
    from skimage.measure import label, regionprops
    from skimage.morphology import disk

    if lesions.ndim not in (2, 3) or lesions.is_complex() or lesions.is_floating_point():
        raise ValueError(
            f"find_regions: 'lesions' must be whole numbers (H, W) or (H, W, S), got {lesions.dtype} "
            f"{tuple(lesions.shape)}"
        )
    labels = lesions.detach().cpu().numpy().astype(np.int64)
    labels = labels[..., None] if labels.ndim == 2 else labels
    components = label(labels, background=0, connectivity=3)
    found = sorted(
        (one for one in regionprops(components) if one.area >= MIN_VOXELS), key=lambda one: (-one.area, one.label)
    )
    regions = []
    for number, one in enumerate(found, 1):
        low, high = one.bbox[:3], one.bbox[3:]
        margins = (MARGIN, MARGIN, 0)
        box = tuple(
            slice(max(0, a - m), min(n, b + m)) for a, b, m, n in zip(low, high, margins, labels.shape, strict=True)
        )
        inside = components[box] == one.label
        near = binary_dilation(inside, disk(MARGIN, dtype=bool)[..., None])
        ring = near & (labels[box] == 0)
        value = int(labels[tuple(one.coords[0])])
        regions.append(Region(number, value, int(one.area), (box[0], box[1], box[2]), inside, ring))
    return regions


def region_metrics(
    regions: Sequence[Region], images: Mapping[str, Tensor], reference: Tensor, case: str = ""
) -> list[dict[str, Any]]:
    """Compare images with the fully sampled one in the box of each lesion.

    The contrast of a lesion is the mean inside it less the mean of the ring around it, as a part of the largest value
    of the fully sampled volume. Where the fully sampled image has one and an image has none, the lesion was erased;
    where an image has one that the fully sampled image has not, it was invented, or copied from another contrast.

    Args:
        regions: the lesions, of :func:`find_regions`.
        images: magnitudes by method, real ``(H, W)`` or ``(H, W, S)``, any common unit.
        reference: what they should be, same shape and unit.
        case: name of the exam.

    Returns:
        For each lesion a row for the method ``reference``, which has its contrast alone, and one for each image with
        ``psnr`` in dB (data range: the largest value of the whole reference), ``ssim`` (only of boxes of at least 7 x
        7), ``nmse`` and ``contrast``. The other columns are ``case``, ``lesion`` (its number), ``label``, ``voxels``
        and the first and last row, column and slice of the box.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> image = torch.rand(16, 16)
        >>> [row["method"] for row in region_metrics(find_regions(lesions), {"zero_filled": image}, image)]
        ['reference', 'zero_filled']
    """
    shapes = {name: tuple(image.shape) for name, image in images.items()}
    if any(shape != tuple(reference.shape) for shape in shapes.values()):
        raise ValueError(f"region_metrics: 'images' must be {tuple(reference.shape)} like 'reference', got {shapes}")
    truth = _volume(reference)
    volumes = {name: _volume(image) for name, image in images.items()}
    peak = float(truth.max())
    rows = []
    for region in regions:
        about = {"case": case, "lesion": region.number, "label": region.label, "voxels": region.n_voxels}
        about |= region.bounds
        wanted = truth[region.box]
        rows.append({**about, "method": REFERENCE_ROW, "contrast": _contrast(wanted, region, peak)})
        for name, volume in volumes.items():
            part = volume[region.box]
            row = {**about, "method": name, "contrast": _contrast(part, region, peak)}
            slices, truths = np.moveaxis(part, -1, 0), np.moveaxis(wanted, -1, 0)
            row["nmse"] = nmse(slices, truths)
            if peak > 0:
                row["psnr"] = psnr(slices, truths, peak)
                row["ssim"] = ssim(slices, truths, peak) if min(part.shape[:2]) >= WINDOW else math.nan
            rows.append(row)
    return rows


def write_regions(folder: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``lesions.csv``, a line for each lesion and method, and log the means of each label and method.

    Args:
        folder: where to write; made when missing.
        rows: of :func:`region_metrics`, of all cases. A value that is not finite is left empty.

    Example:
        >>> write_regions("eval", rows)
    """
    path = Path(folder) / "lesions.csv"
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({name: _written(row.get(name)) for name in COLUMNS} for row in rows)
    groups: dict[tuple[int, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["label"], row["method"]), []).append(row)
    for (label, method), group in sorted(groups.items(), key=lambda item: item[0][0]):
        means = []
        for name in METRICS:
            values = [abs(row[name]) if name == "contrast" else row[name] for row in group if name in row]
            known = [value for value in values if math.isfinite(value)]
            if known:
                means.append(f"{'size of ' * (name == 'contrast')}{name} {sum(known) / len(known):.4f}")
        logger.info("lesions of label %d (%d), %s: %s", label, len(group), method, ", ".join(means))


def _volume(image: Tensor) -> np.ndarray:
    array = image.detach().cpu().double().numpy()
    return array[..., None] if array.ndim == 2 else array


def _contrast(part: np.ndarray, region: Region, peak: float) -> float:
    if peak <= 0 or not region.ring.any():
        return math.nan
    return float(part[region.inside].mean() - part[region.ring].mean()) / peak


def _written(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and not math.isfinite(value)) else value
