"""Transforms from images to k-space: simulate the acquisition of a magnitude image, or transform a complex one."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Randomizable
from monai.utils import ensure_tuple
from torch import Tensor

from medkit.data import coil_maps, smooth_phase
from medkit.data import keys as names
from medkit.data.seeding import generator_of
from medkit.mri.transforms.layout import check_finite, checked_complex, plain, slices_first, slices_last
from medkit.ops import centered_fft


class SimulateKspaced(Randomizable, MapTransform):
    r"""Acquire a magnitude image: give it a phase and coils, transform it, add noise.

    .. math:: y_c = F \, (S_c \, m \, e^{i\varphi}) + \sigma (n_1 + i n_2)

    Reads ``magnitude``, real ``(1, H, W[, S])``; writes ``kspace``, complex64 ``(coil, H, W[, S])``, centred. A sample
    that has ``kspace`` already passes unchanged. Not invertible. Phase and coils are those of
    :func:`medkit.data.smooth_phase` and :func:`medkit.data.coil_maps`; one coil is uniform. The maps are not kept:
    they must be estimated, as for a scanner's data.

    Args:
        keys: the key of the magnitude image: one.
        n_coils: numbers of coils to choose from, each as likely.
        noise: range of :math:`\sigma`, the standard deviation of the real and of the imaginary part in image and
            k-space alike, in parts of the image's 99.5th percentile.
        seed_key: key of a name by which all draws are fixed; ``None``: new draws each time, from ``self.R``.
        use_phase: whether to give the image a phase.
        seed: with ``seed_key``, another seed gives other phases, coils and noise.

    Raises:
        ValueError: if an argument is outside its range; on a call, if the image is not of this form or not finite.

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
        use_phase: bool = True,
        seed: int = 0,
    ) -> None:
        MapTransform.__init__(self, keys)
        if len(self.keys) != 1:
            raise ValueError(f"SimulateKspaced: 'keys' must be one key, got {self.keys}")
        if not n_coils or min(n_coils) < 1:
            raise ValueError(f"SimulateKspaced: 'n_coils' must be numbers of at least 1, got {tuple(n_coils)}")
        if len(noise) != 2 or not 0 <= noise[0] <= noise[1]:
            raise ValueError(f"SimulateKspaced: 'noise' must be a range 0 <= low <= high, got {tuple(noise)}")
        self.n_coils = tuple(int(n) for n in n_coils)
        self.noise = (float(noise[0]), float(noise[1]))
        self.seed_key = seed_key
        self.seed = seed
        self.use_phase = use_phase

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``kspace``; see the class."""
        d = dict(data)
        if names.KSPACE in d:
            return d
        for key in self.key_iterator(d):
            magnitude = plain(d[key])
            if magnitude.is_complex() or magnitude.ndim not in (3, 4) or magnitude.shape[0] != 1:
                raise ValueError(
                    f"SimulateKspaced: '{key}' must be real (1, H, W) or (1, H, W, S), got {magnitude.dtype} "
                    f"{tuple(magnitude.shape)}"
                )
            check_finite("SimulateKspaced", key, magnitude)
            rng = generator_of(self.R, d, self.seed_key, self.seed, "SimulateKspaced")
            d[names.KSPACE] = self._acquired(magnitude.to(torch.float32), rng)
        return d

    def _acquired(self, magnitude: Tensor, rng: np.random.RandomState) -> Tensor:
        shape = tuple(magnitude.shape[1:])
        generator = torch.Generator().manual_seed(int(rng.randint(2**31 - 1)))
        n_coils = self.n_coils[rng.randint(len(self.n_coils))]
        level = rng.uniform(*self.noise) * float(np.percentile(magnitude.cpu().numpy(), 99.5))
        phase = smooth_phase(shape, generator) if self.use_phase else torch.zeros(shape)
        image = magnitude * torch.polar(torch.ones(shape), phase.to(torch.float32)).to(magnitude.device)
        if n_coils > 1:
            image = image * coil_maps(n_coils, shape, generator).to(magnitude.device)
        # A complex standard normal has variance 1/2 in each part.
        noise = torch.randn(image.shape, dtype=torch.complex64, generator=generator) * (level * 2**0.5)
        kspace = centered_fft(slices_first(image)) + slices_first(noise.to(magnitude.device))
        return slices_last(kspace, magnitude.ndim == 4)


class ToKspaced(MapTransform):
    """Transform complex images to k-space: centred, orthonormal, over height and width.

    Reads complex images ``(coil, H, W[, S])`` under ``keys``; writes k-space of the same shape under ``output_keys``.
    Not invertible; the inverse is :func:`medkit.ops.centered_ifft`.

    Args:
        keys: keys of images.
        output_keys: keys of the results, as many.
        allow_missing_keys: whether a sample without a key passes.

    Raises:
        ValueError: if there are not as many keys as results; on a call, if an image is not complex or not finite.

    Example:
        >>> ToKspaced("coils")({"coils": torch.ones(1, 4, 4, dtype=torch.complex64)})["kspace"].shape
        torch.Size([1, 4, 4])
    """

    def __init__(
        self, keys: KeysCollection, output_keys: KeysCollection = names.KSPACE, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.output_keys = ensure_tuple(output_keys)
        if len(self.output_keys) != len(self.keys):
            raise ValueError(f"ToKspaced: 'output_keys' must be as many as 'keys' {self.keys}, got {self.output_keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with k-space; see the class."""
        d = dict(data)
        for key, output in self.key_iterator(d, self.output_keys):
            image = checked_complex("ToKspaced", key, d[key])
            d[output] = slices_last(centered_fft(slices_first(image)), image.ndim == 4)
        return d
