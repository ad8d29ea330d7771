"""The hardened MNI152 template: smooth level sets in mm of every structure of the head, from nilearn's tissue maps."""

import logging
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from medkit.data.cohort.lattice import Grid, sample_at

FINE, COARSE = 1.0, 2.0  # mm between the samples of the stored level sets
FINE_NAMES = ("white", "ventricle")
# Middle (mm, right hemisphere; mirrored to the left), half axes (mm) and tilt (radians about x) of an ellipsoid that
# encloses each deep structure; within it the tissue maps decide.
DEEP = {
    "caudate": ((13.0, 10.0, 10.0), (8.0, 19.0, 15.0), -0.5),
    "putamen": ((26.5, 2.0, 0.0), (7.5, 18.0, 11.5), -0.1),
    "pallidum": ((19.0, -4.0, -1.0), (5.0, 9.0, 6.5), 0.0),
    "thalamus": ((11.5, -18.0, 7.5), (9.5, 14.5, 9.0), -0.2),
    "hippocampus": ((27.0, -23.0, -14.0), (7.0, 18.0, 6.0), 0.45),
    "amygdala": ((24.0, -4.0, -19.0), (8.0, 8.0, 8.0), 0.0),
}
WIDE_NAMES = ("brain", "hull", "cerebellum", "brainstem")
COARSE_NAMES = (*WIDE_NAMES, *DEEP)
DEEP_BOX = ((-48.0, 48.0), (-62.0, 44.0), (-38.0, 42.0))  # mm, where the deep structures lie, with 10 mm around
FAR = 20.0  # mm, the distance of what is not near
NEAR = 6.0  # mm, how far from the brain's cover the fine level sets are needed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Geometry:
    """Level sets of the template, negative inside, in mm.

    Args:
        fine: float32 ``(len(FINE_NAMES), *Grid(FINE).shape)``.
        coarse: float32 ``(len(COARSE_NAMES), *Grid(COARSE).shape)``.
    """

    fine: Tensor
    coarse: Tensor

    def sample(self, position: Tensor) -> dict[str, Tensor]:
        """Return every level set at ``position`` (mm, RAS), ``(3, X, Y, Z)``, as a dictionary of ``(X, Y, Z)``."""
        coarse = Grid(COARSE)
        out = dict(zip(WIDE_NAMES, sample_at(self.coarse[: len(WIDE_NAMES)], coarse, position), strict=True))
        inside = out["hull"] < NEAR
        out.update(zip(FINE_NAMES, _sample_box(self.fine, Grid(FINE), position, inside), strict=True))
        for k, (low, high) in enumerate(DEEP_BOX):
            inside &= (position[k] > low) & (position[k] < high)
        deep = _sample_box(self.coarse[len(WIDE_NAMES) :], coarse, position, inside)
        out.update(zip(DEEP, deep, strict=True))
        return out


def _sample_box(values: Tensor, grid: Grid, position: Tensor, inside: Tensor) -> Tensor:
    """Interpolate in the smallest box of voxels around ``inside``; elsewhere the structures are ``FAR`` away."""
    out = torch.full((len(values), *position.shape[1:]), FAR)
    box = []
    for axis in range(3):
        others = [k for k in range(3) if k != axis]
        used = inside.any(others[1]).any(others[0]).nonzero()
        if not len(used):
            return out
        box.append(slice(int(used[0]), int(used[-1]) + 1))
    part = (slice(None), *box)
    out[part] = sample_at(values, grid, position[part])
    return out


