"""Pictures of reconstructions: reference, zero-filled image and reconstruction side by side, errors beneath."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from medkit.data.orientation import turned, turned_spacing
from medkit.workflow import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ERROR_GAIN = 5.0


def draw_reconstructions(
    path: str | os.PathLike[str],
    images: Mapping[str, Tensor],
    reference: Tensor | None = None,
    notes: Mapping[str, str] | None = None,
    title: str = "",
    affine: np.ndarray | None = None,
    box: tuple[slice, slice] | None = None,
) -> None:
    """Write a PNG that shows images of one slice in one window of grey, and their errors five times brighter.

    Args:
        path: file to write, replaced atomically; its folder is made.
        images: magnitude images to compare, real ``(H, W)``, any common unit, by the name written above each.
        reference: what they should be, real ``(H, W)``, same unit; ``None``: no first panel and no row of errors.
        notes: text under an image's name, for example its metrics.
        title: text above the picture.
        affine: ``(4, 4)``, voxel ``(row, column, slice)`` to RAS mm. The picture is turned as radiologists look at it
            (superior or anterior up, the patient's right on the left, in a sagittal slice anterior on the left) and its
            pixels get their size. Where only the spacing is known, that is for ``diag(row, column, slice, 1)`` with the
            first row and column at 0, for example the identity, and for ``None``, the rows stay as they are stored.
        box: rows and columns to outline, with start and stop, as the images are stored; ``None``: nothing.

    Raises:
        ValueError: if there is no image, an image is complex, or the sizes differ.

    Example:
        >>> draw_reconstructions("a.png", {"zero-filled": torch.rand(8, 8)}, torch.rand(8, 8))
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    given = {**images, **({} if reference is None else {"reference": reference})}
    shapes = {tuple(image.shape) for image in [*images.values(), *given.values()]}
    is_complex = any(image.is_complex() for image in given.values())
    if not images or is_complex or len(shapes) != 1 or len(shapes.pop()) != 2:
        raise ValueError(
            "draw_reconstructions: 'images' and 'reference' must be at least one image, all real and of one size "
            f"(H, W), got { {name: (image.dtype, tuple(image.shape)) for name, image in given.items()} }"
        )
    affine = np.eye(4) if affine is None else affine
    arrays = {name: turned(image.detach().cpu().float().numpy(), affine) for name, image in images.items()}
    truth = None if reference is None else turned(reference.detach().cpu().float().numpy(), affine)
    stored = next(iter(images.values())).shape
    shape = next(iter(arrays.values())).shape
    bright = next(iter(arrays.values())) if truth is None else truth
    white = float(np.percentile(np.nan_to_num(bright, posinf=0.0, neginf=0.0), 99.5)) or 1.0
    n_rows, n_columns = (1, len(arrays)) if truth is None else (2, len(arrays) + 1)
    spacing = turned_spacing(affine)
    aspect = spacing[0] / spacing[1]
    width = 3.0
    height = width * aspect * shape[0] / shape[1]
    figure = Figure(figsize=(width * n_columns, n_rows * height + 0.75), dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    top = 1 - 0.7 / (n_rows * height + 0.75)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=top, wspace=0.01, hspace=0.01)
    figure.suptitle(title, color="white", fontsize=10, y=0.995, parse_math=False)

    def show(row: int, column: int, array: np.ndarray, high: float, cmap: str) -> None:
        axes[row, column].imshow(array, cmap=cmap, vmin=0, vmax=high, aspect=aspect, interpolation="nearest")
        outline(axes[row, column], box, stored, affine)

    for axis in axes.flat:
        axis.set_axis_off()
    first = 0
    if truth is not None:
        first = 1
        show(0, 0, truth, white, "gray")
        axes[0, 0].set_title("fully sampled", color="white", fontsize=9)
        axes[1, 0].text(0.5, 0.5, f"error × {ERROR_GAIN:g}", color="white", ha="center", transform=axes[1, 0].transAxes)
    for column, (name, array) in enumerate(arrays.items(), first):
        show(0, column, array, white, "gray")
        note = (notes or {}).get(name)
        label = name if note is None else f"{name}\n{note}"
        axes[0, column].set_title(label, color="white", fontsize=9, parse_math=False)
        if truth is not None:
            show(1, column, np.abs(array - truth), white / ERROR_GAIN, "inferno")
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", facecolor="black")


def outline(axis: Axes, box: tuple[slice, slice] | None, shape: tuple[int, ...], affine: np.ndarray) -> None:
    """Draw the edge of a box around its pixels, in a picture of a slice ``(row, column)`` of some shape, turned."""
    from matplotlib.patches import Rectangle

    if box is None:
        return
    inside = np.zeros(shape, dtype=bool)
    inside[box] = True
    rows, columns = np.nonzero(turned(inside, affine))
    left, top = float(columns.min()), float(rows.min())
    width, height = float(columns.max()) - left + 1, float(rows.max()) - top + 1
    axis.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor="cyan", linewidth=1))
