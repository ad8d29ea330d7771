"""The share of every tissue in each voxel of one subject, from the template's level sets and random folding."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.data.cohort.geometry import Geometry
from medkit.data.cohort.head import head_layers, outer_surface
from medkit.data.cohort.labels import TISSUES
from medkit.data.cohort.lattice import Grid, band, smooth

DEEP = ("caudate", "putamen", "pallidum", "thalamus", "hippocampus", "amygdala")


@dataclass(frozen=True)
class Shape:
    """The numbers that fix one subject's anatomy; :class:`~medkit.data.cohort.ranges.Ranges` says what each means."""

    fold: float = 0.0
    fold_wavelength: float = 14.0
    thickness: float = 2.6
    atrophy: float = 0.0
    rim: float = 1.8
    bone: float = 6.0
    scalp: float = 6.0
    marrow: float = 0.4
    folia_wavelength: float = 4.2
    variation: float = 1.0  # factor on every random variation; 0 makes the template


def soft(level: Tensor, grid: Grid) -> Tensor:
    """Share of a voxel inside a level set (mm, negative inside): a ramp one voxel wide."""
    return (0.5 - level / grid.spacing).clamp_(0, 1)


def gradient_norm(level: Tensor, grid: Grid) -> Tensor:
    """Length of the gradient by central differences, in units of ``level`` per mm; forward at the border."""
    out = torch.zeros_like(level)
    for axis in range(3):
        n = level.shape[axis]
        middle = level.narrow(axis, 2, n - 2) - level.narrow(axis, 0, n - 2)
        out.narrow(axis, 1, n - 2).addcmul_(middle, middle)
    return out.sqrt_().div_(2 * grid.spacing)


def tissue_shares(
    geometry: Geometry,
    position: Tensor,
    shape: Shape,
    grid: Grid,
    gen: torch.Generator,
    lesion: Tensor | None = None,
) -> dict[str, Tensor]:
    """Compute the share of each tissue in each voxel.

    Args:
        geometry: level sets of the template.
        position: template position in mm of each voxel, float32, ``(3, X, Y, Z)``.
        shape: the subject's numbers.
        grid: voxel grid.
        gen: source of randomness.
        lesion: share of lesion, float32, ``(X, Y, Z)``; it replaces brain tissue.

    Returns:
        For each tissue of :data:`TISSUES` a float32 ``(X, Y, Z)`` in 0 to 1; they sum to 1.
    """
    level = geometry.sample(position)
    v = shape.variation
    x, y, z = position
    deep = torch.stack([level[name] for name in DEEP]).amin(0)

    # Cortex: the template's white surface, with gyri of random place added where there is cortex.
    depth = -level["hull"]
    near = ((27 - depth) / 10).clamp(0, 1) * ((torch.minimum(deep, level["ventricle"]) - 2.5) / 4).clamp(0, 1)
    near *= ((level["brainstem"] - 1) / 3).clamp(0, 1)
    white = level["white"]
    if v:
        ripple = band(shape.fold_wavelength, grid, gen)[0] + 0.45 * band(shape.fold_wavelength / 2, grid, gen)[0]
        white = white + (shape.fold * v) * near * ripple
        white = white / gradient_norm(white, grid).clamp_(0.75, 3.0)
    thickness = shape.thickness * (1 + 0.12 * v * smooth(12.0, grid, gen)[0])
    pial = white - thickness
    pial = torch.maximum(pial, level["brain"] + shape.atrophy)
    ventricle = level["ventricle"] - 2 * shape.atrophy + 0.6 * v * smooth(8.0, grid, gen)[0]

    leaf, core = _folia(x, y, z, level, shape, grid, gen)
    surface = outer_surface(level["hull"], x, y, z, shape.scalp + shape.bone + shape.rim, grid, gen, v)
    under, over = head_layers(level["hull"], surface, x, y, z, shape, grid, gen)

    cerebellum = soft(level["cerebellum"], grid)
    stem = torch.maximum(level["brainstem"], level["brain"])
    inside_brain = level["brain"] < 0
    out = {name: torch.zeros(grid.shape) for name in TISSUES}
    left = torch.ones(grid.shape)

    def paint(name: str, share: Tensor) -> None:
        nonlocal left
        share = share * left
        out[name] += share
        left = left - share

    for name, share in over:
        paint(name, share)
    if lesion is not None:
        paint("lesion", lesion * inside_brain)
    paint("ventricle", soft(ventricle, grid))
    for name in DEEP:
        paint(name, soft(level[name] + 0.35 * v * smooth(5.0, grid, gen)[0], grid))
    paint("brainstem", soft(stem, grid))
    paint("cerebellar_white_matter", cerebellum * soft(core, grid))
    paint("cerebellar_cortex", cerebellum * soft(torch.maximum(leaf, level["brain"] + shape.atrophy), grid))
    paint("csf", cerebellum * inside_brain)
    paint("white_matter", soft(torch.maximum(white, level["brain"] + 0.5), grid))
    paint("cortex", soft(pial, grid))
    for name, share in under:
        paint(name, share)
    out["air"] += left
    return out


def _folia(
    x: Tensor, y: Tensor, z: Tensor, level: Mapping[str, Tensor], shape: Shape, grid: Grid, gen: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Level sets of the cerebellum's leaves and of their white cores: sheets that fan out from the middle."""
    angle = torch.atan2(z + 30 + 0.10 * x.abs(), -(y + 44) + 0.006 * x.square())
    radius = 30.0
    count = round(2 * math.pi * radius / shape.folia_wavelength)
    wobble = 1.1 * shape.variation * smooth(7.0, grid, gen)[0]
    phase = count * angle + wobble
    visible = min(1.0, max(0.0, 2.2 - 2 * grid.spacing * 2 / shape.folia_wavelength))  # no leaves finer than voxels
    fine, wide = phase.cos(), (phase / 5).cos()
    depth = -level["cerebellum"]
    leaf = (1.3 * fine * visible + 1.0 * wide - 1.9) * (1 - depth / 16).clamp(0, 1) - 0.2
    core = level["white"] + 2.0 + 1.2 * fine * visible + 2.5 * wide - (depth - 5).clamp(0, 6) * 0.8
    return leaf, core