def load_maps() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Load nilearn's T1, grey- and white-matter maps of MNI152 on ``Grid(1)``, float32, 0 to 1, without a download.

    Raises:
        ImportError: if nilearn is missing.
    """
    try:
        from nilearn.datasets import load_mni152_gm_template, load_mni152_template, load_mni152_wm_template
    except ImportError as error:
        raise ImportError("BrainCohort: the MNI152 template comes with nilearn; pip install nilearn") from error
    grid = Grid(FINE)
    out = []
    for loader in (load_mni152_template, load_mni152_gm_template, load_mni152_wm_template):
        image = loader(resolution=1)
        start = np.array(grid.origin) - image.affine[:3, 3]  # both grids are 1 mm, RAS
        values = np.asarray(image.dataobj, dtype=np.float32)
        for axis, n in enumerate(grid.shape):
            low = int(np.floor(start[axis]))
            part = float(start[axis]) - low
            index = np.clip(np.arange(low, low + n + 1), 0, values.shape[axis] - 1)
            lower, upper = values.take(index[:-1], axis), values.take(index[1:], axis)
            values = lower * np.float32(1 - part) + upper * np.float32(part)
        out.append(values)
    return out[0], out[1], out[2]


def signed_distance(inside: np.ndarray, spacing: float, blur: float = 0.6, reach: float = 20.0) -> np.ndarray:
    """Signed distance to the edge of a mask, negative inside, without stairs.

    Args:
        inside: mask, bool, ``(X, Y, Z)``.
        spacing: edge of a voxel in mm.
        blur: standard deviation in voxels of the smoothing that removes stairs.
        reach: largest distance in mm; farther voxels get ``reach`` (or ``-reach``).

    Returns:
        Distance in mm, float32, same shape.
    """
    out = np.full(inside.shape, reach, dtype=np.float32)
    margin = int(np.ceil(reach / spacing))
    box = tuple(
        slice(max(s.start - margin, 0), s.stop + margin) for s in ndimage.find_objects(inside.astype(np.int8))[0]
    )
    part = inside[box]
    distance = (ndimage.distance_transform_edt(~part) - ndimage.distance_transform_edt(part)).astype(np.float32)
    distance = ndimage.gaussian_filter(distance - 0.5 * np.sign(distance), blur) * spacing
    out[box] = distance.clip(-reach, reach)
    return out


def build_geometry() -> Geometry:
    """Compute the level sets of the template from nilearn's maps (several seconds)."""
    t1, grey, white = load_maps()
    x, y, z = np.meshgrid(*(a.numpy() for a in Grid(FINE).axes()), indexing="ij", sparse=True)
    brain = ndimage.binary_fill_holes(t1 > 0.1)

    low = _halve(brain.astype(np.float32))
    brain_distance = signed_distance(low > 0.5, COARSE, reach=40.0)
    closed = signed_distance(brain_distance < 12.0, COARSE, blur=1.0, reach=200.0)  # closing by a ball of 12 mm
    hull = ndimage.gaussian_filter(signed_distance(closed < -12.0, COARSE, reach=200.0), 1.0)
    depth = -hull.repeat(2, axis=0).repeat(2, axis=1).repeat(2, axis=2)

    fluid = brain & (t1 < 0.53) & (depth > 17) & (np.abs(x) < 48)
    parts, _ = ndimage.label(ndimage.binary_opening(fluid))
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    fluid = ndimage.binary_dilation((sizes >= 250)[parts]) & fluid
    ventricle = signed_distance(fluid, FINE, blur=0.7, reach=12.0)

    # The template's white blades are blurred away in thin gyri: a threshold below one half gives them back.
    ridge = white + 0.35 * (white - ndimage.gaussian_filter(white, 2.5))
    white_distance = signed_distance((ridge > 0.42) & brain, FINE, blur=0.7, reach=12.0)

    cerebellum = brain & (y < -34) & (z < -9 - 0.30 * np.abs(x) - 0.30 * np.clip(-60 - y, 0, None))
    axis_y = -28 + (z + 10) * 0.2
    stem = brain & (z < -6) & (((x / 15) ** 2 + ((y - axis_y) / 14) ** 2) < 1) & ~fluid
    cerebellum &= ~stem
    solid = {"brain": brain_distance, "hull": hull}
    solid["cerebellum"] = signed_distance(_halve(cerebellum.astype(np.float32)) > 0.5, COARSE)
    solid["brainstem"] = signed_distance(_halve(stem.astype(np.float32)) > 0.5, COARSE)

    box = tuple(
        slice(2 * round((low - o) / 2), 2 * round((high - o) / 2))
        for (low, high), o in zip(DEEP_BOX, Grid(FINE).origin, strict=True)
    )
    xb, yb, zb = np.abs(x[box[0]]), y[:, box[1]], z[:, :, box[2]]
    taken, darker = fluid[box].copy(), ndimage.gaussian_filter(t1[box], 0.7) < 0.86
    for name, (middle, axes, tilt) in DEEP.items():
        inside = (_ellipsoid(xb, yb, zb, middle, axes, tilt) < 1) & brain[box] & ~taken
        if name in ("caudate", "putamen"):
            inside &= grey[box] > 0.45
        elif name == "thalamus":
            inside &= darker
        inside = ndimage.binary_opening(inside)
        taken |= inside
        whole = np.full(hull.shape, FAR, dtype=np.float32)
        half = tuple(slice(s.start // 2, s.stop // 2) for s in box)
        whole[half] = _halve(signed_distance(inside, FINE, blur=0.8))
        solid[name] = whole
    return Geometry(
        torch.from_numpy(np.stack([white_distance, ventricle])).clamp(-30, 30).half().float(),
        torch.from_numpy(np.stack([solid[n] for n in COARSE_NAMES])).half().float(),
    )


@lru_cache(maxsize=2)
def load_geometry(folder: Path, version: int) -> Geometry:
    """Return the level sets, from ``folder`` if they were stored there, else computed and stored (atomically)."""
    file = folder / f"geometry-v{version}.pt"
    if file.is_file():
        stored = torch.load(file, weights_only=True)
        return Geometry(stored["fine"].float(), stored["coarse"].float())
    logger.info("computing the level sets of the MNI152 template, once")
    out = build_geometry()
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, suffix=".part")
    os.close(handle)
    torch.save({"fine": out.fine.half(), "coarse": out.coarse.half()}, name)
    os.replace(name, file)  # noqa: PTH105
    return out


def _halve(volume: np.ndarray) -> np.ndarray:
    """Average blocks of 2 voxels: from ``Grid(1)`` to ``Grid(2)``."""
    a, b, c = (n // 2 for n in volume.shape)
    return volume.reshape(a, 2, b, 2, c, 2).mean(axis=(1, 3, 5)).astype(np.float32)


def _ellipsoid(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    middle: tuple[float, float, float],
    axes: tuple[float, float, float],
    tilt: float,
) -> np.ndarray:
    dy, dz = y - middle[1], z - middle[2]
    along, across = np.cos(tilt) * dy + np.sin(tilt) * dz, np.cos(tilt) * dz - np.sin(tilt) * dy
    return ((x - middle[0]) / axes[0]) ** 2 + (along / axes[1]) ** 2 + (across / axes[2]) ** 2
