"""Dictionary transforms of the distill wing: pictures as classifiers take them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Resize, SpatialPad
from PIL import Image
from torch import Tensor

WINDOW = 1.3  # end of the grey scale in units of the brightest percentile, where a picture has no scale of its own


class LoadPictured(MapTransform):
    """Read pictures as float32 ``(C, H, W)`` in 0 to 1.

    8-bit pictures are divided by 255. Others have no common scale: of each, the 99th percentile becomes 1 / 1.3, the
    middle of what the simulated slices have, and what lies above 1 is cut. NIfTI slices are turned as radiologists look
    at them: anterior at the top, the subject's right at the left.

    Reads and writes ``keys``: a path (PNG, JPEG, TIFF, BMP, NIfTI) or an array ``(H, W[, C])``; reads ``i_slice``, the
    slice of a volume, where it is given. Cannot be inverted.

    Args:
        keys: of the pictures.
        channels: 1 (grey) or 3 (colour).
        image_size: height and width that all are brought to: the longer side is resampled to it, the shorter one padded
            with 0; ``None``: as they are.

    Raises:
        ValueError: if an argument is out of range; when called, if a file is no picture, or is a volume without
            ``i_slice``.

    Example:
        >>> LoadPictured("image")({"image": np.zeros((28, 28), np.uint8)})["image"].shape
        torch.Size([1, 28, 28])
    """

    def __init__(self, keys: KeysCollection, channels: int = 1, image_size: int | None = None) -> None:
        super().__init__(keys)
        if channels not in (1, 3) or (image_size is not None and image_size < 1):
            raise ValueError(
                "LoadPictured: wanted 'channels' of 1 or 3, and 'image_size' of at least 1 or None, "
                f"got {channels} and {image_size}"
            )
        self.channels, self.image_size = channels, image_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load.

        Args:
            data: a sample.

        Returns:
            The sample with loaded pictures.
        """
        out = dict(data)
        for key in self.key_iterator(out):
            array = _read(out[key], out.get("i_slice")) if isinstance(out[key], str) else np.asarray(out[key])
            picture = self._channels(_scaled(array))
            out[key] = picture if self.image_size is None else _sized(picture, self.image_size)
        return out

    def _channels(self, array: np.ndarray) -> Tensor:
        picture = torch.from_numpy(array).reshape(*array.shape[:2], -1).permute(2, 0, 1)
        if picture.shape[0] not in (1, 3):
            raise ValueError(f"LoadPictured: a picture must be (H, W) or (H, W, 3), got {array.shape}")
        if picture.shape[0] == self.channels:
            return picture.contiguous()
        # Luma as in ITU-R 601, which PIL's conversion to grey uses too.
        grey = (picture * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(0, keepdim=True)
        return picture.repeat(3, 1, 1) if self.channels == 3 else grey


def _read(path: str, i_slice: int | None) -> np.ndarray:
    if path.lower().endswith((".nii", ".nii.gz")):
        volume = nibabel.as_closest_canonical(nibabel.load(path))
        shape = tuple(int(n) for n in volume.shape)
        if len(shape) > 3 and max(shape[3:]) > 1:
            raise ValueError(f"LoadPictured: {path} must be a slice or a volume, got {shape}")
        n_slices = shape[2] if len(shape) > 2 else 1
        if i_slice is None and n_slices > 1:
            raise ValueError(f"LoadPictured: {path} has {n_slices} slices; name one as 'i_slice'")
        array = np.asarray(volume.dataobj).reshape(*shape[:2], n_slices)[:, :, i_slice or 0]
        return np.ascontiguousarray(array[::-1, ::-1].T)
    with Image.open(path) as picture:
        if picture.mode in ("P", "RGBA", "LA", "CMYK", "1", "PA"):
            return np.asarray(picture.convert("RGB" if picture.mode not in ("1", "LA") else "L"))
        return np.asarray(picture)


def _scaled(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    values = np.nan_to_num(array.astype(np.float32), posinf=0, neginf=0)
    bright = float(np.percentile(values, 99)) * WINDOW
    return np.clip(values / bright, 0, 1) if bright > 0 else np.zeros_like(values)


def _sized(picture: Tensor, size: int) -> Tensor:
    if picture.shape[1:] == (size, size):
        return picture
    sized = SpatialPad((size, size))(Resize(size, size_mode="longest", mode="area")(picture))
    return sized.as_tensor() if isinstance(sized, MetaTensor) else sized
