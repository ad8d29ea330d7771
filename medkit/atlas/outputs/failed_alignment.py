"""A picture of a subject whose alignment failed, beside what it was aligned to."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from medkit.atlas.frame import Frame
from medkit.atlas.outputs.panels import Layer, png
from medkit.atlas.outputs.pictures import draw_layers
from medkit.atlas.outputs.planes import Planes
from medkit.workflow import atomic_path

FOREGROUND = 0.05  # of intensities from 0 to 1


def draw_failure(folder: Path, name: str, reference: Tensor, subject: Tensor, grid: Frame) -> Path:
    """Write ``failed_<name>.png``: a subject as it came out of the alignment, and the reference, in three planes.

    Args:
        folder: of the atlas.
        name: of the subject.
        reference: float32, ``(1, 1, *grid.size)``, 0 to 1.
        subject: the same.
        grid: of both.

    Returns:
        The file.
    """
    planes = Planes.through_middle(reference[0, 0], grid.affine, FOREGROUND)
    layers = [
        Layer(title, image[0, 0], high=max(float(image.max()), 1e-3))
        for title, image in (("reference", reference), (name, subject))
    ]
    path = folder / f"failed_{name}.png"
    with atomic_path(path) as temporary:
        temporary.write_bytes(png(draw_layers(layers, planes)))
    return path
