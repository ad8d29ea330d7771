"""Pictures of multi-contrast restoration: the images, and what unique and common codes added to each contrast."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from medkit.data.orientation import turned, turned_spacing
from medkit.mri.figures import ERROR_GAIN, outline
from medkit.workflow import atomic_path

SIGNED = "RdBu_r"  # red above 0, blue below


@dataclass
class Panel:
    """One image of a picture: caption, image (H, W), its brightest value (``None``: its own), and colour map."""

    caption: str
    image: Tensor
    white: float | None = None
    cmap: str = "gray"


def draw_multi_contrast(
    path: str | os.PathLike[str],
    images: Mapping[str, Tensor],
    guide: Tensor,
    unique: Tensor,
    common: Tensor,
    reference: Tensor | None = None,
    notes: Mapping[str, str] | None = None,
    title: str = "",
    affine: np.ndarray | None = None,
    box: tuple[slice, slice] | None = None,
) -> None:
    """Write a PNG of one slice: the target in the first row, each reference contrast below, parts at the right.

    Args:
        path: file to write, replaced atomically; its folder is made.
        images: magnitude images of the target, real ``(H, W)``, any common unit, by the name written above each; the
            last one is what was restored.
        guide: the reference contrasts, real ``(n, H, W)``, any unit.
        unique: what the unique codes added to the target and to each reference, real ``(1 + n, H, W)``, in the unit of
            ``guide``; red where they added, blue where they took away.
        common: the same of the common codes.
        reference: what the target should be, real ``(H, W)``, unit of ``images``; ``None``: no such panel, no errors.
        notes: text under an image's name.
        title: text above the picture.
        affine: as for :func:`draw_reconstructions`, like ``box``.
        box: rows and columns to outline.

    Raises:
        ValueError: if there is no image, something is complex, or the sizes differ.

    Example:
        >>> parts = torch.rand(2, 8, 8)
        >>> draw_multi_contrast("a.png", {"restored": torch.rand(8, 8)}, torch.rand(1, 8, 8), parts, parts)
    """
    shapes = {name: tuple(image.shape) for name, image in images.items()}
    size = next(iter(shapes.values()), ())
    shapes |= {} if reference is None else {"reference": tuple(reference.shape)}
    is_complex = any(x.is_complex() for x in [*images.values(), guide, unique, common])
    stacks = {"guide": guide, "unique": unique, "common": common}
    wanted = {"guide": (len(guide), *size), **dict.fromkeys(("unique", "common"), (len(guide) + 1, *size))}
    wrong = any(tuple(stack.shape) != wanted[name] for name, stack in stacks.items())
    if is_complex or len(size) != 2 or set(shapes.values()) != {size} or wrong or not len(guide):
        raise ValueError(
            "draw_multi_contrast: images must be real (H, W), 'guide' (n, H, W), 'unique' and 'common' (1 + n, H, W) "
            f"of one size, got {shapes} and { {name: tuple(stack.shape) for name, stack in stacks.items()} }"
        )
    captions = {name: f"{name}\n{note}" for name, note in (notes or {}).items()}
    white = None if reference is None else _white(reference)
    target = [Panel(captions.get(name, name), image, white) for name, image in images.items()]
    if reference is not None and white is not None:
        error = (list(images.values())[-1] - reference).abs()
        glow = Panel(f"error × {ERROR_GAIN:g}", error, white / ERROR_GAIN, "inferno")
        target = [Panel("fully sampled", reference, white), *target, glow]
    lefts = [target]
    for k, image in enumerate(guide):
        name = "reference" if len(guide) == 1 else f"reference {k + 1}"
        lefts.append([Panel(name, image), Panel(f"{name} from its codes", image + unique[k + 1] + common[k + 1])])
    width = max(map(len, lefts))
    rows: list[list[Panel | None]] = []
    for left, own, shared in zip(lefts, unique, common, strict=True):
        largest = max(_white(own), _white(shared))
        parts = [Panel("unique part", own, largest, SIGNED), Panel("common part", shared, largest, SIGNED)]
        rows.append([*left, *[None] * (width - len(left)), *parts])
    _draw_panels(Path(path), rows, title, np.eye(4) if affine is None else affine, box)


def _white(image: Tensor) -> float:
    array = np.nan_to_num(image.detach().cpu().float().numpy(), posinf=0.0, neginf=0.0)
    return float(np.percentile(np.abs(array), 99.5)) or 1.0


def _draw_panels(
    path: Path,
    rows: Sequence[Sequence[Panel | None]],
    title: str,
    affine: np.ndarray,
    box: tuple[slice, slice] | None = None,
) -> None:
    """Write rows of panels as a PNG; see :class:`Panel`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    arrays = [[p if p is None else turned(p.image.detach().cpu().float().numpy(), affine) for p in row] for row in rows]
    shape = next(array.shape for array in arrays[0] if array is not None)
    spacing = turned_spacing(affine)
    aspect = spacing[0] / spacing[1]
    width, caption = 2.4, 0.5
    height = width * aspect * shape[0] / shape[1] + caption
    size = (width * len(rows[0]), len(rows) * height + 0.3)
    figure = Figure(figsize=size, dpi=110, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    top = 1 - (0.3 + caption) / size[1]
    figure.subplots_adjust(left=0, right=1, bottom=0, top=top, wspace=0.01, hspace=caption / (height - caption))
    figure.suptitle(title, color="white", fontsize=10, y=0.995, parse_math=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, panels, images in zip(axes, rows, arrays, strict=True):
        for axis, panel, array in zip(row, panels, images, strict=True):
            if panel is None:
                continue
            high = _white(panel.image) if panel.white is None else panel.white
            low = -high if panel.cmap == SIGNED else 0.0
            axis.imshow(array, cmap=panel.cmap, vmin=low, vmax=high, aspect=aspect, interpolation="nearest")
            outline(axis, box, panel.image.shape, affine)
            axis.set_title(panel.caption, color="white", fontsize=8, parse_math=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", facecolor="black")
