"""The share of every tissue in each voxel of one subject, from the template's level sets and random folding."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.data.cohort.head import HeadFields, head_layers
from medkit.data.cohort.labels import TISSUES
from medkit.data.cohort.lattice import Field, Grid, band_field, smooth_field
from medkit.data.cohort.shape import Shape, gradient_norm, soft

MIDDLE = (0.0, -20.0, 5.0)  # mm, the point towards which sulci run
DEEP = ("caudate", "putamen", "pallidum", "thalamus", "hippocampus", "amygdala")


@dataclass(frozen=True)
class AnatomyFields:
    """The random fields of one subject's anatomy, drawn once and evaluated slab by slab.

    Args:
        sulci: two fields whose zero sets are the added sulci.
        ripple: unevenness of the white surface, a long and a short wave.
        thick: three slow fields: cortical thickness, depth of the sulci, ventricles.
        nuclei: unevenness of the deep nuclei.
        leaves: waviness of the cerebellum's leaves.
        head: fields of what surrounds the brain.
    """

    sulci: Field
    ripple: tuple[Field, Field]
    thick: Field
    nuclei: Field
    leaves: Field
    head: HeadFields

    @classmethod
    def draw(cls, shape: Shape, gen: torch.Generator) -> "AnatomyFields":
        """Draw the fields for a subject of ``shape``."""
        return cls(
            band_field(2 * shape.fold_wavelength, gen, 2, octaves=0.25),
            (band_field(shape.fold_wavelength, gen), band_field(shape.fold_wavelength / 2.5, gen)),
            smooth_field(12.0, gen, 3),
            smooth_field(5.0, gen, 1),
            smooth_field(7.0, gen, 1),
            HeadFields.draw(gen),
        )


def tissue_shares(
    level: Mapping[str, Tensor],
    position: Tensor,
    shape: Shape,
    fields: AnatomyFields,
    grid: Grid,
    lesion: Tensor | None = None,
) -> Tensor:
    """Compute the share of each tissue in each voxel.

    Args:
        level: the template's level sets at ``position``, in mm, ``(X, Y, Z)`` each.
        position: template position in mm of each voxel, float32, ``(3, X, Y, Z)``.
        shape: the subject's numbers.
        fields: the subject's random fields.
        grid: voxel grid, or a slab of it (its first and last row are less exact: gradients need neighbours).
        lesion: share of lesion, float32, ``(X, Y, Z)``; it replaces brain tissue.

    Returns:
        Share of each tissue in the order of :data:`TISSUES`, float32, ``(tissue, X, Y, Z)``, 0 to 1, summing to 1.
    """
    v = shape.variation
    brain = level["brain"]
    out = torch.zeros(len(TISSUES), *grid.shape)
    row = {name: out[k] for k, name in enumerate(TISSUES)}
    left = torch.ones(grid.shape)

    def paint(name: str, share: Tensor) -> None:
        share = share * left
        row[name].add_(share)
        left.sub_(share)

    white = torch.full(grid.shape, 30.0)
    if bool((brain < 2).any()):
        slow = fields.thick.on(grid) * v
        inside = brain + shape.atrophy
        white, pial, carved = _cortex(level, position, shape, fields, slow, grid)
        nuclei = 0.35 * v * fields.nuclei.on(grid)[0]
        under, over = head_layers(level, white, position, shape, fields.head, grid)
        for name, share in over:
            paint(name, share)
        if lesion is not None:
            paint("lesion", lesion * (brain < 0))
        ventricle = level["ventricle"] - 2 * shape.atrophy + 0.6 * slow[2]
        paint("ventricle", soft(torch.maximum(ventricle, brain + 1), grid))
        for name in DEEP:
            paint(name, soft(level[name] + nuclei, grid, shape.edge + 0.5))
        paint("brainstem", soft(torch.maximum(level["brainstem"], brain), grid, shape.edge))
        cerebellum = soft(level["cerebellum"], grid)
        leaf, core = _folia(position, level, shape, fields, slow, grid)
        paint("cerebellar_white_matter", cerebellum * soft(torch.maximum(core, leaf + 0.5), grid, shape.edge))
        paint("cerebellar_cortex", cerebellum * soft(torch.maximum(leaf, inside), grid, shape.edge))
        paint("csf", cerebellum * (brain < 0))
        paint("white_matter", soft(torch.maximum(white, inside + 0.85 * shape.thickness), grid, shape.edge))
        paint("cortex", soft(torch.maximum(torch.maximum(pial, carved), inside), grid, shape.edge))
    else:
        under, _ = head_layers(level, white, position, shape, fields.head, grid)
    for name, share in under:
        paint(name, share)
    row["air"].add_(left)
    return out


def _cortex(
    level: Mapping[str, Tensor], position: Tensor, shape: Shape, fields: AnatomyFields, slow: Tensor, grid: Grid
) -> tuple[Tensor, Tensor, Tensor]:
    """Level sets of white matter, of the cortex's outer surface, and of the added sulci (positive inside those)."""
    v = shape.variation
    depth = -level["hull"]
    deep = torch.stack([level[name] for name in (*DEEP, "ventricle")]).amin(0)
    near = ((30 - depth) / 8).clamp(0, 1) * ((deep - 3) / 4).clamp(0, 1) * ((level["brainstem"] - 1) / 3).clamp(0, 1)
    thickness = shape.thickness * (1 + 0.12 * slow[0])
    # The template's white blades are blurred away in thin gyri: its surface moves outwards.
    white = level["white"] - 1.2
    if not v:
        return white, white - thickness - 0.6, torch.full_like(white, -9.0)
    ripple = fields.ripple[0].on(grid)[0] + 0.5 * fields.ripple[1].on(grid)[0]
    white = white + (shape.fold * v) * near * (ripple - 0.3)
    white /= gradient_norm(white, grid).clamp_(0.75, 3.0)
    # Sulci run inwards from the brain's cover: their fields hardly change along the way to the middle.
    out = position - torch.tensor(MIDDLE).view(3, 1, 1, 1)
    stretch = 1 + 0.85 * depth.clamp(min=0) / out.square().sum(0).sqrt_().clamp_(min=12)
    u = fields.sulci.at(out * stretch + torch.tensor(MIDDLE).view(3, 1, 1, 1))
    sheets = torch.stack([w.abs() / gradient_norm(w, grid).clamp_(min=0.9 / shape.fold_wavelength) for w in u])
    reach = torch.stack([depth - (19 + 7 * slow[1]), depth - (12 - 6 * slow[1])]).clamp_(min=0)
    apart = (sheets.square() + reach.square()).sqrt_().amin(0) + (1 - near) * 12
    width = shape.sulcus * (1 + 0.5 * slow[2]).clamp_(min=0.1) * (1.1 - 0.03 * depth).clamp_(0.3, 1)
    return torch.maximum(white, thickness + width - apart), white - thickness - 0.6, width - apart


