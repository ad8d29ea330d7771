"""Smooth invertible transformations: exponential and logarithm of velocities, inverses, Jacobians, change of grid.

Fields are as in :mod:`medkit.ops.warping`: in voxels of their own grid, channel k along array axis k.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medkit.ops.doubling import doubled
from medkit.ops.warping import check_field, compose, read_at, unit_identity, units_per_voxel, warp

FEWEST_SQUARINGS = 2
LARGEST_FIRST_STEP = 1.0  # voxels
LARGEST_VELOCITY = 2.0**19  # voxels
MODES_OF_RESIZING = {2: "bilinear", 3: "trilinear"}


def count_squarings(velocity: Tensor) -> int:
    """Return how many squarings follow a midpoint step of at most a voxel, at least 2.

    Raises:
        ValueError: if the velocity is not finite, or so large that no map can come of it.

    Example:
        >>> count_squarings(torch.full((1, 2, 4, 4), 100.0))
        7
    """
    check_field("count_squarings", "velocity", velocity)
    largest = float(velocity.detach().abs().amax()) if velocity.numel() else 0.0
    if not largest < LARGEST_VELOCITY:
        raise ValueError(
            f"exponential: 'velocity' must be finite and below {LARGEST_VELOCITY:g} voxels, got a largest of {largest}"
        )
    if largest <= LARGEST_FIRST_STEP:
        return FEWEST_SQUARINGS
    return max(FEWEST_SQUARINGS, math.ceil(math.log2(largest / LARGEST_FIRST_STEP)))


def exponential(velocity: Tensor, n_squarings: int | None = None, inverse: bool = False) -> Tensor:
    r"""Flow of a stationary velocity to time 1, by scaling and squaring.

    .. math:: \phi = \exp(v), \quad \dot\phi_t = v \circ \phi_t, \quad \phi_0 = \mathrm{id}

    Outside the grid the velocity at the border holds. Source: Arsigny et al. 2006, doi:10.1007/11866565_113.

    By default the first step is one of the midpoint rule, :math:`h v(x + \frac{h}{2} v(x))`, at most a voxel long: each
    more squaring would quarter the error, not halve it. Against 12 plain squarings the largest error is at most 0.01
    voxel up to a velocity of 2 voxels, and 0.03 up to 8, for velocities that change over about 3 voxels or more.

    Args:
        velocity: real, ``(B, D, *S)``, in voxels per unit of time.
        n_squarings: how often the flow is doubled after the plain first step ``velocity / 2**n_squarings``; each more
            halves the error. ``None``: the midpoint step, and as many as it needs, at least 2. Give a number to trace
            or export.
        inverse: flow backwards: the displacement of :math:`\exp(-v) = \phi^{-1}`.

    Returns:
        Displacement ``(B, D, *S)``, in voxels.

    Raises:
        ValueError: if it is no field, not finite, or ``n_squarings`` is negative.

    Example:
        >>> exponential(torch.full((1, 2, 4, 4), 0.5))[0, 0, 3, 3]
        tensor(0.5000)
    """
    check_field("exponential", "velocity", velocity)
    if n_squarings is not None and n_squarings < 0:
        raise ValueError(f"exponential: 'n_squarings' must be at least 0, got {n_squarings}")
    n_doublings = count_squarings(velocity) if n_squarings is None else n_squarings
    v = velocity.to(torch.promote_types(velocity.dtype, torch.float32))
    with torch.autocast(v.device.type, enabled=False):
        # In the units and the order of axes that reading takes, so that no squaring has to change them.
        units = units_per_voxel(v.shape[2:], v)
        still = unit_identity(v.shape[2:], v)
        moved = v.flip(1) * (units * ((-1.0 if inverse else 1.0) / 2**n_doublings))
        if n_squarings is None:
            moved = read_at(moved, torch.add(still, moved, alpha=0.5))
        for _ in range(n_doublings):
            moved = moved + read_at(moved, still + moved)
        return (moved / units).flip(1)


def smoothed(field: Tensor) -> Tensor:
    """Smooth a field by the weights 1, 2, 1 along each axis, the border repeated; ``(B, D, *S)`` in and out."""
    n_axes = field.ndim - 2
    for k in range(n_axes):
        n = field.shape[k + 2]
        low, high = field.narrow(k + 2, 0, 1), field.narrow(k + 2, n - 1, 1)
        wide = torch.cat([low, field, high], dim=k + 2)
        field = (wide.narrow(k + 2, 0, n) + 2 * field + wide.narrow(k + 2, 2, n)) / 4
    return field


def logarithm(displacement: Tensor, n_rounds: int = 6, n_squarings: int | None = None) -> tuple[Tensor, Tensor]:
    r"""Find a stationary velocity whose flow is near a given displacement.

    A fixed point: what :math:`\exp(-v)` after the displacement leaves is smoothed by a voxel and added to ``v``; the
    best round is kept. Not every transformation has a logarithm, so this is a start for what improves it, not an
    answer: look at what is left. No gradient.

    Args:
        displacement: real, ``(B, D, *S)``, in voxels.
        n_rounds: at most so many, at least 1.
        n_squarings: of each exponential; see :func:`exponential`.

    Returns:
        Velocity ``(B, D, *S)`` in voxels, and what it leaves, the largest :math:`|\exp(-v) \circ \phi - id|`
        of each sample, ``(B,)``, in voxels.

    Raises:
        ValueError: if it is no field, or ``n_rounds`` is below 1.

    Example:
        >>> velocity, left = logarithm(torch.full((1, 2, 8, 8), 0.5))
        >>> round(velocity[0, 0, 4, 4].item(), 4), left.item() < 1e-3
        (0.5, True)
    """
    check_field("logarithm", "displacement", displacement)
    if n_rounds < 1:
        raise ValueError(f"logarithm: 'n_rounds' must be at least 1, got {n_rounds}")
    with torch.no_grad():
        velocity = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
        best, least = velocity, velocity.new_full((len(velocity),), math.inf)
        for _ in range(n_rounds + 1):
            left = compose(exponential(velocity, n_squarings, inverse=True), displacement)
            size = left.square().sum(1).sqrt().flatten(1).amax(1)
            better = size < least
            best = torch.where(better.reshape(-1, *[1] * (velocity.ndim - 1)), velocity, best)
            least = torch.where(better, size, least)
            velocity = velocity + smoothed(left)
        return best, least


def invert(displacement: Tensor, n_rounds: int = 30) -> Tensor:
    r"""Displacement of the inverse transformation, by the fixed point :math:`u^{-1} = -u \circ \phi^{-1}`.

    It converges where neighbouring points move alike (differences of the displacement below 1 per voxel); of what folds
    there is no inverse. No gradient. For velocities use ``exponential(v, inverse=True)``.

    Args:
        displacement: real, ``(B, D, *S)``, in voxels.
        n_rounds: at least 1.

    Returns:
        Displacement ``(B, D, *S)``, in voxels.

    Raises:
        ValueError: if it is no field, or ``n_rounds`` is below 1.

    Example:
        >>> invert(torch.full((1, 2, 4, 4), 0.5))[0, 0, 0, 0]
        tensor(-0.5000)
    """
    check_field("invert", "displacement", displacement)
    if n_rounds < 1:
        raise ValueError(f"invert: 'n_rounds' must be at least 1, got {n_rounds}")
    with torch.no_grad():
        inverse = -displacement
        for _ in range(n_rounds):
            inverse = -warp(displacement, inverse)
        return inverse


def jacobian_determinant(displacement: Tensor) -> Tensor:
    r"""Local change of volume of a transformation, :math:`|D\phi| = \det(1 + \partial u_k / \partial x_l)`.

    Differences are central, one-sided at the border. 1: unchanged, below 1: the image read shrinks there, at most 0:
    folded. The size of voxels does not matter.

    Args:
        displacement: real, ``(B, D, *S)``, in voxels, at least two of them along each axis.

    Returns:
        ``(B, 1, *S)``, without unit.

    Raises:
        ValueError: if it is no field, or an axis has one voxel.

    Example:
        >>> stretch = torch.stack([torch.arange(4.0).reshape(4, 1).expand(4, 4) * 0.1, torch.zeros(4, 4)])
        >>> jacobian_determinant(stretch[None])[0, 0, 1, 1]
        tensor(1.1000)
    """
    check_field("jacobian_determinant", "displacement", displacement)
    if min(displacement.shape[2:]) < 2:
        raise ValueError(
            f"jacobian_determinant: 'displacement' must have two voxels along each axis, got "
            f"{tuple(displacement.shape)}"
        )
    n_axes = displacement.shape[1]
    u = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
    rows = [list(torch.gradient(u[:, k], dim=list(range(1, n_axes + 1)))) for k in range(n_axes)]
    for k in range(n_axes):
        rows[k][k] = rows[k][k] + 1
    if n_axes == 2:
        (a, b), (c, d) = rows
        return (a * d - b * c)[:, None]
    (a, b, c), (d, e, f), (g, h, i) = rows
    return (a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))[:, None]


@dataclass(frozen=True)
class Folding:
    """How a transformation changes volumes.

    Args:
        n_folded: number of voxels whose Jacobian determinant is at most 0.
        fraction: their part of all voxels, 0 to 1.
        minimum: smallest determinant.
        maximum: largest determinant.
        log_std: standard deviation of the logarithm of the determinant, where it is positive.
    """

    n_folded: int
    fraction: float
    minimum: float
    maximum: float
    log_std: float


def folding(displacement: Tensor, mask: Tensor | None = None) -> Folding:
    """Count folded voxels and sum up the changes of volume.

    Args:
        displacement: real, ``(B, D, *S)``, in voxels.
        mask: ``(B, 1, *S)``, where it counts; ``None``: everywhere.

    Returns:
        Numbers over the whole batch.

    Raises:
        ValueError: if it is no field, or the mask is empty or does not fit.

    Example:
        >>> folding(torch.zeros(1, 2, 4, 4)).n_folded
        0
    """
    determinant = jacobian_determinant(displacement)
    if mask is not None:
        if mask.ndim != determinant.ndim or mask.shape[2:] != determinant.shape[2:]:
            raise ValueError(
                f"folding: 'mask' must be (B, 1, *S) like {tuple(determinant.shape)}, got {tuple(mask.shape)}"
            )
        determinant = determinant[mask.expand_as(determinant) > 0]
    if determinant.numel() == 0:
        raise ValueError("folding: 'mask' must hold at least one voxel, got none")
    values = determinant.flatten().double()
    positive = values[values > 0]
    n_folded = values.numel() - positive.numel()
    return Folding(
        n_folded=n_folded,
        fraction=n_folded / values.numel(),
        minimum=float(values.min()),
        maximum=float(values.max()),
        log_std=float(positive.log().std(correction=0)) if positive.numel() else math.nan,
    )


def resize_field(field: Tensor, size: Sequence[int], corners: bool = True) -> Tensor:
    """Bring a displacement or velocity to another grid over the same space: values and unit change together.

    Args:
        field: real, ``(B, D, *S)``, in voxels of its grid.
        size: voxels of the new grid along each axis.
        corners: ``True``: the first and last voxel centres of both grids coincide, so that a voxel of the old grid is
            ``(size - 1) / (S - 1)`` new ones; ``False``: their outer faces do, and it is ``size / S``.

    Returns:
        ``(B, D, *size)``, in voxels of the new grid.

    Raises:
        ValueError: if it is no field, ``size`` does not fit, or an axis of one voxel would have to change with
            ``corners``.

    Example:
        >>> resize_field(torch.ones(1, 2, 5, 5), (9, 9))[0, 0, 0, 0]
        tensor(2.)
    """
    check_field("resize_field", "field", field)
    new, old = tuple(int(n) for n in size), tuple(field.shape[2:])
    if len(new) != len(old) or min(new) < 1:
        raise ValueError(f"resize_field: 'size' must be {len(old)} positive numbers of voxels, got {tuple(size)}")
    if corners and any(a != b and min(a, b) == 1 for a, b in zip(old, new, strict=True)):
        raise ValueError(f"resize_field: an axis of one voxel has no corners to align, got {old} and {new}")
    x = field.to(torch.promote_types(field.dtype, torch.float32))
    if new == old:
        return x
    margin = 1 if corners else 0
    factor = [(b - margin) / (a - margin) if a != b else 1.0 for a, b in zip(old, new, strict=True)]
    factors = torch.tensor(factor, dtype=x.dtype, device=x.device).reshape(1, -1, *[1] * len(new))
    is_doubled = not corners and new == tuple(2 * n for n in old)
    with torch.autocast(field.device.type, enabled=False):
        # A custom derivative can be neither traced nor exported.
        if is_doubled and not torch.compiler.is_compiling() and not torch.jit.is_tracing():
            return doubled(x * factors)
        return F.interpolate(x, new, mode=MODES_OF_RESIZING[len(new)], align_corners=corners) * factors
