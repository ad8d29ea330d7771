"""The transform that under-samples k-space, or takes it as the scanner under-sampled it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from torch import Tensor

from medkit.data import keys as names
from medkit.data.seeding import generator_of
from medkit.mri.masks import SamplingMask, actual_acceleration
from medkit.mri.readers import find_mask
from medkit.mri.transforms.layout import checked_complex, plain


class Undersampled(Randomizable, MapTransform):
    """Under-sample k-space by a mask: a new one for each sample, or the same one for each case.

    Reads ``kspace``, complex ``(coil, H, W[, S])``; all slices of a volume share one mask. Writes ``measured``, zero
    where not sampled, ``mask``, bool ``(1, 1 or H, W[, 1])``, and ``acceleration``, the one that the mask really has.
    For another key, say ``t1_kspace``, writes ``t1_measured``, and with ``share_mask=False`` ``t1_mask`` and
    ``t1_acceleration``. K-space as MONAI lays it out, real ``(coil, H, W, 2)``, gives ``measured`` and ``mask`` in that
    layout, as MONAI's networks take them. Not invertible.

    With a mask that changes from frame to frame (:class:`KtMask`) k-space is dynamic, frames in the place of slices:
    ``(coil, H, W, T)``, and ``mask`` ``(1, 1 or H, W, T)``.

    A sample that brings ``mask`` was under-sampled by the scanner: that mask is kept, ``measured`` is what it sampled,
    and ``kspace`` is removed, since there is no fully sampled one to compare with.

    Args:
        keys: keys of k-space.
        mask: the pattern; ``None``: take k-space as it was acquired, with zeros where lines or points are missing.
        share_mask: whether several keys get one mask (their sizes must agree) or one each.
        seed_key: key of a name by which the mask is fixed, for validation; ``None``: a new one for each sample, from
            ``self.R``.
        allow_missing_keys: whether a sample without a key passes.
        seed: with ``seed_key``, another seed gives other masks.

    Raises:
        ValueError: if ``mask`` is no pattern over two axes; on a call, if k-space is not of this form or not finite,
            nothing is sampled, a mask does not fit, or a mask of frames finds no frames.

    Example:
        >>> transform = Undersampled("kspace", RandomMask(0.08, 4))
        >>> transform({"kspace": torch.ones(1, 32, 32, dtype=torch.complex64)})["mask"].sum()
        tensor(8)
    """

    def __init__(
        self,
        keys: KeysCollection = names.KSPACE,
        mask: SamplingMask | None = None,
        share_mask: bool = True,
        seed_key: str | None = None,
        allow_missing_keys: bool = False,
        seed: int = 0,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if mask is not None and not (isinstance(mask, SamplingMask) and mask.spatial_dims == 2):
            raise ValueError(
                f"Undersampled: 'mask' must be a SamplingMask of 2 axes such as RandomMask(0.08, 4), got {mask!r}"
            )
        self.mask = mask
        self.share_mask = share_mask
        self.seed_key = seed_key
        self.seed = seed
        if any(names.KSPACE not in str(key) for key in self.keys):
            raise ValueError(f"Undersampled: 'keys' must have '{names.KSPACE}' in their names, got {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``measured`` and ``mask``; see the class."""
        d = dict(data)
        rng = generator_of(self.R, d, self.seed_key, self.seed, "Undersampled")
        acquired = plain(d[names.MASK]).to(torch.bool) if names.MASK in d else None
        shared = acquired
        for key in self.key_iterator(d):
            kspace, is_pair = _complex(key, d[key])
            is_acquired = acquired is not None
            mask = shared
            if mask is None and self.mask is not None:
                mask = _drawn(key, self.mask, kspace, rng)
            elif mask is None:
                mask = find_mask(kspace if kspace.ndim == 3 else (kspace != 0).any(-1).to(kspace.dtype))
                is_acquired = mask is not None
            mask = _fitting(key, mask, kspace)
            if self.share_mask:
                shared = mask
            measured = kspace * mask
            # A slice of air is all zero and no mistake; a whole exam, or what a mask takes of a signal, is.
            if not bool(measured.any()) and (bool(kspace.any()) or names.I_SLICE not in d):
                raise ValueError(f"Undersampled: '{key}' must have signal where it is sampled, every sample is zero")
            has_one_mask = self.share_mask or acquired is not None
            d[names.MASK if has_one_mask else _renamed(key, names.MASK)] = mask[..., None] if is_pair else mask
            rate = torch.tensor(actual_acceleration(mask), dtype=torch.float32)
            d[names.ACCELERATION if has_one_mask else _renamed(key, names.ACCELERATION)] = rate
            d[_renamed(key, names.MEASURED)] = torch.view_as_real(measured) if is_pair else measured
            if is_acquired:
                del d[key]
        return d


def _complex(key: Hashable, x: Any) -> tuple[Tensor, bool]:
    """Complex k-space, and whether it came as pairs of real numbers."""
    data = plain(x)
    is_pair = not data.is_complex() and data.ndim == 4 and data.shape[-1] == 2
    if is_pair:
        data = torch.view_as_complex(data.to(torch.float32).contiguous())
    return checked_complex("Undersampled", key, data), is_pair


def _drawn(key: Hashable, pattern: SamplingMask, kspace: Tensor, rng: np.random.RandomState) -> Tensor:
    """Draw a mask (1, 1 or H, W), or (1, 1 or H, W, T) of a pattern that changes from frame to frame."""
    if not pattern.is_dynamic:
        return pattern.draw(kspace.shape[1:3], rng)[None]
    if kspace.ndim != 4:
        raise ValueError(
            f"Undersampled: {type(pattern).__name__} is for dynamic k-space (coil, H, W, T), got '{key}' "
            f"{tuple(kspace.shape)}; give all frames at once, or a mask of one frame"
        )
    return pattern.draw((kspace.shape[3], *kspace.shape[1:3]), rng).movedim(0, -1)[None]


def _fitting(key: Hashable, mask: Tensor | None, kspace: Tensor) -> Tensor:
    """Return the mask with the axes of k-space, on its device; none stands for everything."""
    if mask is None:
        mask = torch.ones(1, 1, kspace.shape[2], dtype=torch.bool)
    if mask.ndim == 3 and kspace.ndim == 4:
        mask = mask[..., None]
    height, width = kspace.shape[1:3]
    fits = mask.ndim == kspace.ndim and mask.shape[0] == 1 and mask.shape[1] in (1, height) and mask.shape[2] == width
    if not fits or mask.shape[3:] not in ((), (1,), kspace.shape[3:]):
        raise ValueError(
            f"Undersampled: 'mask' must be (1, 1 or H, W) for '{key}' {tuple(kspace.shape)}, got {tuple(mask.shape)}; "
            "give a mask of the size of k-space"
        )
    return mask.to(kspace.device)


def _renamed(key: Hashable, word: str) -> str:
    return str(key).replace(names.KSPACE, word)
