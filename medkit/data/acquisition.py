"""What a scanner adds to an image: smooth phase and the sensitivities of receive coils."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

WIRE = 0.3  # thickness of a loop's conductor in units of half the longest side: no map has a pole in a corner


def smooth_phase(
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    polynomial: float = 1.5,
    field: float = 0.5,
    width: float = 0.15,
    offset: bool = True,
) -> Tensor:
    """Draw a smooth image phase: a polynomial of second order, a smooth random field and a constant.

    Args:
        shape: ``(H, W)`` or ``(H, W, S)``.
        generator: source of randomness; ``None`` takes torch's own.
        polynomial: standard deviation in radians of each coefficient, coordinates running from -1 to 1.
        field: standard deviation of the random field in radians.
        width: correlation length of the field as a share of the longest side.
        offset: whether to add a constant, uniform in -pi to pi.

    Returns:
        Phase in radians, not wrapped, float32, ``shape``.

    Raises:
        ValueError: if ``shape`` has not two or three positive sides, or a number is negative.

    Example:
        >>> smooth_phase((32, 24), torch.Generator().manual_seed(0)).shape
        torch.Size([32, 24])
    """
    _check_shape("smooth_phase", shape)
    for name, value in (("polynomial", polynomial), ("field", field)):
        if value < 0:
            raise ValueError(f"smooth_phase: {name!r} must not be negative, got {value}")
    if width <= 0:
        raise ValueError(f"smooth_phase: 'width' must be positive, got {width}")
    axes = _coordinates(shape)
    dim = len(shape)
    terms = [axes[i] for i in range(dim)] + [axes[i] * axes[j] for i in range(dim) for j in range(i, dim)]
    weights = polynomial * torch.randn(len(terms), generator=generator)
    out = torch.zeros(tuple(shape))
    for weight, term in zip(weights, terms, strict=True):
        out = out + weight * term
    out = out + field * _smooth_field(shape, width, generator)
    if offset:
        out = out + (2 * torch.rand((), generator=generator) - 1) * math.pi
    return out


def coil_maps(
    n_coils: int,
    shape: Sequence[int],
    generator: torch.Generator | None = None,
    distance: tuple[float, float] = (1.5, 2.0),
    radius: tuple[float, float] = (0.5, 0.9),
    jitter: float = 0.25,
) -> Tensor:
    r"""Draw sensitivities of circular surface coils on a ring (2-D) or on rings of a helmet (3-D) around the head.

    The field of a small loop of radius a at distance r falls as :math:`(a^2 + r^2)^{-3/2}` and turns in the transverse
    plane, which makes the phase: :math:`S = (B_x - i B_y)`, from Biot and Savart on a polygon of the loop. Where a
    slice is 2-D the loops stand perpendicular to it.

    Args:
        n_coils: number of coils; one gives ones with a smooth phase.
        shape: ``(H, W)`` or ``(H, W, S)``.
        generator: source of randomness; ``None`` takes torch's own.
        distance: range of the coils' distance from the middle, in units of half the longest side.
        radius: range of the loops' radius, same unit.
        jitter: how far a coil strays from even spacing, as a share of it.

    Returns:
        Sensitivities, complex64, ``(n_coils, *shape)``, with :math:`\sum_c |S_c|^2 = 1` everywhere.

    Raises:
        ValueError: if there is no coil, or ``shape`` has not two or three positive sides, or a range is not positive
            and ordered.

    Example:
        >>> coil_maps(4, (32, 24), torch.Generator().manual_seed(0)).abs().square().sum(0).allclose(torch.ones(32, 24))
        True
    """
    _check_shape("coil_maps", shape)
    if n_coils < 1:
        raise ValueError(f"coil_maps: 'n_coils' must be at least 1, got {n_coils}")
    for name, span in (("distance", distance), ("radius", radius)):
        if not 0 < span[0] <= span[1]:
            raise ValueError(f"coil_maps: {name!r} must be a range of positive numbers, got {span}")

    def draw(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(n_coils, generator=generator)

    order = torch.arange(n_coils)
    n_rings = 1 if len(shape) == 2 or n_coils < 6 else 1 + (n_coils >= 12) + 1 * (n_coils >= 6)
    ring, place = order % n_rings, order // n_rings
    per_ring = torch.bincount(ring, minlength=n_rings)[ring]
    start = torch.rand((), generator=generator)
    around = 2 * math.pi * (start + (place + 0.5 * (ring % 2) + jitter * (draw(0, 1) - 0.5)) / per_ring)
    far, size = draw(*distance), draw(*radius)
    if len(shape) == 3:
        tall = (ring + 0.5) / n_rings * 1.4 - 0.7 + jitter * (draw(0, 1) - 0.5) * 0.5
    else:
        tall = 0.3 * (draw(0, 1) - 0.5)
    tilt = tall * 0.6
    normal = torch.stack([around.cos() * tilt.cos(), around.sin() * tilt.cos(), tilt.sin()], dim=-1)
    middle = torch.stack([far * around.cos(), far * around.sin(), tall], dim=-1)
    turn = torch.exp(2j * math.pi * torch.rand(n_coils, generator=generator))

    # The field is smooth: it is computed on a coarse grid and interpolated.
    coarse = tuple(min(n, 33 if len(shape) == 2 else 25) for n in shape)
    axes = _coordinates(shape, coarse)
    if len(shape) == 2:
        axes = [*axes, torch.zeros(1, 1)]
    points = torch.stack(torch.broadcast_tensors(*axes), dim=-1).reshape(-1, 3)
    field = torch.stack([_loop_field(points, m, n, float(a)) for m, n, a in zip(middle, normal, size, strict=True)])
    maps = ((field[..., 0] - 1j * field[..., 1]) * turn[:, None]).reshape(n_coils, *coarse)
    mode = "bicubic" if len(shape) == 2 else "trilinear"
    parts = [
        torch.nn.functional.interpolate(part[None], size=tuple(shape), mode=mode, align_corners=True)[0]
        for part in (maps.real.contiguous(), maps.imag.contiguous())
    ]
    out = torch.complex(*parts)
    power = out.abs().square().sum(0, keepdim=True).sqrt()
    return (out / power.clamp(min=torch.finfo(torch.float32).tiny)).to(torch.complex64)


def _loop_field(points: Tensor, middle: Tensor, normal: Tensor, radius: float, n_segments: int = 24) -> Tensor:
    """Magnetic field of a circular loop by Biot and Savart, up to a constant, ``(points, 3)``."""
    helper = torch.tensor([0.0, 0.0, 1.0]) if abs(float(normal[2])) < 0.9 else torch.tensor([1.0, 0.0, 0.0])
    u = torch.linalg.cross(normal, helper)
    u = u / u.norm()
    v = torch.linalg.cross(normal, u)
    angle = (torch.arange(n_segments) + 0.5) * (2 * math.pi / n_segments)
    wire = middle + radius * (angle.cos()[:, None] * u + angle.sin()[:, None] * v)
    element = -angle.sin()[:, None] * u + angle.cos()[:, None] * v
    out = torch.zeros_like(points)
    for position, direction in zip(wire, element, strict=True):
        offset = points - position
        distance = (offset.square().sum(-1, keepdim=True) + WIRE**2).sqrt()
        out += torch.linalg.cross(direction.expand_as(offset), offset) / distance**3
    return out


def _smooth_field(shape: Sequence[int], width: float, generator: torch.Generator | None) -> Tensor:
    """Normal noise under a Gaussian, on a grid twice as large so that it does not wrap round; unit variance."""
    large = [2 * n for n in shape]
    noise = torch.fft.fftn(torch.randn(large, generator=generator))
    sigma = width * max(shape)
    gain = torch.ones(())
    for axis, n in enumerate(large):
        frequency = torch.fft.fftfreq(n).view([-1 if k == axis else 1 for k in range(len(large))])
        gain = gain * torch.exp(-2 * (math.pi * sigma * frequency) ** 2)
    out = torch.fft.ifftn(noise * gain).real / gain.square().mean().sqrt()
    return out[tuple(slice(0, n) for n in shape)].contiguous()


def _coordinates(shape: Sequence[int], samples: Sequence[int] | None = None) -> list[Tensor]:
    """Coordinates along each axis, the longest side running from -1 to 1, each shaped to broadcast."""
    longest = max(shape)
    out = []
    for axis, n in enumerate(shape):
        count = n if samples is None else samples[axis]
        half = (n - 1) / longest
        line = torch.linspace(-half, half, count) if count > 1 else torch.zeros(1)
        out.append(line.view([-1 if k == axis else 1 for k in range(len(shape))]))
    return out


def _check_shape(function: str, shape: Sequence[int]) -> None:
    if len(shape) not in (2, 3) or min(shape) < 1:
        raise ValueError(f"{function}: 'shape' must have 2 or 3 positive sides, got {tuple(shape)}")
