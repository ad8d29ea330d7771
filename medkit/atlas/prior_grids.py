"""Images on the grid that a prior knows, and its fields back on theirs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch.nn.functional as F
from torch import Tensor

from medkit.atlas.prior_spec import PriorSpec
from medkit.atlas.pyramid import downsampled
from medkit.ops import resize_field

# What is darker than this part of the brightest voxel is background.
BACKGROUND = 0.05

Window = tuple[int, int]


def fitted_images(
    spec: PriorSpec, images: Tensor, spacing: Sequence[float]
) -> tuple[Tensor, list[float], Callable[[Tensor], Tensor]]:
    """Bring images to a size and a spacing that a prior takes.

    Args:
        spec: of the prior.
        images: float32, ``(B, C, *S)``.
        spacing: mm between voxels.

    Returns:
        The images, their spacing in mm, and the function that brings a field ``(B, D, *T)`` of their grid to that of
        the images given, in its voxels.
    """
    size = tuple(images.shape[2:])
    mode = {2: "bilinear", 3: "trilinear"}[spec.spatial_dims]
    if spec.native_shape is not None:
        if spec.native_shape == size:
            return images, list(spacing), lambda field: field
        resized = F.interpolate(images, spec.native_shape, mode=mode, align_corners=True)
        steps = [h * (a - 1) / max(b - 1, 1) for h, a, b in zip(spacing, size, spec.native_shape, strict=True)]
        return resized, steps, lambda field: resize_field(field, size)
    fitting = size
    if spec.native_spacing is not None:
        fitting = tuple(max(round(n * h / spec.native_spacing), 1) for n, h in zip(size, spacing, strict=True))
        images = downsampled(images, tuple(min(n, m) for n, m in zip(size, fitting, strict=True)))
        images = F.interpolate(images, fitting, mode=mode, align_corners=False)
        spacing = [h * n / m for h, n, m in zip(spacing, size, fitting, strict=True)]
    windows = _windows(spec, images)
    shown = _windowed(images, windows)

    def back(field: Tensor) -> Tensor:
        opposite = [(-start, n) for (start, _), n in zip(windows, fitting, strict=True)]
        return resize_field(_windowed(field, opposite, mode="replicate"), size, corners=False)

    return shown, list(spacing), back


def _windows(spec: PriorSpec, images: Tensor) -> list[Window]:
    """First voxel and size of what is shown, for each axis; it may reach beyond the images."""
    size = images.shape[2:]
    bright = images.amax(dim=(0, 1))
    windows = []
    for axis, (n, divisor) in enumerate(zip(size, spec.divisors, strict=True)):
        if spec.trained_shape is None:
            wide = n + -n % divisor
            windows.append((-((wide - n) // 2), wide))
            continue
        profile = bright.amax(dim=[a for a in range(len(size)) if a != axis])
        shown = (profile > BACKGROUND * bright.max()).nonzero().flatten().tolist() or [0, n - 1]
        extent = shown[-1] + 1 - shown[0]
        wide = max(spec.trained_shape[axis], extent + -extent % divisor)
        windows.append((shown[0] - (wide - extent) // 2, wide))
    return windows


def _windowed(images: Tensor, windows: Sequence[Window], mode: str = "constant") -> Tensor:
    """Cut each axis to its window, or pad it where the window reaches beyond."""
    pads = []
    for (start, wide), n in zip(reversed(windows), reversed(images.shape[2:]), strict=True):
        pads += [max(-start, 0), max(start + wide - n, 0)]
    within = [slice(max(start, 0), max(start, 0) + wide) for start, wide in windows]
    return F.pad(images, pads, mode=mode)[(slice(None), slice(None), *within)]
