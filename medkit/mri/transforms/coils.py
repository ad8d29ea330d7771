"""Transforms that mix the coils of an exam: compression to fewer, and white noise."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform

from medkit.data import keys as names
from medkit.mri.compression import coil_compression_matrix, compress_coils
from medkit.mri.transforms.layout import checked_complex, plain, slices_first, slices_last
from medkit.mri.whitening import noise_covariance, prewhiten


class CompressCoilsd(Transform):
    """Compress coils to fewer virtual ones, slice by slice.

    Reads ``measured`` and ``mask``, or ``kspace`` alone where nothing is under-sampled yet; writes ``measured`` and
    ``kspace``, those that are there, complex64 ``(n_coils, H, W[, S])``, by one and the same mixture. An exam with no
    more coils than ``n_coils`` passes unchanged. Belongs before the sensitivity maps. Not invertible.

    Args:
        n_coils: number of virtual coils.
        mode: ``"svd"`` or ``"geometric"``, see :func:`coil_compression_matrix`.
        n_calibration: use at most so many central lines; ``None``: all that the mask samples.

    Raises:
        ValueError: if an argument is out of range; on a call, if there are sensitivity maps already, or as
            :func:`coil_compression_matrix` does.

    Example:
        >>> CompressCoilsd(2)({"kspace": torch.randn(8, 32, 32, dtype=torch.complex64)})["kspace"].shape
        torch.Size([2, 32, 32])
    """

    def __init__(self, n_coils: int, mode: str = "svd", n_calibration: int | None = 24) -> None:
        if n_coils < 1:
            raise ValueError(f"CompressCoilsd: 'n_coils' must be at least 1, got {n_coils}")
        if mode not in ("svd", "geometric"):
            raise ValueError(f"CompressCoilsd: 'mode' must be 'svd' or 'geometric', got {mode!r}")
        self.n_coils = n_coils
        self.mode = mode
        self.n_calibration = n_calibration

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with fewer coils; see the class."""
        d = dict(data)
        source = names.MEASURED if names.MEASURED in d else names.KSPACE
        kspace = checked_complex("CompressCoilsd", source, d[source])
        if kspace.shape[0] <= self.n_coils:
            return d
        if names.SENS_MAPS in d:
            raise ValueError(
                f"CompressCoilsd: the sample has '{names.SENS_MAPS}' of the {kspace.shape[0]} coils already; put "
                "SensitivityMapsd after it"
            )
        slices = slices_first(kspace)
        mask = slices_first(plain(d[names.MASK])) if source == names.MEASURED else None
        n_calibration = self.n_calibration
        if mask is None and n_calibration is None:
            n_calibration = max(slices.shape[-2:])
        matrix = coil_compression_matrix(slices, self.n_coils, mask, n_calibration, self.mode)
        for key in (names.MEASURED, names.KSPACE):
            if key in d:
                coils = checked_complex("CompressCoilsd", key, d[key])
                d[key] = slices_last(compress_coils(slices_first(coils), matrix), coils.ndim == 4)
        return d


class PrewhitenKspaced(MapTransform):
    """Make the noise of the coils white and of variance 1, by the scan of noise that comes with an exam.

    Reads ``keys``, complex ``(coil, H, W[, S])``, and ``noise``, complex ``(coil, *)``; writes ``keys``, in units of
    the noise's standard deviation. Belongs before all that mixes or weights coils. Not invertible.

    Args:
        keys: keys of k-space.
        noise_key: key of the noise scan.
        allow_missing_keys: whether a sample without a key passes.

    Raises:
        ValueError: on a call, if there is no noise scan, or it is not finite, singular or of other coils.

    Example:
        >>> sample = {"kspace": torch.ones(2, 4, 4, dtype=torch.complex64)}
        >>> PrewhitenKspaced()({**sample, "noise": torch.randn(2, 99, dtype=torch.complex64)})["kspace"].shape
        torch.Size([2, 4, 4])
    """

    def __init__(
        self, keys: KeysCollection = names.KSPACE, noise_key: str = names.NOISE, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.noise_key = noise_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with white noise; see the class."""
        d = dict(data)
        if self.noise_key not in d:
            raise ValueError(
                f"PrewhitenKspaced: 'noise_key' must be a key of the sample, got {self.noise_key!r}; it has "
                f"{sorted(map(str, d))}"
            )
        covariance = noise_covariance(plain(d[self.noise_key]))
        for key in self.key_iterator(d):
            kspace = checked_complex("PrewhitenKspaced", key, d[key])
            d[key] = prewhiten(kspace[None], covariance.to(kspace.device))[0]
        return d
