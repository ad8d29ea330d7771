"""The main ways in which subjects differ in shape: principal components of their velocities in the metric."""

from __future__ import annotations

import csv
import json
import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.atlas.outputs.measures import FOREGROUND
from medkit.atlas.outputs.panels import Layer, png
from medkit.atlas.outputs.pictures import draw_rows
from medkit.atlas.outputs.planes import Planes
from medkit.atlas.result import AtlasFolder
from medkit.ops import warp
from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)

TABLE = "shape.csv"
SHARES = "shape.json"
PICTURE = "shape.png"
DEVIATIONS = (-2.0, 0.0, 2.0)
BLOCK = 16  # momenta that are held at a time


@dataclass(frozen=True)
class ShapeComponents:
    """Principal components of the velocities of subjects.

    Args:
        mean: mean velocity, ``(1, 3, *T)``, in voxels of its grid.
        velocities: of each component one standard deviation, ``(n, 3, *T)``; they are orthogonal in the metric.
        scores: of each subject how many standard deviations along each component, float64, ``(N, n)``: ``mean + scores
            @ velocities`` is its velocity, but for the components left out.
        shares: of the variance that each component explains, float64, ``(n,)``, falling.
        names: of the subjects.
    """

    mean: Tensor
    velocities: Tensor
    scores: Tensor
    shares: Tensor
    names: tuple[str, ...]


def shape_components(atlas: AtlasFolder, n: int = 3) -> ShapeComponents:
    r"""Find the main ways in which the subjects of an atlas differ in shape.

    The principal components of :math:`L^{1/2} v_i`, found from the inner products of all pairs, :math:`(L v_i, v_j)`:
    directions in which the velocities vary most, measured as the energy does. Velocities are read from disk, a block
    against one at a time.

    Args:
        atlas: the built atlas, with its velocities.
        n: components, at least 1 and less than there are subjects.

    Returns:
        The components; those without any variance are left out.

    Raises:
        ValueError: if ``n`` is out of its range, or the subjects do not differ at all.

    Example:
        >>> shape_components(AtlasFolder("my_atlas"), 2).shares
        tensor([0.41, 0.22], dtype=torch.float64)
    """
    members = atlas.members
    if not 1 <= n < len(members):
        raise ValueError(f"shape_components: 'n' must be 1 to {len(members) - 1}, less than subjects, got {n}")
    products = _inner_products(atlas)
    centred = products - products.mean(0, keepdim=True) - products.mean(1, keepdim=True) + products.mean()
    values, vectors = torch.linalg.eigh((centred + centred.mT) / 2)
    values, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    total = float(values.sum())
    if not total > 1e-12 * max(float(products.diagonal().sum()), 1e-30):
        raise ValueError("shape_components: the velocities of all subjects are the same, there is nothing to compare")
    n_found = min(n, int((values > 1e-9 * values[0]).sum()))
    directions = vectors[:, :n_found]
    # The sign of an eigenvector is nobody's choice: the largest score is positive.
    largest = directions.abs().argmax(0)
    directions = directions * directions.gather(0, largest[None]).sign()
    scale = (len(members) - 1) ** 0.5
    mean = torch.zeros(1, 3, *atlas.metric.size, dtype=torch.float64)
    velocities = torch.zeros(n_found, 3, *atlas.metric.size, dtype=torch.float64)
    # Rows of directions add up to 0 over the subjects: the mean drops out.
    for member, row in zip(members, directions, strict=True):
        velocity = atlas.velocity(member).double()
        mean += velocity / len(members)
        velocities += row.reshape(-1, 1, 1, 1, 1) * velocity / scale
    return ShapeComponents(
        mean.float(),
        velocities.float(),
        directions * scale,
        values[:n_found] / total,
        tuple(m.name for m in members),
    )


def _inner_products(atlas: AtlasFolder) -> Tensor:
    """Inner products of the velocities of all pairs, float64, ``(N, N)``."""
    n = len(atlas.members)
    products = torch.zeros(n, n, dtype=torch.float64)
    for start in range(0, n, BLOCK):
        block = atlas.members[start : start + BLOCK]
        momenta = torch.cat([atlas.metric.momentum(atlas.velocity(m).double()) for m in block]).flatten(1)
        for j in range(start, n):
            other = atlas.metric.to_mm(atlas.velocity(atlas.members[j]).double()).flatten()
            found = atlas.metric.voxel_volume * (momenta @ other)
            products[start : start + len(block), j] = found
            products[j, start : start + len(block)] = found
    return products


def write_shape(atlas: AtlasFolder, n: int = 3) -> ShapeComponents:
    """Write ``shape.csv``, ``shape.json`` and ``shape.png``: the main ways in which the subjects differ in shape.

    The table holds for each subject how many standard deviations it is along each component, the JSON file the shares
    of the variance that they explain, and the picture the template at two standard deviations to both sides.

    Args:
        atlas: the finished atlas, its template written.
        n: see :func:`shape_components`.

    Returns:
        The components.

    Raises:
        ValueError: if ``n`` is out of its range, or the subjects do not differ at all.
        FileNotFoundError: if the template was not written.
    """
    found = shape_components(atlas, n)
    template = atlas.template()
    planes = Planes.through_middle(template[0].amax(0), atlas.frame.affine, FOREGROUND)
    columns = [f"component_{k + 1}" for k in range(len(found.shares))]
    with atomic_path(atlas.folder / TABLE) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["subject", *columns])
        for name, row in zip(found.names, found.scores.tolist(), strict=True):
            writer.writerow([name, *(f"{score:.6g}" for score in row)])
    with atomic_path(atlas.folder / SHARES) as temporary:
        text = json.dumps({"explained_shares": found.shares.tolist()}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")
    rows = []
    for k, share in enumerate(found.shares.tolist()):
        pushed = [component_template(atlas, found, k, deviation, template)[0, 0] for deviation in DEVIATIONS]
        places = [f"{deviation:+g} SD" if deviation else "mean" for deviation in DEVIATIONS]
        names = [f"component {k + 1} ({100 * share:.0f} %), {place}" for place in places]
        high = max(float(template[0, 0].max()), 1e-3)
        rows.append([Layer(name, image, high=high) for name, image in zip(names, pushed, strict=True)])
    with atomic_path(atlas.folder / PICTURE) as temporary:
        temporary.write_bytes(png(draw_rows(rows, planes)))
    return found


def component_template(
    atlas: AtlasFolder, components: ShapeComponents, k: int, deviations: float, template: Tensor | None = None
) -> Tensor:
    """Deform the template as a subject so many standard deviations along a component would be.

    Args:
        atlas: the finished atlas.
        components: of it.
        k: which component, from 0.
        deviations: how many standard deviations.
        template: ``(1, C, *frame.size)``; ``None``: read from the folder.

    Returns:
        ``(1, C, *frame.size)``.
    """
    velocity = components.mean + deviations * components.velocities[k : k + 1]
    return warp(atlas.template() if template is None else template, atlas.moved(velocity, inverse=True))
