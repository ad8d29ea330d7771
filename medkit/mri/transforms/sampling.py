"""Transforms that make k-space and under-sample it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import convert_to_tensor
from torch import Tensor

from medkit.data import coil_maps, smooth_phase
from medkit.data import keys as names
from medkit.mri.masks import SamplingMask
from medkit.mri.transforms.seeding import generator_of
from medkit.ops import centered_fft


def slices_first(x: Tensor) -> Tensor:
    """View ``(C, H, W[, S])`` as a batch of slices ``(S, C, H, W)``, one slice without ``S``."""
    return x[None] if x.ndim == 3 else x.movedim(-1, 0)


def slices_last(x: Tensor, is_volume: bool) -> Tensor:
    """Undo :func:`slices_first`."""
    return x.movedim(0, -1) if is_volume else x[0]


def plain(x: Any) -> Tensor:
    """Return an array or MONAI's tensor with metadata as a plain tensor."""
    return convert_to_tensor(x, track_meta=False)


def check_kspace(name: str, key: Hashable, kspace: Tensor) -> None:
    """Raise ``ValueError`` unless k-space is complex ``(coil, H, W[, S])`` with finite values."""
    if not kspace.is_complex() or kspace.ndim not in (3, 4):
        raise ValueError(
            f"{name}: '{key}' must be complex (coil, H, W) or (coil, H, W, S), got {kspace.dtype} {tuple(kspace.shape)}"
        )
    if not bool(torch.isfinite(torch.view_as_real(kspace)).all()):
        raise ValueError(
            f"{name}: '{key}' must be finite, it holds NaN or infinite values; repair or leave out this exam"
        )


class SimulateKspaced(Randomizable, MapTransform):
    r"""Acquire a magnitude image: give it a phase and coils, transform it, add noise.

    .. math:: y_c = F \, S_c \, m \, e^{i\varphi} + \sigma (n_1 + i n_2)

    Reads ``magnitude``, real ``(1, H, W[, S])``; writes ``kspace``, complex64 ``(coil, H, W[, S])``. A sample that has
    ``kspace`` already passes unchanged. Not invertible. Phase and coils are those of
    :func:`medkit.data.smooth_phase` and :func:`medkit.data.coil_maps`.

    Args:
        keys: the key of the magnitude image: one.
        n_coils: numbers of coils to choose from, each as likely; one coil is uniform.
        noise: range of :math:`\sigma`, in parts of the image's 99.5th percentile.
        seed_key: key of a name by which all draws are fixed; ``None``: new draws each time, from ``self.R``.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> SimulateKspaced(n_coils=(4,))({"magnitude": torch.rand(1, 16, 16)})["kspace"].shape
        torch.Size([4, 16, 16])
    """

    def __init__(
        self,
        keys: KeysCollection = names.MAGNITUDE,
        n_coils: Sequence[int] = (1, 8),
        noise: Sequence[float] = (0.0, 0.03),
        seed_key: str | None = None,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys=True)
        if not n_coils or min(n_coils) < 1:
            raise ValueError(f"SimulateKspaced: 'n_coils' must be numbers of at least 1, got {tuple(n_coils)}")
        if len(noise) != 2 or not 0 <= noise[0] <= noise[1]:
            raise ValueError(f"SimulateKspaced: 'noise' must be a range 0 <= low <= high, got {tuple(noise)}")
        self.n_coils = tuple(int(n) for n in n_coils)
        self.noise = (float(noise[0]), float(noise[1]))
        self.seed_key = seed_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``kspace``; see the class."""
        d = dict(data)
        if names.KSPACE in d:
            return d
        for key in self.key_iterator(d):
            magnitude = plain(d[key]).to(torch.float32)
            if magnitude.ndim not in (3, 4) or magnitude.shape[0] != 1:
                raise ValueError(
                    f"SimulateKspaced: '{key}' must be real (1, H, W) or (1, H, W, S), got {tuple(magnitude.shape)}"
                )
            rng = generator_of(self.R, d, self.seed_key, "SimulateKspaced")
            generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
            n_coils = self.n_coils[rng.randint(len(self.n_coils))]
            shape = tuple(magnitude.shape[1:])
            image = torch.polar(magnitude[0], smooth_phase(shape, generator).to(torch.float32))[None]
            if n_coils > 1:
                image = image * coil_maps(n_coils, shape, generator)
            level = rng.uniform(*self.noise) * float(
                torch.quantile(magnitude.flatten()[:: 1 + magnitude.numel() // 10**6], 0.995)
            )
            noise = torch.randn(image.shape, dtype=torch.complex64, generator=generator) * (level * 2**0.5)
            image = slices_first(image + noise)
            d[names.KSPACE] = slices_last(centered_fft(image), magnitude.ndim == 4).contiguous()
        return d


class ToKspaced(MapTransform):
    """Transform complex images to k-space: centred, orthonormal, over height and width.

    Reads complex images ``(coil, H, W[, S])`` under ``keys``; writes ``kspace`` in their place or under ``output_keys``.
    Not invertible; the inverse is :func:`medkit.ops.centered_ifft`.

    Args:
        keys: keys of images.
        output_keys: keys of the results, as many.
        allow_missing_keys: whether a sample without a key passes.

    Example:
        >>> ToKspaced("coils")({"coils": torch.ones(1, 4, 4, dtype=torch.complex64)})["kspace"].shape
        torch.Size([1, 4, 4])
    """

    def __init__(
        self, keys: KeysCollection, output_keys: KeysCollection = names.KSPACE, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_keys = MapTransform(output_keys).keys
        if len(self.output_keys) != len(self.keys):
            raise ValueError(f"ToKspaced: 'output_keys' must be as many as 'keys' {self.keys}, got {self.output_keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with k-space; see the class."""
        d = dict(data)
        for key, output in self.key_iterator(d, self.output_keys):
            image = plain(d[key])
            check_kspace("ToKspaced", key, image)
            d[output] = slices_last(centered_fft(slices_first(image)), image.ndim == 4)
        return d


