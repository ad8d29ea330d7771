"""Descent of a linear map between two volumes on one grid: quasi-Newton steps in the group of rigid or affine maps."""

import itertools

import numpy as np
import torch
from torch import Tensor

from medkit.atlas.affine_starts import Framed
from medkit.atlas.similarities import local_decorrelation, mutual_information
from medkit.ops import identity_points, sample

KINDS = ("rigid", "similarity", "affine")
METRICS = ("mi", "lncc")
WINDOW = 5  # voxels, of local correlation
MOST_VOXELS = 8_000  # that mutual information is taken of, evenly spread
N_STEPS = 60
N_DESCENTS = 3  # where the moving volume has weights
ALL_COVERED = 0.999
RADIUS = 0.35  # of the object's longest side: a turn by 1 over it moves the object's surface by 1 mm


def generators(kind: str, n_axes: int) -> Tensor:
    """Return what spans the linear maps of a kind near the identity, ``(n, D, D)``, float64."""
    found = []
    for a, b in itertools.combinations(range(n_axes), 2):
        turn = torch.zeros(n_axes, n_axes, dtype=torch.float64)
        turn[a, b], turn[b, a] = -1.0, 1.0
        found.append(turn)
    if kind == "similarity":
        found.append(torch.eye(n_axes, dtype=torch.float64))
    if kind == "affine":
        found = list(torch.eye(n_axes**2, dtype=torch.float64).reshape(-1, n_axes, n_axes))
    return torch.stack(found)


def of_kind(matrix: np.ndarray, kind: str, centre: np.ndarray) -> np.ndarray:
    """Return the nearest map of a kind that takes the centre to the same point."""
    n_axes = len(centre)
    linear = matrix[:n_axes, :n_axes]
    if kind != "affine":
        left, values, right = np.linalg.svd(linear)
        scale = np.prod(values) ** (1 / n_axes) if kind == "similarity" else 1.0
        sign = np.diag([1.0] * (n_axes - 1) + [np.sign(np.linalg.det(left @ right))])
        linear = scale * (left @ sign @ right)
    out = np.eye(n_axes + 1)
    out[:n_axes, :n_axes] = linear
    out[:n_axes, n_axes] = matrix[:n_axes, :n_axes] @ centre + matrix[:n_axes, n_axes] - linear @ centre
    return out


def improved(fixed: Framed, moving: Framed, matrix: np.ndarray, kind: str, metric: str) -> np.ndarray:
    """Return a map of a kind that fits better, or as well: the nearest of that kind where no step helps.

    Args:
        fixed: on a grid of the wanted resolution.
        moving: on its own grid.
        matrix: ``(D + 1, D + 1)``, where to begin.
        kind: one of ``KINDS``.
        metric: one of ``METRICS``.
    """
    n_axes = len(matrix) - 1
    basis = generators(kind, n_axes)
    unit = RADIUS * fixed.extent
    centre = torch.from_numpy(fixed.centroid)
    base = torch.from_numpy(of_kind(matrix, kind, fixed.centroid))
    to_voxels = torch.from_numpy(np.linalg.inv(moving.affine))
    to_mm = torch.from_numpy(fixed.affine)
    points = identity_points(fixed.values.shape[2:])
    values, weight = fixed.values, fixed.weight
    if metric == "mi":
        step = -(-values.numel() // MOST_VOXELS)
        values, points = values.flatten(2)[..., ::step, None], points.flatten(2)[..., ::step, None]
        weight = None if weight is None else weight.flatten(2)[..., ::step, None]
        if n_axes == 3:
            values, points = values[..., None], points[..., None]
            weight = None if weight is None else weight[..., None]
    parameters = torch.zeros(len(basis) + n_axes, dtype=torch.float64, requires_grad=True)  # mm

    def mapped() -> Tensor:
        linear = torch.linalg.matrix_exp(torch.einsum("k,kij->ij", parameters[: len(basis)] / unit, basis))
        shift = centre - linear @ centre + parameters[len(basis) :]
        top = torch.cat([linear, shift[:, None]], 1)
        return base @ torch.cat([top, torch.eye(n_axes + 1, dtype=torch.float64)[n_axes:]])

    def places() -> Tensor:
        whole = (to_voxels @ mapped() @ to_mm).to(values.dtype)
        moved = torch.einsum("ij,bj...->bi...", whole[:n_axes, :n_axes], points)
        return moved + whole[:n_axes, n_axes].reshape(1, -1, *[1] * n_axes)

    def counted() -> Tensor | None:
        """Weight of both, where the moving one is now; what is mixed with something without weight has none."""
        if moving.weight is None:
            return weight
        with torch.no_grad():
            covered = (sample(moving.weight, places(), padding="zeros") > ALL_COVERED).to(values.dtype)
        return covered if weight is None else covered * weight

    def misfit(shares: Tensor | None) -> Tensor:
        seen = sample(moving.values, places(), padding="zeros")
        if metric == "mi":
            return -mutual_information(seen, values, shares, n_samples=MOST_VOXELS).sum()
        return local_decorrelation(seen, values, shares, WINDOW).sum()

    # A weight that moves along would reward hiding what does not fit: it stays, and is taken anew between descents.
    for _ in range(1 if moving.weight is None else N_DESCENTS):
        method = torch.optim.LBFGS([parameters], max_iter=N_STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-7)
        shares = counted()

        def closure(method: torch.optim.Optimizer = method, shares: Tensor | None = shares) -> float:
            method.zero_grad()
            loss = misfit(shares)
            loss.backward()
            return float(loss.detach())

        with torch.enable_grad():
            method.step(closure)
    with torch.no_grad():
        found = mapped()
    return found.numpy() if bool(torch.isfinite(found).all()) else base.numpy()
