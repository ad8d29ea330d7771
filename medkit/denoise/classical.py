"""Denoisers that learn nothing, to compare with: scikit-image's non-local means."""

from __future__ import annotations

import numpy as np
import torch
from skimage.restoration import denoise_nl_means
from torch import Tensor

from medkit.denoise.estimation import white_noise_sigma


class NonLocalMeans:
    """Means over similar patches, slice by slice, by scikit-image.

    Source: Buades, Coll, Morel, CVPR 2005, doi:10.1109/CVPR.2005.38.

    Args:
        patch_size: side of the patches that are compared, in pixels.
        patch_distance: how far away they are looked for, in pixels.
        strength: cut-off of the patches' distance in units of the noise's standard deviation.

    Raises:
        ValueError: if an argument is not positive.

    Example:
        >>> NonLocalMeans()(torch.rand(1, 16, 16), sigma=0.1).shape
        torch.Size([1, 16, 16])
    """

    def __init__(self, patch_size: int = 5, patch_distance: int = 8, strength: float = 0.8) -> None:
        if min(patch_size, patch_distance) < 1 or not strength > 0:
            raise ValueError(
                "NonLocalMeans: 'patch_size', 'patch_distance' and 'strength' must be positive, got "
                f"{patch_size}, {patch_distance} and {strength}"
            )
        self.patch_size, self.patch_distance, self.strength = patch_size, patch_distance, strength

    def __call__(self, noisy: Tensor, sigma: float = 0.0) -> Tensor:
        """Denoise.

        Args:
            noisy: real, ``(C, H, W[, S])``.
            sigma: standard deviation of the noise, unit of ``noisy``; 0: estimated, see :func:`white_noise_sigma`.

        Returns:
            float32, shape of ``noisy``.
        """
        sigma = sigma if sigma > 0 else float(white_noise_sigma(noisy).mean())
        array = noisy.detach().cpu().float().numpy()
        volume = array[..., None] if array.ndim == 3 else array
        slices = [
            denoise_nl_means(
                volume[..., i],
                patch_size=self.patch_size,
                patch_distance=self.patch_distance,
                h=self.strength * sigma,
                sigma=sigma,
                fast_mode=True,
                channel_axis=0,
            )
            for i in range(volume.shape[-1])
        ]
        result = np.stack(slices, -1).astype(np.float32)
        return torch.from_numpy(result.reshape(array.shape))
