"""Blind spots: pixels whose value is hidden from the network, which must guess it from their surroundings."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_tensor

from medkit.data import keys as names


class BlindSpotd(Randomizable, MapTransform):
    """Replace a few pixels of a noisy image by one of their neighbours, and keep what was there as the target.

    Reads and writes ``keys``, real ``(C, *S)``, all channels at the same pixels; writes ``label_key``,
    ``(C + 1, *S)``: the noisy image as it was, then 1 where a pixel was replaced. Not invertible.

    Source: Noise2Void (Krull, Buchholz, Jug, CVPR 2019, doi:10.1109/CVPR.2019.00223), uniform choice of a neighbour.

    Differs: the neighbour is never the pixel itself, which would show what should be hidden.

    Args:
        keys: the noisy image; one key.
        label_key: where the target goes.
        stride: one pixel is replaced in each box of so many pixels along each axis; 10 in 2-D is a percent of all.
        radius: the neighbour is at most so many pixels away along each axis.

    Raises:
        ValueError: if an argument is outside its range; on a call, if an image has less than two pixels.

    Example:
        >>> sample = BlindSpotd(stride=4)({"image": torch.rand(1, 16, 16)})
        >>> int(sample["label"][1].sum())
        16
    """

    def __init__(
        self,
        keys: KeysCollection = (names.IMAGE,),
        label_key: str = names.LABEL,
        stride: int = 10,
        radius: int = 2,
    ) -> None:
        MapTransform.__init__(self, keys)
        if len(self.keys) != 1:
            raise ValueError(f"BlindSpotd: 'keys' must be one key, got {self.keys}")
        for name, value in (("stride", stride), ("radius", radius)):
            if value < 1:
                raise ValueError(f"BlindSpotd: '{name}' must be at least 1, got {value}")
        self.label_key, self.stride, self.radius = label_key, stride, radius

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with blind spots; see the class."""
        d = dict(data)
        image = convert_to_tensor(d[self.keys[0]], track_meta=True, dtype=torch.float32)
        size = np.array(image.shape[1:])
        if size.prod() < 2:
            raise ValueError(f"BlindSpotd: the image must have at least two pixels, got {tuple(image.shape)}")
        spots = self._draw_spots(size)
        mask = torch.zeros(1, *image.shape[1:])
        mask[(0, *spots)] = 1
        hidden = image.clone()
        hidden[(slice(None), *spots)] = image[(slice(None), *self._draw_neighbours(spots, size))]
        d[self.keys[0]] = hidden
        d[self.label_key] = torch.cat([image, mask.to(image.device)])
        return d

    def _draw_spots(self, size: np.ndarray) -> np.ndarray:
        """Indices (D, n): a random pixel of each box, but for those that fall outside the image."""
        corners = np.meshgrid(*(np.arange(0, n, self.stride) for n in size), indexing="ij")
        spots = np.stack([c.ravel() for c in corners])
        spots = spots + self.R.randint(0, self.stride, spots.shape)
        inside = spots[:, (spots < size[:, None]).all(0)]
        # An image smaller than a box may have none.
        return inside if inside.size else np.array([[self.R.randint(n)] for n in size])

    def _draw_neighbours(self, spots: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Indices (D, n) near the spots, inside the image, none of them its own spot."""
        neighbours = spots.copy()
        while True:
            wrong = (neighbours == spots).all(0) | (neighbours < 0).any(0) | (neighbours >= size[:, None]).any(0)
            if not wrong.any():
                return neighbours
            offsets = self.R.randint(-self.radius, self.radius + 1, (len(size), int(wrong.sum())))
            neighbours[:, wrong] = spots[:, wrong] + offsets
