"""Pictures of reconstructions: reference, zero-filled image and reconstruction side by side, errors beneath."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from medkit.workflow import atomic_path

ERROR_GAIN = 5.0


def draw_reconstructions(
    path: str | os.PathLike[str],
    images: Mapping[str, Tensor],
    reference: Tensor | None = None,
    notes: Mapping[str, str] | None = None,
    title: str = "",
    pixel_size: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Write a PNG that shows images of one slice in one window of grey, and their errors five times brighter.

    Args:
        path: file to write, replaced atomically; its folder is made.
        images: magnitude images to compare, real ``(H, W)``, any common unit, by the name written above each.
        reference: what they should be, real ``(H, W)``, same unit; ``None``: no first panel and no row of errors.
        notes: text under an image's name, for example its metrics.
        title: text above the picture.
        pixel_size: height and width of a pixel in mm, or any common unit.

    Raises:
        ValueError: if there is no image, or the sizes differ.

    Example:
        >>> draw_reconstructions("a.png", {"zero-filled": torch.rand(8, 8)}, torch.rand(8, 8))
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shapes = {tuple(image.shape) for image in [*images.values(), *([] if reference is None else [reference])]}
    if not images or len(shapes) != 1 or len(shape := shapes.pop()) != 2:
        raise ValueError(
            "draw_reconstructions: 'images' and 'reference' must be at least one image, all of one size (H, W), got "
            f"{ {name: tuple(image.shape) for name, image in images.items()} }"
        )
    arrays = {name: image.detach().cpu().float().numpy() for name, image in images.items()}
    truth = None if reference is None else reference.detach().cpu().float().numpy()
    white = float(np.percentile(next(iter(arrays.values())) if truth is None else truth, 99.5)) or 1.0
    n_rows, n_columns = (1, len(arrays)) if truth is None else (2, len(arrays) + 1)
    aspect = pixel_size[0] / pixel_size[1]
    width = 3.0
    height = width * aspect * shape[0] / shape[1]
    figure = Figure(figsize=(width * n_columns, n_rows * height + 0.75), dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(n_rows, n_columns, squeeze=False)
    top = 1 - 0.7 / (n_rows * height + 0.75)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=top, wspace=0.01, hspace=0.01)
    figure.suptitle(title, color="white", fontsize=10, y=0.995)

    def show(row: int, column: int, array: np.ndarray, high: float, cmap: str) -> None:
        axes[row, column].imshow(array, cmap=cmap, vmin=0, vmax=high, aspect=aspect, interpolation="nearest")

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
        axes[0, column].set_title(name if note is None else f"{name}\n{note}", color="white", fontsize=9)
        if truth is not None:
            show(1, column, np.abs(array - truth), white / ERROR_GAIN, "inferno")
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", facecolor="black")
