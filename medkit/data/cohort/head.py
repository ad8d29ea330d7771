"""What surrounds the brain: fluid rim, dura, skull, fat, muscle, skin, eyes, air spaces and vessels."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.data.cohort.lattice import Field, Grid, band_field, smooth_field
from medkit.data.cohort.shape import Shape, soft

Layers = list[tuple[str, Tensor]]

EYE = (32.0, 60.0, -38.0)  # mm, the right eye's middle
EYE_RADIUS = 12.0
FACE = 2.0  # mm, the face's cavities lie below this height
# Air spaces: middle (mm, right half; mirrored) and half axes (mm).
AIR = (
    ((4.0, 62.0, -55.0), (5.0, 26.0, 19.0)),  # nose
    ((9.0, 28.0, -34.0), (8.0, 10.0, 7.0)),  # sphenoid
    ((26.0, 48.0, -68.0), (13.0, 16.0, 14.0)),  # maxillary
    ((11.0, 72.0, -14.0), (11.0, 5.0, 10.0)),  # frontal
    ((58.0, -38.0, -44.0), (9.0, 10.0, 12.0)),  # mastoid
    ((0.0, 8.0, -84.0), (13.0, 9.0, 26.0)),  # pharynx
)


@dataclass(frozen=True)
class HeadFields:
    """The random fields of what surrounds the brain.

    Args:
        slow: five slow fields: skin, fluid rim, bone, subcutaneous fat, width of vessels.
        vessels: two fields; vessels run where both vanish.
        bellies: two fields that part muscle bellies, fat and pieces of bone.
        grain: fine field for marrow and the walls of air cells.
    """

    slow: Field
    vessels: Field
    bellies: Field
    grain: Field

    @classmethod
    def draw(cls, gen: torch.Generator) -> "HeadFields":
        """Draw the fields of one subject."""
        return cls(
            smooth_field(20.0, gen, 5),
            band_field(24.0, gen, 2),
            band_field(24.0, gen, 2, octaves=0.6),
            band_field(8.0, gen, 1, octaves=0.7),
        )


def head_layers(
    level: Mapping[str, Tensor], white: Tensor, position: Tensor, shape: Shape, fields: HeadFields, grid: Grid
) -> tuple[Layers, Layers]:
    """Shares of the tissues outside the brain, in the order of painting: what comes first hides what comes later.

    Args:
        level: the template's level sets at the voxels, ``(X, Y, Z)`` in mm.
        white: level set of white matter, same shape; vessels keep out of it.
        position: template position of the voxels in mm, ``(3, X, Y, Z)``.
        shape: the subject's numbers.
        fields: the subject's random fields.
        grid: voxel grid.

    Returns:
        Pairs of a tissue and its share in 0 to 1, float32, ``(X, Y, Z)``: what lies under the brain's tissues, and
        what lies over them (vessels and dura).
    """
    v = shape.variation
    x, y, z = position
    ax = x.abs()
    hull = level["hull"]
    skin, rim, bone_change, fat_change, tube_width = fields.slow.on(grid) * v
    grain = fields.grain.on(grid)[0]
    surface = _outer_surface(hull, x, y, z, shape.scalp + shape.bone + shape.rim + 1.2 * skin)
    low = ((-z - 14) / 20).clamp_(0, 1)  # 0 over the vault, 1 at the base
    floor = ((-z - 4) / 10).clamp_(0, 1)

    # The skull follows the brain's cover over the vault and the brain itself at the base.
    inner = torch.maximum(hull - shape.rim - 0.6 * rim, level["brain"] - (34 - 30 * floor) - 1.5 * rim)
    bone = shape.bone * (1 + 0.25 * bone_change) * (1 - 0.4 * ((ax - 45) / 20).clamp_(0, 1)) * (1 - 0.3 * low)
    outer = inner - bone
    marrow = (outer + bone / 2).abs() - bone * (0.5 * shape.marrow) + 0.3 * grain

    head = soft(surface, grid)
    thin = shape.scalp * (0.5 + 0.15 * fat_change).clamp_(0.15, 0.9) + 3 * low
    under = [("csf", soft(inner, grid))]
    if float(z.min()) < FACE:
        under += _face_cavities(ax, y, z, surface, outer, grain, grid)
    under += [
        ("marrow", soft(marrow, grid) * soft(outer, grid)),
        ("bone", soft(outer, grid)),
        ("skin", soft(-surface - 1.8, grid) * head),
        ("fat", soft(-surface - thin - 1.8, grid) * head),
    ]
    if float(z.min()) < -14:
        deep = soft(surface + thin + 1.8, grid) * low
        one, two = fields.bellies.on(grid)
        vessel = ((one - 0.5).square() + (two - 0.5).square()).sqrt_()
        under += [
            ("vessel", deep * soft(vessel * 5 - 1.2, grid)),
            ("fat", deep * soft(one.abs() * 4 - 0.7 - 0.5 * grain, grid)),
            ("bone", deep * soft((0.9 - two) * 5, grid) * soft(1.8 - two * 2, grid)),
            ("marrow", deep * soft((1.1 - two) * 5, grid)),
            ("fat", deep * soft(two.abs() * 4 - 0.5 + 0.4 * grain, grid)),
        ]
    under.append(("muscle", head))
    if not bool((hull < 6).any()):
        return under, []

    # Vessels: the superior sagittal sinus, and tubes where two fields vanish, not in white matter.
    vault = hull - shape.rim
    sinus = torch.maximum(ax - 5.5 + 0.8 * vault.abs(), vault.abs() - 3.5)
    sinus = torch.maximum(sinus, -(z + 0.35 * (y + 90)) + 5)
    sinus = torch.where(y < 62, sinus, sinus.abs() + 9)
    tube = fields.vessels.on(grid).square().sum(0).sqrt_() * 5 - (0.5 + 0.5 * tube_width).clamp_(-1, 1.6)
    tube = torch.maximum(torch.maximum(tube, 0.8 - white), hull - 1)
    vessel = torch.maximum(soft(tube, grid) * (1.0 if v else 0.0), soft(sinus, grid) * (inner < 1))
    sheet = soft((inner + 0.6).abs() - 0.5, grid) * 0.7 * (inner < 3)
    falx = soft(ax - 0.5 - 0.02 * (hull + 35).clamp(min=0), grid) * (hull > -30 + 0.25 * (y + 30).abs().clamp(max=60))
    falx = falx * 0.6 * ((hull < 0) & (z > -5) & (level["white"] > 2))
    return under, [("vessel", vessel), ("dura", torch.maximum(sheet, falx))]


def _face_cavities(
    ax: Tensor, y: Tensor, z: Tensor, surface: Tensor, outer: Tensor, grain: Tensor, grid: Grid
) -> Layers:
    """Eyes with lens, muscles, nerve and fat, and air spaces with their walls."""
    eye = _ball(ax, y, z, EYE, (EYE_RADIUS,) * 3)
    lens = _ball(ax, y, z, (EYE[0], EYE[1] + 8.5, EYE[2]), (4.5, 2.2, 4.5))
    orbit = _ball(ax, y, z, (EYE[0] - 6, EYE[1] - 14, EYE[2]), (16.0, 27.0, 16.0))
    back = (EYE[1] - y).clamp(min=0)
    side, up = ax - (EYE[0] - 0.5 * back), z - EYE[2]
    off = (side.square() + up.square()).sqrt_()
    between = (0.55 - (side.abs() - up.abs()).abs() / off.clamp(min=1)).clamp(min=0)
    rectus = torch.minimum((off - 11.5 + 0.24 * back).abs_() - 1.6 + 4 * between, off - 2.2)
    in_orbit = soft(orbit, grid) * soft(surface + 3, grid) * soft(-outer, grid)
    hollow = torch.stack([_ball(ax, y, z, middle, axes) for middle, axes in AIR]).amin(0) + 2.0 * grain
    cave = soft(hollow, grid) * soft(surface + 6, grid) * soft(-outer + 2, grid)
    return [
        ("lens", soft(lens, grid)),
        ("eye", soft(eye, grid)),
        ("muscle", in_orbit * soft(rectus, grid)),
        ("fat", in_orbit),
        ("mucosa", cave * soft(grain.abs() * 5 - 1.5, grid)),
        ("air", cave),
    ]


def _outer_surface(hull: Tensor, x: Tensor, y: Tensor, z: Tensor, cover: Tensor) -> Tensor:
    """Level set in mm of the skin's surface: the cranium with its cover, a face and a neck, smoothly joined."""
    ax = x.abs()
    face = _ball(ax, y, z, (0.0, 38.0, -58.0), (66.0, 56.0, 64.0))
    nose = _ball(ax, y, z, (0.0, 88.0, -52.0), (13.0, 18.0, 20.0))
    neck = ((x / 66).square() + ((y + 38) / 64).square()).sqrt_().sub_(1).mul_(60)
    neck = torch.maximum(neck, z + 40)
    out = _smooth_min(_smooth_min(hull - cover, face, 12.0), neck, 16.0)
    return _smooth_min(out, nose, 6.0)


def _ball(
    x: Tensor, y: Tensor, z: Tensor, middle: tuple[float, float, float], axes: tuple[float, float, float]
) -> Tensor:
    """Approximate signed distance to an ellipsoid."""
    q = ((x - middle[0]) / axes[0]).square_() + ((y - middle[1]) / axes[1]).square_()
    return q.add_(((z - middle[2]) / axes[2]).square_()).sqrt_().sub_(1).mul_(min(axes))


def _smooth_min(a: Tensor, b: Tensor, width: float) -> Tensor:
    h = (width - (a - b).abs()).clamp_(min=0).div_(width)
    return torch.minimum(a, b).sub_(h.square_().mul_(width / 4))
