"""Pictures of denoising: before, after, and what was taken away."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from medkit.data.orientation import turned, turned_spacing
from medkit.workflow import atomic_path


def draw_denoised(
    path: str | os.PathLike[str],
    noisy: Tensor,
    denoised: Mapping[str, Tensor],
    reference: Tensor | None = None,
    notes: Mapping[str, str] | None = None,
    title: str = "",
    affine: np.ndarray | None = None,
    limits: tuple[float, float] | None = None,
) -> None:
    """Write a PNG: the noisy image, each denoised one, and beneath each what it took away, all in one scale.

    With a reference the first column shows it, with the true noise beneath: structure in what was taken away, that is
    not in the noise, was lost.

    Args:
        path: file to write, replaced atomically; its folder is made.
        noisy: ``(H, W)``, or ``(3, H, W)`` in colour, any unit.
        denoised: images of the same shape by the name written above each.
        reference: the clean image, same shape; or ``None``.
        notes: text under a name, for example its metrics.
        title: text above the picture.
        affine: ``(4, 4)``, voxel ``(row, column, slice)`` to RAS mm; turned as radiologists look at it.
        limits: intensities that are black and white; ``None``: 0, or the 1st percentile of an image with negative
            values, and the 99.5th percentile of the reference or else of the last denoised image.

    Raises:
        ValueError: if there is no denoised image, or shapes differ.

    Example:
        >>> draw_denoised("a.png", torch.rand(8, 8), {"mean": torch.full((8, 8), 0.5)})
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    given = [noisy, *denoised.values(), *(() if reference is None else (reference,))]
    shapes = sorted({tuple(image.shape) for image in given})
    if not denoised or len(shapes) != 1 or len(shapes[0]) not in (2, 3):
        raise ValueError(
            f"draw_denoised: 'noisy', 'denoised' and 'reference' must be at least two images of one shape, got {shapes}"
        )
    affine = np.eye(4) if affine is None else affine

    def shown(image: Tensor) -> np.ndarray:
        array = image.detach().cpu().float().numpy()
        return turned(array, affine) if array.ndim == 2 else np.moveaxis(array, 0, -1)

    before = shown(noisy)
    after = {name: shown(image) for name, image in denoised.items()}
    truth = None if reference is None else shown(reference)
    measure = list(after.values())[-1] if truth is None else truth
    if limits is None:
        low = float(np.percentile(measure, 1)) if measure.min() < -0.05 * measure.max() else 0.0
        limits = low, max(float(np.percentile(measure, 99.5)), low + 1e-6)
    noise = before - measure
    swing = max(3 * float(np.sqrt(np.mean(noise**2))), 1e-6)
    columns = [*({} if truth is None else {"clean": truth}).items(), ("noisy", before), *after.items()]
    spacing = turned_spacing(affine) if before.ndim == 2 else (1.0, 1.0)
    aspect = spacing[0] / spacing[1]
    width = 3.2
    height = width * aspect * before.shape[0] / before.shape[1]
    figure = Figure(figsize=(width * len(columns), 2 * height + 0.9), dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, len(columns), squeeze=False)
    figure.subplots_adjust(left=0, right=1, bottom=0, top=1 - 0.75 / (2 * height + 0.9), wspace=0.01, hspace=0.01)
    figure.suptitle(title, color="white", fontsize=10, y=0.995, parse_math=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for column, (name, array) in enumerate(columns):
        _show(axes[0, column], array, limits, aspect)
        note = (notes or {}).get(name)
        axes[0, column].set_title(
            name if note is None else f"{name}\n{note}", color="white", fontsize=9, parse_math=False
        )
        if name == "noisy":
            axes[1, column].text(
                0.5,
                0.5,
                f"beneath each:\nnoisy minus image,\n±{swing:.3g}",
                color="white",
                ha="center",
                va="center",
                transform=axes[1, column].transAxes,
            )
        else:
            _show(axes[1, column], before - array, (-swing, swing), aspect)
    with atomic_path(Path(path)) as temporary:
        figure.savefig(temporary, format="png", facecolor="black")


def _show(axis: object, array: np.ndarray, limits: tuple[float, float], aspect: float) -> None:
    low, high = limits
    if array.ndim == 3:
        array = ((array - low) / (high - low)).clip(0, 1)
    axis.imshow(array, cmap="gray", vmin=low, vmax=high, aspect=aspect, interpolation="nearest")  # type: ignore[attr-defined]
