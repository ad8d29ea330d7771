"""Random flips, quarter turns and phases that mean the same in k-space and in the image.

MONAI's flips and turns mirror an array about the middle between two pixels. On centred data of even size frequency 0
then leaves its place, which gives the image a phase ramp. Those here turn about index ``n // 2``: transforming and
turning can be exchanged, and k-space, mask, maps and image may be turned together.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from medkit.data import keys as names
from medkit.mri.transforms.layout import plain

_TURNED = (names.KSPACE,)


def _mirrored(x: Tensor, dim: int) -> Tensor:
    """Mirror about index n // 2: of an even size the first sample stays, as frequency -n/2 is its own mirror."""
    return x.flip(dim) if x.shape[dim] % 2 else x.flip(dim).roll(1, dim)


def _with_space(name: str, key: Hashable, x: Any) -> Tensor:
    data = plain(x)
    if data.ndim not in (3, 4):
        raise ValueError(f"{name}: '{key}' must be (C, H, W) or (C, H, W, S), got {tuple(data.shape)}")
    return data


class RandCenteredFlipd(RandomizableTransform, MapTransform):
    """Flip height or width about the centre, at random, all keys alike.

    Reads and writes ``keys``, real or complex ``(C, H, W[, S])``: k-space, masks, maps, images. The ``affine`` is left
    as it is. Not invertible.

    Args:
        keys: keys to flip together.
        prob: probability, 0 to 1.
        spatial_axis: 0 for height, 1 for width.
        allow_missing_keys: whether a sample without a key passes.

    Raises:
        ValueError: if ``spatial_axis`` is neither; on a call, if a key has other axes.

    Example:
        >>> x = torch.arange(4.0).reshape(1, 1, 4)
        >>> RandCenteredFlipd("mask", prob=1.0, spatial_axis=1)({"mask": x})["mask"]
        tensor([[[0., 3., 2., 1.]]])
    """

    def __init__(
        self,
        keys: KeysCollection = _TURNED,
        prob: float = 0.5,
        spatial_axis: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if spatial_axis not in (0, 1):
            raise ValueError(f"RandCenteredFlipd: 'spatial_axis' must be 0 or 1, got {spatial_axis}")
        self.spatial_axis = spatial_axis

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``, perhaps flipped; see the class."""
        d = dict(data)
        self.randomize(None)
        for key in self.key_iterator(d):
            x = _with_space("RandCenteredFlipd", key, d[key])
            d[key] = _mirrored(x, self.spatial_axis + 1) if self._do_transform else x
        return d


class RandCenteredRotate90d(RandomizableTransform, MapTransform):
    """Turn by quarters about the centre, at random, all keys alike.

    Reads and writes ``keys``, real or complex ``(C, H, W[, S])``. One quarter exchanges height and width: slices that
    are not square then form no batch, unless ``quarters`` is ``(2,)``. Lines of a mask turn too. The ``affine`` is left
    as it is. Not invertible.

    Args:
        keys: keys to turn together.
        prob: probability, 0 to 1.
        quarters: numbers of quarters to choose from, each 1 to 3 and as likely.
        allow_missing_keys: whether a sample without a key passes.

    Raises:
        ValueError: if ``quarters`` are out of range; on a call, if a key has other axes.

    Example:
        >>> RandCenteredRotate90d("mask", prob=1.0, quarters=(1,))({"mask": torch.ones(1, 1, 4)})["mask"].shape
        torch.Size([1, 4, 1])
    """

    def __init__(
        self,
        keys: KeysCollection = _TURNED,
        prob: float = 0.5,
        quarters: Sequence[int] = (1, 2, 3),
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if not quarters or not set(quarters) <= {1, 2, 3}:
            raise ValueError(f"RandCenteredRotate90d: 'quarters' must be numbers of 1 to 3, got {tuple(quarters)}")
        self.quarters = tuple(int(n) for n in quarters)
        self._quarters = 0

    def randomize(self, data: Any = None) -> None:
        """Draw whether and by how many quarters to turn."""
        super().randomize(None)
        self._quarters = int(self.R.choice(self.quarters)) if self._do_transform else 0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``, perhaps turned; see the class."""
        d = dict(data)
        self.randomize()
        for key in self.key_iterator(d):
            x = _with_space("RandCenteredRotate90d", key, d[key])
            for _ in range(self._quarters):
                x = _mirrored(x.transpose(1, 2), 1)
            d[key] = x.contiguous()
        return d


class RandPhased(RandomizableTransform, MapTransform):
    """Turn the phase of a whole exam by one random angle, all keys alike: what a receiver's phase is.

    Reads and writes ``keys``, complex, any shape: k-space or images, not sensitivity maps. Not invertible.

    Args:
        keys: keys whose phase turns together.
        prob: probability, 0 to 1.
        max_angle: largest angle in radians, either way.
        allow_missing_keys: whether a sample without a key passes.

    Raises:
        ValueError: if ``max_angle`` is negative; on a call, if a key is not complex.

    Example:
        >>> RandPhased("kspace", prob=1.0)({"kspace": torch.ones(1, 1, 1, dtype=torch.complex64)})["kspace"].abs()
        tensor([[[1.]]])
    """

    def __init__(
        self,
        keys: KeysCollection = _TURNED,
        prob: float = 0.5,
        max_angle: float = math.pi,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, prob)
        if not 0 <= max_angle < math.inf:
            raise ValueError(f"RandPhased: 'max_angle' must be at least 0, got {max_angle}")
        self.max_angle = max_angle
        self._angle = 0.0

    def randomize(self, data: Any = None) -> None:
        """Draw whether and how far to turn."""
        super().randomize(None)
        self._angle = float(self.R.uniform(-self.max_angle, self.max_angle)) if self._do_transform else 0.0

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data``, perhaps with another phase; see the class."""
        d = dict(data)
        self.randomize()
        factor = torch.polar(torch.tensor(1.0), torch.tensor(self._angle))
        for key in self.key_iterator(d):
            x = plain(d[key])
            if not x.is_complex():
                raise ValueError(f"RandPhased: '{key}' must be complex, got {x.dtype} {tuple(x.shape)}")
            d[key] = x * factor.to(x.device, x.dtype)
        return d
