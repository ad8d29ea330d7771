"""Pictures of a classifier's work: a contact sheet of what it saw and said, and its confusion matrix."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from medkit.workflow import atomic_path

RIGHT, WRONG = "#1a7f37", "#c62828"
MAX_NUMBERS = 16  # classes up to which the cells of a confusion matrix bear their numbers


def draw_contact_sheet(
    path: str | os.PathLike[str],
    images: Sequence[np.ndarray],
    notes: Sequence[str],
    right: Sequence[bool | None],
    title: str = "",
    n_columns: int = 8,
) -> None:
    """Write a PNG of pictures in rows, each with a note beneath.

    Args:
        path: file to write, replaced atomically; its folder is made.
        images: ``(C, H, W)``, 0 to 1; of other than three channels the first is drawn in grey.
        notes: text under each, of one or two lines.
        right: whether what the note says is right, green or red; ``None``: not known, black.
        title: text above.
        n_columns: pictures of a row.

    Raises:
        ValueError: if there is no picture, or not one note and one truth for each.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not images or not len(images) == len(notes) == len(right):
        raise ValueError(
            "draw_contact_sheet: wanted at least one picture, and a note and a truth for each, "
            f"got {len(images)}, {len(notes)} and {len(right)}"
        )
    n_columns = min(n_columns, len(images))
    n_rows = math.ceil(len(images) / n_columns)
    height = 1.95 * n_rows + 0.4
    figure = Figure(figsize=(1.55 * n_columns, height), dpi=100)
    FigureCanvasAgg(figure)
    # Fixed margins: matplotlib takes seconds to fit forty axes.
    figure.subplots_adjust(0.01, 0.35 / height, 0.99, 1 - 0.35 / height, wspace=0.06, hspace=0.32)
    axes = np.atleast_1d(figure.subplots(n_rows, n_columns)).ravel()
    for axis in axes:
        axis.axis("off")
    for axis, image, note, is_right in zip(axes, images, notes, right, strict=False):
        picture = np.moveaxis(image, 0, -1) if image.shape[0] == 3 else image[0]
        axis.imshow(np.clip(picture, 0, 1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        color = "black" if is_right is None else RIGHT if is_right else WRONG
        axis.text(0.5, -0.04, note, transform=axis.transAxes, ha="center", va="top", fontsize=7, color=color)
    if title:
        figure.suptitle(title, fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def draw_confusion(
    path: str | os.PathLike[str], truth: Sequence[int], chosen: Sequence[int], classes: Sequence[str], title: str = ""
) -> None:
    """Write a PNG of a confusion matrix: of each true class, the share of each chosen one.

    Args:
        path: file to write, replaced atomically; its folder is made.
        truth: number of the true class of each sample.
        chosen: number of the chosen one.
        classes: names.
        title: text above.

    Raises:
        ValueError: if the lengths differ or there is no sample.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not len(truth) or len(truth) != len(chosen):
        raise ValueError(
            f"draw_confusion: wanted as many truths as choices, at least one, got {len(truth)} and {len(chosen)}"
        )
    n = len(classes)
    counts = np.zeros((n, n))
    np.add.at(counts, (np.asarray(truth), np.asarray(chosen)), 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(12.0, 2.5 + 0.3 * n)
    figure = Figure(figsize=(side + 0.8, side), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    drawn = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    size = max(4.5, min(9.0, 200 / n))
    axis.set_xticks(range(n), classes, rotation=90, fontsize=size)
    axis.set_yticks(range(n), classes, fontsize=size)
    axis.set_xlabel("chosen")
    axis.set_ylabel("true")
    if n <= MAX_NUMBERS:
        for i in range(n):
            for j in range(n):
                color = "white" if shares[i, j] > 0.6 else "black"
                axis.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", fontsize=size, color=color)
    figure.colorbar(drawn, ax=axis, shrink=0.7, label="share of the true class")
    if title:
        axis.set_title(title, fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
