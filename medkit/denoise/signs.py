"""Magnitudes and counts are not negative, so what is made of them is not either."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medkit.data import keys as names


class KeepSignd(MapTransform):
    """Set negative values of denoised images to 0 where the noisy image has no negative value in the unit of its file.

    Reads and writes ``keys``; reads ``noisy_key``, whose further channels are passed over, and ``window``. Images
    in HU, or with noise on both sides of 0, stay as they are.

    Args:
        keys: denoised images, ``(C, *S)``, in units of the window.
        noisy_key: the noisy image.

    Example:
        >>> sample = {"pred": -torch.ones(1, 2, 2), "image": torch.ones(1, 2, 2), "window": torch.tensor([0.0, 9.0])}
        >>> KeepSignd("pred")(sample)["pred"].max()
        tensor(0.)
    """

    def __init__(self, keys: KeysCollection = (names.PRED,), noisy_key: str = names.IMAGE) -> None:
        super().__init__(keys)
        self.noisy_key = noisy_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` without new negative values; see the class."""
        d = dict(data)
        low, high = (float(x) for x in d[names.WINDOW])
        zero = -low / (high - low)
        for key in self.key_iterator(d):
            pred = torch.as_tensor(d[key])
            if float(torch.as_tensor(d[self.noisy_key])[: len(pred)].min()) >= zero - 1e-6:
                d[key] = pred.clamp(min=zero)
        return d