def _folia(
    position: Tensor, level: Mapping[str, Tensor], shape: Shape, fields: AnatomyFields, slow: Tensor, grid: Grid
) -> tuple[Tensor, Tensor]:
    """Level sets of the cerebellum's cortex and of its white core: leaves are sheets that fan out from the middle."""
    x, y, z = position
    a, b = z + 20 + 0.2 * x.abs(), -(y + 36) + 0.006 * x.square()
    radius = (a.square() + b.square()).sqrt_().clamp_(min=4)
    count = round(2 * math.pi * 40 / shape.folia_wavelength)
    phase = count * torch.atan2(a, b) + shape.variation * (1.4 * fields.leaves.on(grid)[0] + 3.0 * slow[0])
    depth = -level["cerebellum"]
    leaf, lamina = [], []
    for every, reach, width in ((1, 9.0, 0.30), (4, 20.0, 0.45)):
        turn = (torch.remainder(phase / every + math.pi, 2 * math.pi) - math.pi).abs_() * (radius * every / count)
        leaf.append(width - turn - (depth - reach).clamp(min=0))
        lamina.append(math.pi * radius * every / count - turn - (0.35 if every == 1 else 0.9))
    inner = torch.minimum(lamina[0] + (2.0 - depth).clamp(min=0), lamina[1] + (3.0 - depth).clamp(min=0))
    core = torch.minimum(level["white"] - 1.0, inner)
    # Leaves finer than the voxels would alias: they fade into their mean.
    fade = min(1.0, max(0.0, 2.0 - 2.0 * grid.spacing / shape.folia_wavelength))
    fine = leaf[0] if fade == 1 else leaf[0] - (1 - fade) * grid.spacing
    return torch.maximum(fine, leaf[1]), core
