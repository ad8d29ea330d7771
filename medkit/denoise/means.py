"""The local mean of an image, which additive noise leaves as it is, and which a denoiser should leave too."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medkit.data import keys as names


def restored_mean(denoised: Tensor, noisy: Tensor, radius: float = 16.0) -> Tensor:
    r"""Give a denoised image the local means of the noisy one.

    .. math:: \hat x + G_r * (y - \hat x)

    Noise whose mean is 0, as of CT in HU, has no local mean to speak of: what a denoiser changes there is bias. The
    mean of each slice becomes exactly that of the noisy slice. Of the noise, a share of :math:`1 / (2 \sqrt\pi r)` of
    its standard deviation comes back, 2 % with 16 pixels. Not for magnitudes of weak signals, whose noise has a mean.

    Args:
        denoised: real, ``(C, H, W[, S])``.
        noisy: the same shape.
        radius: r, standard deviation of the Gaussian in pixels, within slices; mirrored at the border.

    Returns:
        Shape and dtype of ``denoised``.

    Raises:
        ValueError: if the shapes differ or ``radius`` is not positive.

    Example:
        >>> restored_mean(torch.zeros(1, 8, 8), torch.ones(1, 8, 8)).mean()
        tensor(1.)
    """
    if denoised.shape != noisy.shape or denoised.ndim not in (3, 4):
        raise ValueError(
            f"restored_mean: 'denoised' and 'noisy' must be of one shape (C, H, W[, S]), got "
            f"{tuple(denoised.shape)} and {tuple(noisy.shape)}"
        )
    if not radius > 0:
        raise ValueError(f"restored_mean: 'radius' must be positive, got {radius}")
    removed = (noisy - denoised).detach().cpu().numpy()
    widths = (0.0, radius, radius, 0.0)[: removed.ndim]
    return denoised + torch.from_numpy(gaussian_filter(removed, widths, mode="reflect")).to(denoised)


class RestoreMeand(MapTransform):
    """Give denoised images the local means of the noisy ones; see :func:`restored_mean`.

    Reads and writes ``keys``; reads ``noisy_key``, whose further channels are passed over, and ``modality``.

    Args:
        keys: denoised images, ``(C, *S)``.
        noisy_key: the noisy image.
        use: True or False; ``None``: of CT alone.
        radius: as for :func:`restored_mean`.

    Example:
        >>> sample = {"pred": torch.zeros(1, 8, 8), "image": torch.ones(1, 8, 8), "modality": "CT"}
        >>> RestoreMeand("pred")(sample)["pred"].mean()
        tensor(1.)
    """

    def __init__(
        self,
        keys: KeysCollection = (names.PRED,),
        noisy_key: str = names.IMAGE,
        use: bool | None = None,
        radius: float = 16.0,
    ) -> None:
        super().__init__(keys)
        self.noisy_key, self.use, self.radius = noisy_key, use, radius

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with restored means; see the class."""
        d = dict(data)
        if self.use is False or (self.use is None and d.get(names.MODALITY) != "CT"):
            return d
        for key in self.key_iterator(d):
            pred = torch.as_tensor(d[key])
            noisy = torch.as_tensor(d[self.noisy_key])[: len(pred)].to(pred)
            d[key] = restored_mean(pred, noisy, self.radius)
        return d
