"""Trajectories through k-space, radial and spiral, in index units: -n/2 to n/2 along an axis of n pixels.

Pixels are taken as square: a radius of 1 is the edge of k-space on each axis, so that in index units the circle is an
ellipse where the axes differ in length. Golden angle: Winkelmann et al. 2007, doi:10.1109/TMI.2006.885337; golden means
in three dimensions: Chan et al. 2009, doi:10.1002/mrm.21837.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medkit.mri.noncartesian.fourier import check_size

_GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2  # 111.2 degrees
_GOLDEN_MEANS = (0.46557123187676802, 0.68232780382801932)


def check_counts(name: str, **counts: int) -> None:
    """Raise ``ValueError`` in the name of a function for the first count below 1."""
    for argument, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: '{argument}' must be at least 1, got {count}")


def spoke_angles(name: str, n_spokes: int, order: str) -> Tensor:
    """Angle of each spoke of a slice in radians, float64, from the first axis towards the second."""
    if order not in ("uniform", "golden"):
        raise ValueError(f"{name}: 'order' must be 'uniform' or 'golden', got {order!r}")
    step = math.pi / n_spokes if order == "uniform" else _GOLDEN_ANGLE
    return torch.arange(n_spokes, dtype=torch.float64) * step


def spoke_radii(n_readout: int) -> Tensor:
    """Radius of each sample of a spoke as a part of the edge's, from -1 on, 0 at index ``n_readout // 2``; float64."""
    return (torch.arange(n_readout, dtype=torch.float64) - n_readout // 2) * (2 / n_readout)


def radial_trajectory(
    n_spokes: int, size: Sequence[int], n_readout: int | None = None, order: str = "uniform"
) -> Tensor:
    r"""Spokes through the centre of k-space, each from edge to edge.

    Full sampling of a slice needs :math:`\pi n / 2` spokes for n pixels.

    Args:
        n_spokes: number of spokes, at least 1.
        size: pixels of the image along each axis, ``(H, W)`` or ``(H, W, D)``.
        n_readout: samples of a spoke; ``None``: two for each pixel of the longest axis.
        order: ``"uniform"``: equal angles over a half turn, in volumes points equally spread over a half sphere (a
            Fibonacci lattice); ``"golden"``: steps of the golden angle, 111.2 degrees, or of the golden means, of which
            any run of spokes is spread nearly equally.

    Returns:
        ``(n_spokes * n_readout, len(size))``, float32, index units, spoke after spoke.

    Raises:
        ValueError: if a count is below 1 or ``order`` is another.

    Example:
        >>> radial_trajectory(2, (4, 4), n_readout=2).tolist()
        [[-2.0, -0.0], [0.0, 0.0], [-0.0, -2.0], [0.0, 0.0]]
    """
    name = "radial_trajectory"
    size = check_size(name, size)
    n_readout = 2 * max(size) if n_readout is None else n_readout
    check_counts(name, n_spokes=n_spokes, n_readout=n_readout)
    angles = spoke_angles(name, n_spokes, order)
    if len(size) == 2:
        directions = torch.stack([angles.cos(), angles.sin()], -1)
    else:
        index = torch.arange(n_spokes, dtype=torch.float64)
        height = (index + 0.5) / n_spokes if order == "uniform" else (index * _GOLDEN_MEANS[0]) % 1
        turn = index * (2 * _GOLDEN_ANGLE if order == "uniform" else 2 * math.pi * _GOLDEN_MEANS[1])
        width = (1 - height.square()).sqrt()
        directions = torch.stack([width * turn.cos(), width * turn.sin(), height], -1)
    return _to_index_units(spoke_radii(n_readout)[:, None] * directions[:, None], size)


def spiral_trajectory(
    n_interleaves: int, size: Sequence[int], n_readout: int | None = None, n_turns: float | None = None
) -> Tensor:
    """Archimedean spirals from the centre of a slice's k-space to its edge, sampled at equal distances.

    Args:
        n_interleaves: number of spirals, each turned by an equal part of a full turn; at least 1.
        size: pixels of the image along each axis, ``(H, W)``.
        n_readout: samples of a spiral; ``None``: two for each unit of its length in index units.
        n_turns: turns of each spiral, more than 0; ``None``: as many as leave one index unit between neighbouring arms,
            which is full sampling of the circle that the field of view holds (its corners need sqrt(2) times as many).
            Half of them accelerate twofold.

    Returns:
        ``(n_interleaves * n_readout, 2)``, float32, index units, spiral after spiral.

    Raises:
        ValueError: if a count is below 1, ``n_turns`` is not above 0, or ``size`` has not 2 axes.

    Example:
        >>> spiral_trajectory(8, (64, 64), n_readout=500).shape
        torch.Size([4000, 2])
    """
    name = "spiral_trajectory"
    size = check_size(name, size)
    if len(size) != 2:
        raise ValueError(f"{name}: 'size' must be 2 positive numbers, got {size}")
    check_counts(name, n_interleaves=n_interleaves)
    n_turns = max(size) / 2 / n_interleaves if n_turns is None else n_turns
    if not 0 < n_turns < math.inf:
        raise ValueError(f"{name}: 'n_turns' must be above 0, got {n_turns}")
    last = 2 * math.pi * n_turns
    # Length of the arm up to an angle, where the radius is angle / last; its inverse by interpolation.
    angle = torch.linspace(0, last, max(1000, math.ceil(200 * n_turns)), dtype=torch.float64)
    length = (angle * (1 + angle.square()).sqrt() + torch.asinh(angle)) / (2 * last)
    if n_readout is None:
        n_readout = math.ceil(2 * float(length[-1]) * max(size) / 2)
    check_counts(name, n_readout=n_readout)
    wanted = torch.linspace(0, 1, n_readout, dtype=torch.float64) * length[-1]
    above = torch.searchsorted(length, wanted).clamp(1, len(length) - 1)
    part = (wanted - length[above - 1]) / (length[above] - length[above - 1])
    angle = angle[above - 1] + part * (angle[above] - angle[above - 1])
    turned = torch.arange(n_interleaves, dtype=torch.float64)[:, None] * (2 * math.pi / n_interleaves) + angle
    return _to_index_units(torch.stack([turned.cos(), turned.sin()], -1) * (angle / last)[:, None], size)


def _to_index_units(positions: Tensor, size: Sequence[int]) -> Tensor:
    """Positions ``(n, m, dims)`` in a circle of radius 1 to index units, as one list."""
    half = torch.tensor([n / 2 for n in size], dtype=torch.float64)
    return (positions.clamp(-1, 1) * half).flatten(0, 1).float()
