"""Pictures of an atlas: its template in three planes, its subjects beside it, and how the warps move and stretch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medkit.atlas.outputs.panels import INK, PAPER, Layer, Panel, draw_panels, draw_slice, new_figure
from medkit.atlas.outputs.planes import PLANES, Planes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = 24  # of a deformed grid across the picture
SQUARES = 7  # of a checkerboard across the picture


def _in_planes(layer: Layer, planes: Sequence[str]) -> list[Panel]:
    """A volume in some planes, one colour bar for all of them."""
    return [
        Panel(replace(layer, has_bar=layer.has_bar and plane == planes[-1]), plane, f"{layer.name}, {plane}")
        for plane in planes
    ]


def draw_layers(layers: Sequence[Layer], planes: Planes) -> Figure:
    """Volumes in the three planes, one below the other."""
    return draw_panels([_in_planes(layer, tuple(PLANES)) for layer in layers], planes)[0]


def draw_preview(template: Sequence[Layer], subjects: Sequence[Layer], planes: Planes) -> Figure:
    """The template in the three planes, and below it some subjects on it."""
    rows = [_in_planes(layer, tuple(PLANES)) for layer in template]
    return draw_panels([*rows, [Panel(layer) for layer in subjects]], planes)[0]


def draw_subject(
    template: Tensor,
    warped: Tensor,
    displacement: Tensor,
    logarithm: Tensor,
    planes: Planes,
    plane: str = "axial",
) -> Figure:
    """A subject on the template: both, their difference, the grid as it is moved, and how volumes change.

    Args:
        template: ``(X, Y, Z)``, 0 to 1.
        warped: the subject on it, the same.
        displacement: of the template to the subject, ``(3, X, Y, Z)``, in voxels.
        logarithm: of the Jacobian, ``(X, Y, Z)``.
        planes: how to cut.
        plane: in which.
    """
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    bright = float(template.quantile(0.999)) if template.numel() < 2**24 else float(template.max())
    limit = max(float(logarithm.abs().max()), 0.1)
    layers = (
        Layer("template", template, high=bright),
        Layer("subject, warped", warped, high=bright),
        Layer("subject − template", warped - template, "RdBu_r", -bright / 2, bright / 2, True),
        Layer("grid", warped * 0.6, high=bright),
        Layer("log Jacobian", logarithm, "RdBu_r", -limit, limit, True),
    )
    figure, places = draw_panels([[Panel(layer, plane, has_letters=layer is layers[0]) for layer in layers]], planes)
    axes, (grid, overlay) = figure.axes[0], places[0][3:]
    seen, change = planes.cut(template, plane), planes.cut(logarithm, plane)
    lines = planes.grid_lines(displacement, plane, max(1, max(seen.shape) // LINES))
    drawn = LineCollection([grid.points(line, seen.shape) for line in lines], colors="#4dd0e1", linewidths=0.6)
    axes.add_collection(drawn)
    drawn.set_clip_path(Rectangle((grid.left, grid.bottom), grid.width, grid.height, transform=axes.transData))
    # The more a volume changes, the less of the template is seen through the colour.
    opaque = np.clip(1.5 * np.abs(change) / limit, 0, 1)
    draw_slice(axes, seen, overlay, cmap="gray", vmin=0, vmax=bright, alpha=1 - opaque)
    return figure


def checkerboard(first: Tensor, second: Tensor, n_squares: int = SQUARES) -> Tensor:
    """Squares of two volumes ``(X, Y, Z)`` in turn: where their edges meet, they agree."""
    side = max(1, round(max(first.shape) / n_squares))
    cells = [torch.arange(n) // side for n in first.shape]
    odd = (cells[0].reshape(-1, 1, 1) + cells[1].reshape(1, -1, 1) + cells[2].reshape(1, 1, -1)) % 2
    return torch.where(odd == 1, second, first)


def draw_rows(rows: Sequence[Sequence[Layer]], planes: Planes) -> Figure:
    """For each row some volumes in the axial and the coronal plane."""
    shown = [[Panel(layer, plane) for layer in row] for row in rows for plane in ("axial", "coronal")]
    return draw_panels(shown, planes)[0]


def draw_energies(trace: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The energy from round to round, with a line where a level begins; ``None`` if it was not recorded."""
    from matplotlib.ticker import MaxNLocator

    known = [(e["energy"], e.get("level")) for e in trace if isinstance(e.get("energy"), (int, float))]
    known = [(energy, level) for energy, level in known if np.isfinite(energy)]
    if not known:
        return None
    figure = new_figure(7, 2.8)
    axis = figure.add_axes((0.11, 0.18, 0.86, 0.72))
    axis.set_facecolor(PAPER)
    energies = [energy for energy, _ in known]
    axis.plot(range(1, len(known) + 1), energies, "o-", color="#4dd0e1", markersize=3, linewidth=1.2)
    for k in range(1, len(known)):
        if known[k][1] != known[k - 1][1]:
            axis.axvline(k + 0.5, color=INK, linewidth=0.6, linestyle=":")
    if min(energies) > 0 and max(energies) > 20 * min(energies):
        axis.set_yscale("log")
    axis.set_xlabel("step, of the template and the subjects in turn", color=INK, fontsize=8)
    axis.set_ylabel("energy", color=INK, fontsize=8)
    axis.tick_params(colors=INK, labelsize=7, which="both")
    axis.yaxis.get_offset_text().set_fontsize(7)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for name, side in axis.spines.items():
        side.set_color(INK)
        side.set_visible(name in ("left", "bottom"))
    return figure
