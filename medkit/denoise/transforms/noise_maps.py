"""The level of the noise as a channel of the image, for networks that are told how noisy it is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from medkit.data import keys as names


class AppendNoiseMapd(MapTransform):
    """Append to images ``(C, *S)`` a channel with the standard deviation of their noise.

    Reads and writes ``keys``; reads ``level_key``: a number, or a map ``(1, *S)``. Not invertible: the channel is the
    last one.

    Args:
        keys: images.
        level_key: standard deviation in units of the image.
        sigma: in its place, of images whose noise is known or was estimated; ``None``: the sample has ``level_key``.
        allow_missing_keys: whether a sample without a key passes.
        factor: of the level: the share of its noise that an image has.

    Raises:
        ValueError: if ``sigma`` or ``factor`` is negative; on a call, if the sample has no level, or a map has another
            shape.

    Example:
        >>> AppendNoiseMapd()({"image": torch.ones(1, 4, 4), "sigma": 0.1})["image"].shape
        torch.Size([2, 4, 4])
    """

    def __init__(
        self,
        keys: KeysCollection = (names.IMAGE,),
        level_key: str = names.SIGMA,
        sigma: float | None = None,
        allow_missing_keys: bool = False,
        factor: float = 1.0,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if not factor >= 0:
            raise ValueError(f"AppendNoiseMapd: 'factor' must be at least 0, got {factor}")
        if sigma is not None and not sigma >= 0:
            raise ValueError(f"AppendNoiseMapd: 'sigma' must be at least 0, got {sigma}")
        self.level_key, self.sigma, self.factor = level_key, sigma, factor

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with one more channel in each image; see the class."""
        d = dict(data)
        if self.sigma is None and self.level_key not in d:
            raise ValueError(f"AppendNoiseMapd: the sample must have {self.level_key!r}, got {sorted(map(str, d))}")
        for key in self.key_iterator(d):
            image = convert_to_tensor(d[key], track_meta=True, dtype=torch.float32)
            level = torch.as_tensor(d[self.level_key] if self.sigma is None else self.sigma, dtype=torch.float32)
            if level.ndim and level.shape != (1, *image.shape[1:]):
                raise ValueError(
                    f"AppendNoiseMapd: '{self.level_key}' must be a number or {(1, *image.shape[1:])}, "
                    f"got {tuple(level.shape)}"
                )
            d[key] = torch.cat([image, (self.factor * level).to(image.device).expand(1, *image.shape[1:])])
        return d
