"""Density compensation: the area of k-space that each sample stands for, by formula for spokes, iterated for any."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medkit.mri.noncartesian.fourier import check_size, check_trajectory, to_angles, transform
from medkit.mri.noncartesian.readouts import check_counts, spoke_angles, spoke_radii


def radial_weights(n_spokes: int, size: Sequence[int], n_readout: int | None = None, order: str = "uniform") -> Tensor:
    """Weights of the samples of :func:`radial_trajectory` with the same arguments, by formula.

    A sample stands for the part of the ring, or shell, between its neighbours that lies between the spokes beside it:
    the radius, or its square. The sample in the middle makes the sum over a spoke the integral to fourth order (formula
    of Euler and Maclaurin): a twelfth of the squared step to each side for the kink of the radius there, in volumes,
    where the square has none, 0. The angle between golden spokes is measured; in volumes spokes share the sphere alike.

    Args:
        n_spokes: number of spokes, at least 1.
        size: pixels of the image along each axis, ``(H, W)`` or ``(H, W, D)``.
        n_readout: samples of a spoke; ``None``: two for each pixel of the longest axis.
        order: ``"uniform"`` or ``"golden"``.

    Returns:
        ``(n_spokes * n_readout,)``, float32, at least 0, in cells of the Cartesian grid, whose own weights are 1.

    Raises:
        ValueError: if a count is below 1 or ``order`` is another.

    Example:
        >>> round(radial_weights(100, (64, 64)).sum().item() / (torch.pi * 32**2), 2)
        1.0
    """
    name = "radial_weights"
    size = check_size(name, size)
    n_readout = 2 * max(size) if n_readout is None else n_readout
    check_counts(name, n_spokes=n_spokes, n_readout=n_readout)
    dims = len(size)
    angles = spoke_angles(name, n_spokes, order).remainder(math.pi)
    if dims == 2:
        ascending, place = angles.sort()
        before = (ascending - ascending.roll(1)).remainder(math.pi) if n_spokes > 1 else ascending + math.pi
        share = torch.empty_like(angles)
        share[place] = (before + before.roll(-1)) / 2
    else:
        share = torch.full_like(angles, 2 * math.pi / n_spokes)
    step = 2 / n_readout
    ring = spoke_radii(n_readout).abs() ** (dims - 1) * step
    if dims == 2:
        ring[n_readout // 2] = step**2 / 6
    return (math.prod(n / 2 for n in size) * share[:, None] * ring).flatten().float()


def pipe_menon_weights(trajectory: Tensor, size: Sequence[int], n_iterations: int = 30) -> Tensor:
    r"""Weights of the samples of any trajectory, iterated until each neighbourhood weighs the same.

    .. math:: w \leftarrow w \,/\, (\psi * w)

    The neighbourhood :math:`\psi` is never negative, and its image the autocorrelation of the field of view, so that
    the artefacts which the weights leave lie outside the object as far as they can.
    Source: Pipe and Menon 1999, doi:10.1002/(SICI)1522-2594(199901)41:1<179::AID-MRM25>3.0.CO;2-V.

    Args:
        trajectory: real, ``(n_samples, 2)`` or ``(B, n_samples, 2)``, 3 coordinates for volumes; in index units of
            k-space, as for :func:`nufft`.
        size: pixels of the image along each axis.
        n_iterations: number of divisions, at least 1.

    Returns:
        ``(n_samples,)`` or ``(B, n_samples)``, float32, above 0, in cells of the Cartesian grid, whose own weights
        are 1; on the device of ``trajectory``.

    Raises:
        ValueError: if a coordinate is not finite or out of the band, or a number is below 1.
        ImportError: if finufft, the extra ``nufft``, is not installed.

    Example:
        >>> pipe_menon_weights(torch.tensor([[0.0, 0.0], [0.0, 0.0], [8.0, 8.0]]), (16, 16))
        tensor([0.5000, 0.5000, 1.0000])
    """
    name = "pipe_menon_weights"
    size = check_size(name, size)
    check_trajectory(name, trajectory, size)
    check_counts(name, n_iterations=n_iterations)
    # The autocorrelation of the field of view is twice as wide as it.
    angles, wide = to_angles(trajectory, size), [2 * n for n in size]
    window = torch.ones((), dtype=torch.float64)
    for n in size:
        window = window[..., None] * (1 - (torch.arange(2 * n, dtype=torch.float64) - n).abs() / n)
    window = window * (math.prod(wide) / math.prod(size))  # two orthonormal transforms over the wide field
    weights = torch.ones(angles.shape[0], 1, angles.shape[1], dtype=torch.float64)
    for _ in range(n_iterations):
        image = transform(name, weights.to(torch.complex128), angles, wide, True, 1e-5)
        weights = weights / transform(name, image * window, angles, wide, False, 1e-5).real
    return weights[:, 0].float().reshape(trajectory.shape[:-1]).to(trajectory.device)
