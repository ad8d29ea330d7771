"""Pictures of slices in rows, each at its true proportions, with titles, letters of the sides and colour bars."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from medkit.atlas.outputs.planes import PLANES, Planes, write_letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

INCHES_PER_MM = 2.3 / 180  # of a human head
INK, PAPER = "#e8e8e8", "#101214"
GAP, TITLE, BAR = 0.06, 0.24, 0.62  # inches: around a panel, above it, and right of it


@dataclass(frozen=True)
class Layer:
    """A volume and how it is shown.

    Args:
        name: written above it.
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


@dataclass(frozen=True)
class Panel:
    """One slice of a volume in a picture.

    Args:
        layer: the volume.
        plane: in which it is cut.
        title: above it; ``None``: the layer's name.
        has_letters: whether letters say which side is which.
    """

    layer: Layer
    plane: str = "axial"
    title: str | None = None
    has_letters: bool = True


def new_figure(width: float, height: float) -> Figure:
    """Make a figure in inches that belongs to no window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", facecolor=PAPER)
    return buffer.getvalue()


@dataclass(frozen=True)
class Place:
    """Where a panel's slice is in a picture, inches from its left and its lower edge.

    Args:
        left: edge.
        bottom: edge.
        width: of the slice.
        height: of the slice.
    """

    left: float
    bottom: float
    width: float
    height: float

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, lower and upper edge."""
        return self.left, self.left + self.width, self.bottom, self.bottom + self.height

    def points(self, pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Return where points ``(n, 2)``, column and row in pixels of a slice of ``shape``, are in the picture."""
        rows, columns = shape
        across, down = (pixels[:, 0] + 0.5) / columns, (pixels[:, 1] + 0.5) / rows
        return np.stack([self.left + across * self.width, self.bottom + (1 - down) * self.height], axis=-1)


def draw_panels(rows: Sequence[Sequence[Panel]], planes: Planes) -> tuple[Figure, list[list[Place]]]:
    """Draw rows of panels.

    All are drawn on the same axes, in inches, at places that are known beforehand: axes of their own, and layouts that
    draw everything twice to find its place, take matplotlib several times as long.

    Args:
        rows: of the panels, from the top.
        planes: how volumes are cut.

    Returns:
        The figure, whose first axes are in inches, and where each panel is.
    """
    scale = _scale(planes)
    sizes = [[_size(panel, planes, scale) for panel in row] for row in rows]
    heights = [max(height for _, height in row) for row in sizes]
    width = max(sum(width for width, _ in row) for row in sizes) + GAP
    top = sum(heights) + GAP
    figure = new_figure(width, top)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, width)
    axes.set_ylim(0, top)
    axes.set_autoscale_on(False)
    places = []
    for row, of_row, height in zip(rows, sizes, heights, strict=True):
        left, of_panels = GAP, []
        for panel, (across, _) in zip(row, of_row, strict=True):
            tall, wide = (scale * x for x in planes.shape(panel.plane))
            place = Place(left, top - TITLE - tall, wide, tall)
            _draw_panel(figure, axes, panel, planes, place)
            of_panels.append(place)
            left += across
        places.append(of_panels)
        top -= height
    return figure, places


def _scale(planes: Planes) -> float:
    """Inches of a millimetre: a picture is about as large as that of a head, whatever the size of the object."""
    largest = max(max(planes.shape(plane)) for plane in PLANES)
    return min(INCHES_PER_MM * 180 / largest, 0.3)


def _size(panel: Panel, planes: Planes, scale: float) -> tuple[float, float]:
    """Width and height of a panel with all that stands around it, inches."""
    height, width = planes.shape(panel.plane)
    return width * scale + GAP + BAR * panel.layer.has_bar, height * scale + TITLE + GAP


def _draw_panel(figure: Figure, axes: Axes, panel: Panel, planes: Planes, place: Place) -> None:
    layer = panel.layer
    image = planes.cut(layer.image, panel.plane)
    shown = draw_slice(axes, image, place, cmap=layer.cmap, vmin=layer.low, vmax=layer.high)
    left, right, bottom, top = place.extent
    title = layer.name if panel.title is None else panel.title
    axes.text((left + right) / 2, top + 0.04, title, ha="center", color=INK, fontsize=8, parse_math=False)
    if panel.has_letters:
        write_letters(axes, panel.plane, place.extent)
    if layer.has_bar:
        whole_width, whole_height = axes.get_xlim()[1], axes.get_ylim()[1]
        at = ((right + GAP) / whole_width, bottom / whole_height, 0.09 / whole_width, place.height / whole_height)
        bar = figure.colorbar(shown, cax=figure.add_axes(at))
        bar.ax.tick_params(colors=INK, labelsize=7)
        bar.outline.set_visible(False)


def draw_slice(axes: Axes, image: np.ndarray, place: Place, **options: Any) -> AxesImage:
    """Draw a slice, its first row on top, at a place whose proportions are its own."""
    return axes.imshow(image, extent=place.extent, aspect="auto", interpolation="nearest", **options)
