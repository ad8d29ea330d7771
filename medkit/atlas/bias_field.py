"""Slow changes of brightness over a volume, as coils make them, taken out by N4."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medkit.atlas.itk_images import itk_image, simple_itk

N_ITERATIONS = (50, 50, 30)


def bias_corrected(
    volume: Tensor | np.ndarray, affine: Any, weight: Tensor | np.ndarray | None = None, shrink: int = 4
) -> Tensor:
    """Divide a volume by the smooth field that N4 finds on a coarser grid.

    Args:
        volume: real, ``(X, Y, Z)`` or ``(X, Y)``, at least 0, any unit.
        affine: ``(D + 1, D + 1)``, voxel indices to mm: the field is smooth in mm.
        weight: of that shape, the object is where it is above 0.5; ``None``: where the volume is above 0.
        shrink: every how many voxels the field is estimated from; no axis gets fewer than 8 voxels.

    Returns:
        Of that shape, float32, of the same mean over the object.

    Raises:
        ValueError: if the volume is not finite, has values below 0, or nothing in it counts.
        ImportError: without SimpleITK.

    Example:
        >>> flat = bias_corrected(volume, affine)
    """
    itk = simple_itk("bias_corrected")
    values = torch.as_tensor(volume, dtype=torch.float32)
    if values.ndim not in (2, 3) or not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError(
            f"bias_corrected: 'volume' must be finite, at least 0, with two or three axes, got {tuple(values.shape)} "
            f"from {float(values.min()):.4g}"
        )
    inside = values > 0 if weight is None else torch.as_tensor(weight) > 0.5
    if inside.shape != values.shape or not bool((inside & (values > 0)).any()) or shrink < 1:
        raise ValueError(
            f"bias_corrected: 'weight' must be {tuple(values.shape)} and above 0.5 where the volume is above 0, and "
            f"'shrink' at least 1, got {tuple(inside.shape)} and {shrink}"
        )
    whole = itk_image(itk, values.numpy(), np.asarray(affine, dtype=np.float64))
    factors = [max(min(shrink, n // 8), 1) for n in values.shape]
    pool = F.avg_pool2d if values.ndim == 2 else F.avg_pool3d
    part = pool((values * inside)[None, None], factors) / pool(inside[None, None].float(), factors).clamp(min=1e-6)
    known = pool(inside[None, None].float(), factors)[0, 0] > 0.5
    to_whole = np.diag([*map(float, factors), 1.0])
    to_whole[:-1, -1] = (np.array(factors) - 1) / 2
    coarse = np.asarray(affine, dtype=np.float64) @ to_whole
    method = itk.N4BiasFieldCorrectionImageFilter()
    method.SetNumberOfThreads(1)  # repeats are equal bit for bit
    method.SetMaximumNumberOfIterations(list(N_ITERATIONS))
    method.Execute(itk_image(itk, part[0, 0].numpy(), coarse), itk_image(itk, known.numpy().astype(np.uint8), coarse))
    logarithm = itk.GetArrayFromImage(method.GetLogBiasFieldAsImage(whole)).T
    flat = values / torch.from_numpy(np.exp(logarithm.astype(np.float32)))
    return flat * (values[inside].mean() / flat[inside].mean())
