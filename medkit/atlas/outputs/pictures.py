"""Pictures of an atlas: its template in three planes, its subjects beside it, and how the warps move and stretch."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from medkit.atlas.outputs.planes import PLANES, Planes, write_letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

INCHES_PER_MM = 2.3 / 180  # of a human head
INK, PAPER = "#e8e8e8", "#101214"
LINES = 24  # of a deformed grid across the picture
SQUARES = 7  # of a checkerboard across the picture


@dataclass(frozen=True)
class Layer:
    """A volume and how it is shown.

    Args:
        name: written beside it.
        image: ``(X, Y, Z)``.
        cmap: name of the colour map.
        low: value of its first colour.
        high: value of its last colour.
        has_bar: whether a colour bar stands beside it.
    """

    name: str
    image: Tensor
    cmap: str = "gray"
    low: float = 0.0
    high: float = 1.0
    has_bar: bool = False


def new_figure(width: float, height: float) -> Figure:
    """A figure in inches that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.0, hspace=0.0)
    figure = Figure(figsize=(width, height), dpi=120, facecolor=PAPER, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER)
    return buffer.getvalue()


def _show(
    figure: Figure | SubFigure, axis: Axes, planes: Planes, plane: str, layer: Layer, letters: bool = True
) -> None:
    shown = axis.imshow(
        planes.cut(layer.image, plane),
        cmap=layer.cmap,
        vmin=layer.low,
        vmax=layer.high,
        aspect=planes.aspect(plane),
        interpolation="nearest",
    )
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    if letters:
        write_letters(axis, plane)
    if layer.has_bar:
        _bar(figure, shown, axis)


def _bar(figure: Figure | SubFigure, shown: Any, axis: Axes) -> None:
    bar = figure.colorbar(shown, ax=axis, fraction=0.05, pad=0.02)
    bar.ax.tick_params(colors=INK, labelsize=7)
    bar.outline.set_visible(False)


def _scale(planes: Planes) -> float:
    """Inches of a millimetre: a picture is about as large as that of a head, whatever the size of the object."""
    largest = max(max(planes.shape(plane)) for plane in PLANES)
    return min(INCHES_PER_MM * 180 / largest, 0.3)


def layers_size(n_layers: int, planes: Planes) -> tuple[float, float]:
    """Width and height of so many volumes in the three planes, inches."""
    scale = _scale(planes)
    shapes = [planes.shape(plane) for plane in PLANES]
    return scale * sum(w for _, w in shapes) + 1.2, n_layers * (scale * max(h for h, _ in shapes) + 0.3)


def fill_layers(figure: Figure | SubFigure, layers: Sequence[Layer], planes: Planes) -> None:
    """Draw volumes in the three planes, one below the other, into a figure."""
    widths = [planes.shape(plane)[1] for plane in PLANES]
    axes = figure.subplots(len(layers), 3, squeeze=False, width_ratios=widths)
    for row, layer in zip(axes, layers, strict=True):
        for axis, plane in zip(row, PLANES, strict=True):
            # One bar for the three pictures.
            _show(figure, axis, planes, plane, replace(layer, has_bar=layer.has_bar and axis is row[-1]))
            axis.set_title(f"{layer.name}, {plane}", color=INK, fontsize=8, parse_math=False)


def draw_layers(layers: Sequence[Layer], planes: Planes) -> Figure:
    """Volumes in the three planes, one below the other."""
    figure = new_figure(*layers_size(len(layers), planes))
    fill_layers(figure, layers, planes)
    return figure


