"""What a picture shows of a volume: a slice, cut to what the scanner keeps, and perhaps a window with a box in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medkit.mri.regions import Region
from medkit.ops import center_crop

WINDOW_SIZE = 64  # pixels that a picture of a lesion shows along each axis, at least


@dataclass(frozen=True)
class View:
    """A part of a volume.

    Args:
        i_slice: the slice.
        size: height and width of the central part that is kept.
        window: rows and columns of that part.
        box: rows and columns of the window to outline; ``None``: nothing.
    """

    i_slice: int
    size: tuple[int, int]
    window: tuple[slice, slice] = (slice(None), slice(None))
    box: tuple[slice, slice] | None = None

    def of(self, image: Tensor) -> Tensor:
        """Cut an image ``(H, W)`` or ``(H, W, S)``, of the whole size or cut to ``size`` before."""
        image = image if image.ndim == 2 else image[..., self.i_slice]
        return center_crop(image, self.size)[self.window]

    def of_channels(self, images: Tensor) -> Tensor:
        """Cut images ``(n, H, W)`` or ``(n, H, W, S)``."""
        return torch.stack([self.of(image) for image in images])


def view_of_region(region: Region, size: tuple[int, int]) -> View:
    """Return a window of about 64 x 64 pixels around a lesion, in the slice that shows most of it.

    Args:
        region: the lesion.
        size: height and width of the image that it was found in.

    Returns:
        The view, with the box of the lesion to outline.
    """
    windows, boxes = [], []
    for part, n in zip(region.box, size, strict=False):
        width = min(n, max(WINDOW_SIZE, part.stop - part.start))
        start = min(max(0, (part.start + part.stop - width) // 2), n - width)
        windows.append(slice(start, start + width))
        boxes.append(slice(part.start - start, part.stop - start))
    return View(region.i_slice, size, (windows[0], windows[1]), (boxes[0], boxes[1]))
