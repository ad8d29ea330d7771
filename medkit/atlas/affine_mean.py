"""The mean of affine maps, taken out of them: a frame that favours the size and shape of nobody."""

import torch
from torch import Tensor

MAX_ROUNDS = 50
TOLERANCE = 1e-10


def polar(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Split linear maps into a stretch and a rotation after it, M = R P.

    Args:
        matrices: ``(N, D, D)``, of positive determinant.

    Returns:
        Rotations ``(N, D, D)``, and symmetric positive stretches ``(N, D, D)``.

    Raises:
        ValueError: if a map is singular or reflects.

    Example:
        >>> polar(2 * torch.eye(2, dtype=torch.float64)[None])[1][0, 0, 0]
        tensor(2., dtype=torch.float64)
    """
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2]:
        raise ValueError(f"polar: 'matrices' must be (N, D, D), got {tuple(matrices.shape)}")
    determinants = torch.linalg.det(matrices)
    if not bool((determinants > 0).all()):
        worst = int(determinants.argmin())
        raise ValueError(
            f"polar: 'matrices' must have positive determinants, number {worst} has {float(determinants[worst]):.4g}"
        )
    left, values, right = torch.linalg.svd(matrices)
    return left @ right, right.mT @ torch.diag_embed(values) @ right


def _log_mean(stretches: Tensor) -> Tensor:
    """Mean of symmetric positive matrices ``(N, D, D)`` in the domain of their logarithms."""
    values, vectors = torch.linalg.eigh(stretches)
    logarithm = (vectors @ torch.diag_embed(values.log()) @ vectors.mT).mean(0)
    values, vectors = torch.linalg.eigh(logarithm)
    return vectors @ torch.diag(values.exp()) @ vectors.mT


def without_mean(matrices: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
    r"""Take the mean stretch and shift out of affine maps from a template to its subjects, :math:`A_i \bar A^{-1}`.

    Stretches are averaged by their logarithms, so that a subject twice as large and one half as large cancel; shifts of
    the centre are averaged as they are. Rotations are left alone: the template keeps the orientation of its frame and
    does not tilt from round to round. Repeated until no mean is left.

    Args:
        matrices: ``(N, D + 1, D + 1)``, from points of the template to points of the subject, in mm.
        centre: ``(D,)``, mm, about which stretches are taken: the middle of the template's grid.

    Returns:
        The maps from the new template's points, ``(N, D + 1, D + 1)``, and :math:`\bar A`, ``(D + 1, D + 1)``, from
        points of the old template to those of the new one, both float64.

    Raises:
        ValueError: if a shape is not as wanted, or a map is singular, reflects, or is not finite.

    Example:
        >>> shifted = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1)
        >>> shifted[0, 0, 2], shifted[1, 0, 2] = 3.0, 1.0
        >>> without_mean(shifted, torch.zeros(2))[0][:, 0, 2]
        tensor([ 1., -1.], dtype=torch.float64)
    """
    n_axes = len(centre)
    if matrices.ndim != 3 or matrices.shape[1:] != (n_axes + 1, n_axes + 1) or not len(matrices):
        raise ValueError(
            f"without_mean: 'matrices' must be (N, {n_axes + 1}, {n_axes + 1}) for {n_axes} axes, got "
            f"{tuple(matrices.shape)}"
        )
    maps = matrices.double()
    if not bool(torch.isfinite(maps).all()):
        raise ValueError("without_mean: 'matrices' must be finite")
    to_centre = torch.eye(n_axes + 1, dtype=torch.float64)
    to_centre[:n_axes, n_axes] = centre.double()
    maps = torch.linalg.inv(to_centre) @ maps @ to_centre  # about the origin
    total = torch.eye(n_axes + 1, dtype=torch.float64)
    for _ in range(MAX_ROUNDS):
        mean = torch.eye(n_axes + 1, dtype=torch.float64)
        mean[:n_axes, :n_axes] = _log_mean(polar(maps[:, :n_axes, :n_axes])[1])
        mean[:n_axes, n_axes] = maps[:, :n_axes, n_axes].mean(0)
        maps = maps @ torch.linalg.inv(mean)
        total = mean @ total
        if float((mean - torch.eye(n_axes + 1, dtype=torch.float64)).abs().max()) < TOLERANCE:
            break
    back = torch.linalg.inv(to_centre)
    return to_centre @ maps @ back, to_centre @ total @ back