def draw_preview(template: Sequence[Layer], subjects: Sequence[Layer], planes: Planes) -> Figure:
    """The template in the three planes, and below it some subjects on it."""
    width, height = layers_size(len(template), planes)
    below = _scale(planes) * planes.shape("axial")[0] + 0.3
    figure = new_figure(max(width, len(subjects) * _scale(planes) * planes.shape("axial")[1]), height + below)
    parts: Any = figure.subfigures(2, 1, height_ratios=(height, below))
    top, bottom = parts
    fill_layers(top, template, planes)
    for axis, layer in zip(bottom.subplots(1, len(subjects), squeeze=False)[0], subjects, strict=True):
        _show(bottom, axis, planes, "axial", layer)
        axis.set_title(layer.name, color=INK, fontsize=8, parse_math=False)
    for part in (top, bottom):
        part.set_facecolor(PAPER)
    return figure


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
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colors import Normalize

    height, width = (_scale(planes) * x for x in planes.shape(plane))
    figure = new_figure(5 * width + 1.4, height + 0.3)
    axes = figure.subplots(1, 5)
    bright = float(template.quantile(0.999)) if template.numel() < 2**24 else float(template.max())
    limit = max(float(logarithm.abs().max()), 0.1)
    layers = (
        Layer("template", template, high=bright),
        Layer("subject, warped", warped, high=bright),
        Layer("subject − template", warped - template, "RdBu_r", -bright / 2, bright / 2, True),
        Layer("grid", warped * 0.6, high=bright),
        Layer("log Jacobian", template, high=bright),
    )
    for axis, layer in zip(axes, layers, strict=True):
        _show(figure, axis, planes, plane, layer, letters=layer.name == "template")
        axis.set_title(layer.name, color=INK, fontsize=8)
    rows, columns = planes.cut(template, plane).shape
    every = max(1, max(rows, columns) // LINES)
    lines = planes.grid_lines(displacement, plane, every)
    axes[3].add_collection(LineCollection(lines, colors="#4dd0e1", linewidths=0.6))
    axes[3].set_xlim(-0.5, columns - 0.5)
    axes[3].set_ylim(rows - 0.5, -0.5)
    # The more a volume changes, the less of the template is seen through the colour.
    values = planes.cut(logarithm, plane)
    axes[4].imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit, alpha=np.clip(1.5 * np.abs(values) / limit, 0, 1),
                   aspect=planes.aspect(plane), interpolation="nearest")  # fmt: skip
    overlay = ScalarMappable(Normalize(-limit, limit), "RdBu_r")
    _bar(figure, overlay, axes[4])
    return figure


def checkerboard(first: Tensor, second: Tensor, n_squares: int = SQUARES) -> Tensor:
    """Squares of two volumes ``(X, Y, Z)`` in turn: where their edges meet, they agree."""
    side = max(1, round(max(first.shape) / n_squares))
    cells = [torch.arange(n) // side for n in first.shape]
    odd = (cells[0].reshape(-1, 1, 1) + cells[1].reshape(1, -1, 1) + cells[2].reshape(1, 1, -1)) % 2
    return torch.where(odd == 1, second, first)


def draw_rows(rows: Sequence[Sequence[Layer]], planes: Planes) -> Figure:
    """For each row some volumes in the axial and the coronal plane."""
    n_columns = max(len(row) for row in rows)
    scale, used = _scale(planes), ("axial", "coronal")
    shapes = [planes.shape(plane) for plane in used]
    width = scale * n_columns * max(w for _, w in shapes) + 0.2
    figure = new_figure(width, len(rows) * sum(scale * h + 0.3 for h, _ in shapes))
    axes = figure.subplots(2 * len(rows), n_columns, squeeze=False, height_ratios=[h for h, _ in shapes] * len(rows))
    for i, row in enumerate(rows):
        for j, plane in enumerate(used):
            for axis, layer in zip(axes[2 * i + j], row, strict=True):
                _show(figure, axis, planes, plane, layer)
                axis.set_title(layer.name, color=INK, fontsize=8, parse_math=False)
    return figure


def draw_energies(trace: Sequence[Mapping[str, Any]]) -> Figure | None:
    """The energy from round to round, with a line where a level begins; ``None`` if it was not recorded."""
    from matplotlib.ticker import MaxNLocator

    known = [(e["energy"], e.get("level")) for e in trace if isinstance(e.get("energy"), (int, float))]
    known = [(energy, level) for energy, level in known if np.isfinite(energy)]
    if not known:
        return None
    figure = new_figure(7, 2.8)
    axis = figure.subplots()
    axis.set_facecolor(PAPER)
    energies = [energy for energy, _ in known]
    axis.plot(range(1, len(known) + 1), energies, "o-", color="#4dd0e1", markersize=3, linewidth=1.2)
    for k in range(1, len(known)):
        if known[k][1] != known[k - 1][1]:
            axis.axvline(k + 0.5, color=INK, linewidth=0.6, linestyle=":")
    if min(energies) > 0 and max(energies) > 20 * min(energies):
        axis.set_yscale("log")
    axis.set_xlabel("round", color=INK, fontsize=8)
    axis.set_ylabel("energy", color=INK, fontsize=8)
    axis.tick_params(colors=INK, labelsize=7, which="both")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    for name, side in axis.spines.items():
        side.set_color(INK)
        side.set_visible(name in ("left", "bottom"))
    return figure
