"""What surrounds the brain: fluid rim, dura, skull, fat, muscle, skin, eyes, air spaces and vessels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from medkit.data.cohort.lattice import Grid, band, smooth

if TYPE_CHECKING:
    from medkit.data.cohort.anatomy import Shape

EYE = (32.0, 62.0, -38.0)  # mm, the right eye's middle
EYE_RADIUS = 12.0
# Air spaces: middle (mm, right half; mirrored) and half axes (mm).
AIR = (
    ((4.0, 62.0, -55.0), (5.0, 26.0, 19.0)),  # nose
    ((9.0, 28.0, -34.0), (8.0, 10.0, 7.0)),  # sphenoid
    ((26.0, 48.0, -68.0), (13.0, 16.0, 14.0)),  # maxillary
    ((11.0, 72.0, -14.0), (11.0, 5.0, 10.0)),  # frontal
    ((58.0, -38.0, -44.0), (9.0, 10.0, 12.0)),  # mastoid
    ((0.0, 8.0, -84.0), (13.0, 9.0, 26.0)),  # pharynx
)


def outer_surface(
    hull: Tensor, x: Tensor, y: Tensor, z: Tensor, cover: float, grid: Grid, gen: torch.Generator, variation: float
) -> Tensor:
    """Level set in mm of the skin's surface: the cranium with its cover, a face and a neck, smoothly joined."""
    ax = x.abs()
    cranium = hull - cover - 2.0 * variation * smooth(30.0, grid, gen)[0]
    face = _ball(ax, y, z, (0.0, 38.0, -58.0), (66.0, 56.0, 64.0))
    nose = _ball(ax, y, z, (0.0, 88.0, -52.0), (13.0, 18.0, 20.0))
    neck = ((x / 66).square() + ((y + 38) / 64).square()).sqrt_().sub_(1).mul_(60)
    neck = torch.maximum(neck, z + 40)
    out = _smooth_min(_smooth_min(cranium, face, 12.0), neck, 16.0)
    return _smooth_min(out, nose, 6.0)


def head_layers(
    hull: Tensor, surface: Tensor, x: Tensor, y: Tensor, z: Tensor, shape: Shape, grid: Grid, gen: torch.Generator
) -> tuple[list[tuple[str, Tensor]], list[tuple[str, Tensor]]]:
    """Shares of the tissues outside the brain, in the order of painting: what comes first hides what comes later.

    Args:
        hull: signed distance in mm to the brain's convex cover, ``(X, Y, Z)``.
        surface: level set of the skin, same shape.
        x: template position of the voxels in mm from left to right, same shape.
        y: the same from back to front.
        z: the same from foot to head.
        shape: the subject's numbers.
        grid: voxel grid.
        gen: source of randomness.

    Returns:
        Pairs of a tissue and its share in 0 to 1, float32, ``(X, Y, Z)``: what lies under the brain's tissues, and
        what lies over them (vessels and dura).
    """

    def soft(level: Tensor) -> Tensor:
        return (0.5 - level / grid.spacing).clamp_(0, 1)

    v = shape.variation
    ax = x.abs()
    low = ((-z - 12) / 25).clamp(0, 1)  # 0 over the vault, 1 at the base
    inner = hull - shape.rim - 0.7 * v * smooth(14.0, grid, gen)[0]
    bone = shape.bone * (1 + 0.25 * v * smooth(20.0, grid, gen)[0]) * (1 - 0.35 * ((ax - 45) / 20).clamp(0, 1))
    outer = inner - bone
    texture = band(9.0, grid, gen)[0] + 0.5 * band(5.0, grid, gen)[0]
    marrow = (outer + bone / 2).abs() - bone * (0.5 * shape.marrow) + 0.35 * texture

    sinus = torch.maximum(ax - 5.5 + 0.8 * (hull - shape.rim).abs(), (hull - shape.rim).abs() - 3.5)
    sinus = torch.maximum(sinus, -(z + 0.35 * (y + 90)) + 5)
    sinus = torch.where(y < 62, sinus, sinus.abs() + 9)
    first, second = band(26.0, grid, gen, 2)
    radius = (0.12 + 0.05 * smooth(30.0, grid, gen)[0]).clamp(0.05, 0.3)
    tube = (first.square() + second.square()).sqrt() - radius
    vessel = soft(tube * 5.5) * (hull < 0) * ((hull > -34) | (z < -5)) * 0.9
    dura = soft((inner + 0.6).abs() - 0.5) * 0.7
    falx = (
        soft(ax - 0.5 - 0.02 * (hull + 35).clamp(min=0)) * (hull > -30 + 0.25 * (y + 30).abs().clamp(max=60)) * (z > -5)
    )
    dura = torch.maximum(dura, falx * 0.6 * (hull < 0))
    vessel = torch.maximum(vessel, soft(sinus) * (inner < 1))

    eye = _ball(ax, y, z, EYE, (EYE_RADIUS,) * 3)
    lens = _ball(ax, y, z, (EYE[0], EYE[1] + 8.5, EYE[2]), (4.5, 2.2, 4.5))
    orbit = _ball(ax, y, z, (EYE[0] - 5, EYE[1] - 14, EYE[2]), (17.0, 26.0, 16.0))
    cone = ((ax - (EYE[0] - (EYE[1] - y) * 0.45)).square() + (z - EYE[2]).square()).sqrt()
    rectus = torch.minimum(cone - 2.0, (cone - 11 + 0.15 * (EYE[1] - y)).abs() - 1.4)
    air = torch.stack([_ball(ax, y, z, m, a) for m, a in AIR]).amin(0) + 2.0 * texture
    septa = texture.abs() * 4 - 1.2

    # Face and neck: muscle bellies parted by fat, with pieces of bone, by level sets of one random field.
    bits = first * 0.8 + texture
    thin = shape.scalp * (0.45 + 0.15 * v * smooth(25.0, grid, gen)[0]).clamp(0.15, 0.9)
    in_orbit = soft(orbit) * soft(surface + 3) * soft(-outer)
    hollow = soft(air) * soft(surface + 6) * soft(-outer + 2)
    deep = soft(surface + thin + 1.8) * low
    return [
        ("csf", soft(inner)),
        ("lens", soft(lens)),
        ("eye", soft(eye)),
        ("muscle", in_orbit * soft(rectus)),
        ("fat", in_orbit),
        ("mucosa", hollow * soft(septa)),
        ("air", hollow),
        ("marrow", soft(marrow) * soft(outer) * (1 - 0.6 * low)),
        ("bone", soft(outer)),
        ("skin", soft(-surface - 1.8) * soft(surface)),
        ("fat", soft(-surface - thin - 1.8) * soft(surface)),
        ("fat", deep * soft((bits.abs() - 0.22) * 4)),
        ("bone", deep * soft((1.5 - bits) * 4)),
        ("muscle", soft(surface)),
    ], [("vessel", vessel), ("dura", dura * (inner < 3))]


def _ball(
    x: Tensor, y: Tensor, z: Tensor, middle: tuple[float, float, float], axes: tuple[float, float, float]
) -> Tensor:
    """Approximate signed distance to an ellipsoid."""
    q = ((x - middle[0]) / axes[0]).square() + ((y - middle[1]) / axes[1]).square()
    q = (q + ((z - middle[2]) / axes[2]).square()).sqrt_()
    return (q - 1).mul_(min(axes))


def _smooth_min(a: Tensor, b: Tensor, width: float) -> Tensor:
    h = (width - (a - b).abs()).clamp_(min=0) / width
    return torch.minimum(a, b) - h.square() * (width / 4)