class Undersampled(Randomizable, MapTransform):
    """Under-sample k-space by a mask: a new one for each sample, or the same one for each case.

    Reads ``kspace``, complex ``(coil, H, W[, S])``; all slices of a volume share one mask. Writes ``measured`` and
    ``mask``, bool ``(1, 1 or H, W[, 1])``. For another key, say ``t1_kspace``, writes ``t1_measured``, and with
    ``share_mask=False`` ``t1_mask``. Not invertible.

    A sample that brings ``mask`` was under-sampled by the scanner: that mask is kept, ``measured`` is what it sampled, and
    ``kspace`` is removed, since there is no fully sampled one to compare with.

    Args:
        keys: keys of k-space.
        mask: the pattern, a :class:`SamplingMask`.
        share_mask: whether several keys get one mask (their sizes must agree) or one each.
        seed_key: key of a name by which the mask is fixed, for validation; ``None``: a new one each time, from ``self.R``.
        allow_missing_keys: whether a sample without a key passes.

    Raises:
        ValueError: on a call, if k-space is not of this form or not finite, no sample is taken, or a mask does not fit.

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
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if not isinstance(mask, SamplingMask):
            raise ValueError(f"Undersampled: 'mask' must be a SamplingMask such as RandomMask(0.08, 4), got {mask!r}")
        self.mask = mask
        self.share_mask = share_mask
        self.seed_key = seed_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``measured`` and ``mask``; see the class."""
        d = dict(data)
        rng = generator_of(self.R, d, self.seed_key, "Undersampled")
        is_prospective = names.MASK in d
        shared: Tensor | None = plain(d[names.MASK]).to(torch.bool) if is_prospective else None
        for key in self.key_iterator(d):
            kspace = plain(d[key])
            check_kspace("Undersampled", key, kspace)
            mask = shared
            if mask is None:
                pattern = self.mask.draw(kspace.shape[1:3], rng)
                mask = pattern[None] if kspace.ndim == 3 else pattern[None, ..., None]
            mask = self._fitting(key, mask, kspace)
            if self.share_mask:
                shared = mask
            measured = kspace * mask
            if not bool(measured.any()):
                raise ValueError(f"Undersampled: '{key}' must have signal where it is sampled, every sample is zero")
            d[_renamed(key, names.MEASURED)] = measured
            d[names.MASK if self.share_mask or is_prospective else _renamed(key, names.MASK)] = mask
            if is_prospective:
                del d[key]
        return d

    @staticmethod
    def _fitting(key: Hashable, mask: Tensor, kspace: Tensor) -> Tensor:
        if mask.ndim == 3 and kspace.ndim == 4:
            mask = mask[..., None]
        fits = mask.ndim == kspace.ndim and all(m in (1, n) for m, n in zip(mask.shape, kspace.shape, strict=True))
        if not fits or mask.shape[2] != kspace.shape[2]:
            raise ValueError(
                f"Undersampled: the mask must fit '{key}' of shape {tuple(kspace.shape)}, got {tuple(mask.shape)}; "
                "give a mask of the same size"
            )
        return mask


def _renamed(key: Hashable, word: str) -> str:
    text = str(key)
    return text.replace(names.KSPACE, word) if names.KSPACE in text else f"{text}_{word}"
