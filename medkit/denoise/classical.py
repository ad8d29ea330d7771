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
        result = np.stack([self._denoised(volume[..., i], sigma) for i in range(volume.shape[-1])], -1)
        return torch.from_numpy(result.reshape(array.shape).astype(np.float32))

    def _denoised(self, array: np.ndarray, sigma: float) -> np.ndarray:
        # Of one channel scikit-image returns (H, W), with the axes exchanged where that channel was the first axis.
        is_grey = len(array) == 1
        result = denoise_nl_means(
            array[0] if is_grey else array,
            patch_size=self.patch_size,
            patch_distance=self.patch_distance,
            h=self.strength * sigma,
            sigma=sigma,
            fast_mode=True,
            channel_axis=None if is_grey else 0,
        )
        return result[None] if is_grey else result
