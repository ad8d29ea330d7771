"""Loading of images to denoise: from their files, with all that the result needs to become a file again."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from medkit.data import keys as names
from medkit.denoise.readers.files import read_image

HU_WINDOW = (-1024.0, 1024.0)
HU_LIMIT = -500.0  # an image without modality that is darker somewhere is in HU
PERCENTILE = 99.5


class LoadNoisyd(MapTransform):
    """Read images or slices, and scale them so that bright tissue is near 1.

    Reads ``keys``, paths, and ``i_slice`` and ``series_uid`` where the entry has them; writes ``image_key``, float32
    ``(C, H, W[, S])``, ``affine``, ``space_code``, ``modality`` (``"CT"`` too where values are below -500) and
    ``window``: the intensities that become 0 and 1.
    Nothing is cut: what is brighter is above 1. Not invertible; :class:`UnscaleWindowd` goes back.

    Args:
        keys: one key, of paths from :func:`image_list`.
        image_key: where the image goes.
        channels: 1 for grey images and volumes, 3 for colour.
        window: intensities that become 0 and 1; ``None``: 0 and 255, or 65535, of pictures of whole numbers; -1024
            and 1024 HU of CT, which is told by DICOM or by values below -500; otherwise 0, or the 0.5th percentile of
            an image with negative values, and the 99.5th percentile.
        slice_axis: array axis of a NIfTI volume that counts the slices.
        spatial_dims: 2: an image of a slice is ``(C, H, W)``; 3: volumes are wanted, a flat image is refused.

    Raises:
        ValueError: if an argument is out of its range; on a call, if the file cannot be read, or holds complex numbers,
            NaN, nothing, four axes, or colour for a grey network.

    Example:
        >>> LoadNoisyd("path")({"path": "head.nii.gz", "i_slice": 90})["image"].shape
        torch.Size([1, 192, 232])
    """

    def __init__(
        self,
        keys: KeysCollection = (names.PATH,),
        image_key: str = names.IMAGE,
        channels: int = 1,
        window: tuple[float, float] | None = None,
        slice_axis: int = 2,
        spatial_dims: int = 2,
    ) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"LoadNoisyd: 'keys' must be one key, got {self.keys}")
        if channels not in (1, 3):
            raise ValueError(f"LoadNoisyd: 'channels' must be 1 (grey) or 3 (colour), got {channels}")
        if window is not None and (len(window) != 2 or not window[1] > window[0]):
            raise ValueError(f"LoadNoisyd: 'window' must be two intensities (low, high), got {window}")
        if spatial_dims not in (2, 3):
            raise ValueError(f"LoadNoisyd: 'spatial_dims' must be 2 or 3, got {spatial_dims}")
        self.image_key, self.channels, self.window = image_key, channels, window
        self.slice_axis, self.spatial_dims = slice_axis, spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with the image; see the class."""
        d = dict(data)
        path = Path(d[self.keys[0]])
        i_slice = d.get(names.I_SLICE)
        stored = read_image(
            "LoadNoisyd", path, None if i_slice is None else int(i_slice), d.get(names.SERIES_UID), self.slice_axis
        )
        array = stored.array
        if len(array) != self.channels:
            remedy = "convert it to grey" if self.channels == 1 else "give a network of one channel (in_channels 1)"
            raise ValueError(
                f"LoadNoisyd: {path} has {len(array)} channel{'s' * (len(array) > 1)}, the network takes "
                f"{self.channels}; {remedy}, or train a network for {len(array)} with in_channels"
            )
        if self.spatial_dims == 3 and array.ndim != 4:
            raise ValueError(
                f"LoadNoisyd: {path} must be a volume for a network of 3 dimensions, got {array.shape[1:]}"
            )
        modality = stored.modality
        if not modality and array.dtype.kind == "f" and float(array.min()) < HU_LIMIT:
            modality = "CT"
        low, high = self.window or self._window(array, modality)
        image = (torch.from_numpy(array.astype("float32")) - low) / (high - low)
        d[self.image_key] = MetaTensor(image)
        d[names.AFFINE], d[names.SPACE_CODE], d[names.MODALITY] = stored.affine, stored.space_code, modality
        d[names.WINDOW] = torch.tensor([low, high], dtype=torch.float64)
        return d

    @staticmethod
    def _window(array: Any, modality: str) -> tuple[float, float]:
        if array.dtype.kind in "iub":
            return 0.0, 255.0 if array.dtype.itemsize == 1 else 65535.0
        flat = torch.from_numpy(array).flatten()
        step = max(1, len(flat) // 2_000_000)  # percentiles of so many values are good enough, and fast
        low = float(flat.min())
        if modality == "CT":
            return HU_WINDOW
        low = float(torch.quantile(flat[::step], 1 - PERCENTILE / 100)) if low < 0 else 0.0
        high = float(torch.quantile(flat[::step], PERCENTILE / 100))
        return (low, high) if high > low else (low, max(float(flat.max()), low + 1e-6))


class UnscaleWindowd(MapTransform):
    """Return images to the unit of their file.

    Reads and writes ``keys``, ``(C, *S)``, 0 and 1 being the intensities ``window``.

    Args:
        keys: images.
        allow_missing_keys: whether a sample without a key passes.

    Example:
        >>> UnscaleWindowd("pred")({"pred": torch.ones(1, 2, 2), "window": torch.tensor([0.0, 255.0])})["pred"].max()
        tensor(255.)
    """

    def __init__(self, keys: KeysCollection = (names.PRED,), allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return ``data`` with its images in the unit of the file; see the class."""
        d = dict(data)
        low, high = (float(x) for x in d[names.WINDOW])
        for key in self.key_iterator(d):
            d[key] = d[key] * (high - low) + low
        return d
