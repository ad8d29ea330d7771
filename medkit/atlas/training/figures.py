"""Pictures of a pair before and after it was registered."""

from __future__ import annotations

import os

import numpy as np
from torch import Tensor

from medkit.workflow import atomic_path


def draw_pair(path: str | os.PathLike[str], fixed: Tensor, moving: Tensor, warped: Tensor, title: str = "") -> None:
    """Write a PNG: fixed, moving and warped image, and what is left of the difference before and after.

    Args:
        path: file to write, replaced atomically; its folder is made.
        fixed: real, ``(*S)``, two or three axes in RAS order, 0 to 1; of three the middle slice along each is drawn.
        moving: the same.
        warped: the same.
        title: text above the picture.

    Raises:
        ValueError: if the images differ in size.

    Example:
        >>> draw_pair("pair.png", torch.rand(8, 8, 8), torch.rand(8, 8, 8), torch.rand(8, 8, 8))
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not fixed.shape == moving.shape == warped.shape or fixed.ndim not in (2, 3):
        raise ValueError(
            "draw_pair: 'fixed', 'moving' and 'warped' must be images of one size, got "
            f"{tuple(fixed.shape)}, {tuple(moving.shape)} and {tuple(warped.shape)}"
        )
    a, b, c = (image.detach().cpu().float().numpy() for image in (fixed, moving, warped))
    panels = {
        "fixed": (a, "gray", 0.0, 1.0),
        "moving": (b, "gray", 0.0, 1.0),
        "warped": (c, "gray", 0.0, 1.0),
        "moving - fixed": (b - a, "seismic", -0.5, 0.5),
        "warped - fixed": (c - a, "seismic", -0.5, 0.5),
    }
    axes_cut = (2, 1, 0) if a.ndim == 3 else (None,)
    rows = [{name: _cut(panel[0], axis) for name, panel in panels.items()} for axis in axes_cut]
    heights = [next(iter(row.values())).shape[0] / next(iter(row.values())).shape[1] for row in rows]
    width = 2.4
    figure = Figure(figsize=(width * len(panels), width * sum(heights) + 0.6), dpi=100, facecolor="black")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(rows), len(panels), squeeze=False, gridspec_kw={"height_ratios": heights})
    top = 1 - 0.6 / (width * sum(heights) + 0.6)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=top, wspace=0.02, hspace=0.02)
    figure.suptitle(title, color="white", fontsize=9, y=0.995, parse_math=False)
    for i_row, row in enumerate(rows):
        for i_column, (name, image) in enumerate(row.items()):
            _, cmap, low, high = panels[name]
            axes = grid[i_row][i_column]
            axes.imshow(image, cmap=cmap, vmin=low, vmax=high, interpolation="nearest", aspect="auto")
            axes.axis("off")
            if i_row == 0:
                axes.set_title(name, color="white", fontsize=8, pad=2)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, facecolor="black")


def _cut(volume: np.ndarray, axis: int | None) -> np.ndarray:
    """Middle slice across an axis: superior or anterior up, the patient's right on the left."""
    image = volume if axis is None else np.take(volume, volume.shape[axis] // 2, axis=axis)
    return image.T[::-1, ::-1] if axis != 0 else image.T[::-1]
