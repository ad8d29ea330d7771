"""Transforms between measured k-space and what a network takes and gives."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from torch import Tensor
from torch.nn.functional import pad

from medkit.data import keys as names
from medkit.mri.channels import channels_to_magnitude, pack_reconstruction, pack_target
from medkit.mri.coils import estimate_sens_maps, root_sum_of_squares
from medkit.mri.physics import sense_adjoint
from medkit.mri.transforms.sampling import plain, slices_first, slices_last


class SensitivityMapsd(Transform):
    """Estimate coil sensitivities from the fully sampled centre of what was measured, slice by slice.

    Reads ``measured`` and ``mask``; writes ``sens_maps``, complex64 ``(coil, H, W[, S])``. Not invertible.

    Args:
        n_coils_out: give every sample so many coils, so that samples of different scanners form a batch: coils that are
            missing are added to ``measured``, ``kspace`` and ``sens_maps`` as zeros. ``None``: leave them as they are.
        n_calibration: use at most so many central lines; ``None``: all that the mask samples.

    Raises:
        ValueError: on a call, if there are more coils than ``n_coils_out``, or fewer than 4 central lines.

    Example:
        >>> SensitivityMapsd()({"measured": torch.ones(1, 8, 8, dtype=torch.complex64), "mask": torch.ones(1, 1, 8)})
    """

    def __init__(self, n_coils_out: int | None = None, n_calibration: int | None = None) -> None:
        self.n_coils_out = n_coils_out
        self.n_calibration = n_calibration

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``sens_maps``; see the class."""
        d = dict(data)
        measured = plain(d[names.MEASURED])
        mask = plain(d[names.MASK])
        n_coils, is_volume = measured.shape[0], measured.ndim == 4
        maps = estimate_sens_maps(slices_first(measured), slices_first(mask), self.n_calibration)
        d[names.SENS_MAPS] = slices_last(maps, is_volume)
        if self.n_coils_out is not None:
            if n_coils > self.n_coils_out:
                raise ValueError(
                    f"SensitivityMapsd: 'n_coils_out' must be at least the number of coils, got {self.n_coils_out} for "
                    f"{n_coils} coils; raise it (in a bundle: --n_coils {n_coils})"
                )
            extra = (0, 0) * (measured.ndim - 1) + (0, self.n_coils_out - n_coils)
            for key in (names.MEASURED, names.KSPACE, names.SENS_MAPS):
                if key in d:
                    d[key] = pad(plain(d[key]), extra)
        return d


class CoilCombined(Transform):
    """Combine coils: the zero-filled image of what was measured, and the reference of what was fully sampled.

    Reads ``measured`` and ``mask``, and ``kspace`` where there is a fully sampled one; writes ``zero_filled`` and
    ``reference``, complex64 ``(1, H, W[, S])``. Not invertible.

    Args:
        mode: ``"sense"``: the adjoint of the forward model, with ``sens_maps``; ``"rss"``: root sum of squares, the phase
            lost.

    Raises:
        ValueError: if ``mode`` is neither.

    Example:
        >>> CoilCombined("rss")({"measured": torch.ones(2, 4, 4, dtype=torch.complex64), "mask": torch.ones(1, 1, 4)})
    """

    def __init__(self, mode: str = "sense") -> None:
        if mode not in ("sense", "rss"):
            raise ValueError(f"CoilCombined: 'mode' must be 'sense' or 'rss', got {mode!r}")
        self.mode = mode

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the combined images; see the class."""
        d = dict(data)
        maps = plain(d[names.SENS_MAPS]) if self.mode == "sense" else None
        d[names.ZERO_FILLED] = self._combined(plain(d[names.MEASURED]), maps)
        if names.KSPACE in d:
            d[names.REFERENCE] = self._combined(plain(d[names.KSPACE]), maps)
        return d

    def _combined(self, kspace: Tensor, maps: Tensor | None) -> Tensor:
        slices = slices_first(kspace)
        if maps is not None:
            image = sense_adjoint(slices, None, slices_first(maps))
        else:
            coils = torch.stack([sense_adjoint(coil[:, None])[:, 0] for coil in slices.unbind(1)], 1)
            image = root_sum_of_squares(coils, keepdim=True).to(torch.complex64)
        return slices_last(image, kspace.ndim == 4)


class ScaleByPercentiled(Transform):
    """Find the brightness by which a network's input is divided.

    Reads ``zero_filled``; writes ``scale``, float32 0-dim, greater than 0. Not invertible.

    Args:
        percentile: of the magnitude, 0 to 100.

    Raises:
        ValueError: if ``percentile`` is out of range.

    Example:
        >>> ScaleByPercentiled()({"zero_filled": torch.ones(1, 4, 4, dtype=torch.complex64)})["scale"]
        tensor(1.)
    """

    def __init__(self, percentile: float = 99.5) -> None:
        if not 0 <= percentile <= 100:
            raise ValueError(f"ScaleByPercentiled: 'percentile' must be 0 to 100, got {percentile}")
        self.percentile = percentile

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``scale``; see the class."""
        d = dict(data)
        magnitude = plain(d[names.ZERO_FILLED]).abs()
        scale = float(np.percentile(magnitude.cpu().numpy(), self.percentile)) or float(magnitude.max()) or 1.0
        d[names.SCALE] = torch.tensor(scale, dtype=torch.float32)
        return d


class PackReconstructiond(Transform):
    """Pack what a reconstruction network takes and what it is compared with.

    Reads ``zero_filled``, ``mask``, ``scale``, ``sens_maps`` where they are, and ``reference`` where it is; writes
    ``image`` and, with a reference, ``label``; see :mod:`medkit.data.keys`. Inverted by :class:`UnpackReconstructiond`.

    Example:
        >>> sorted(PackReconstructiond()(sample))
        ['image', 'label', 'mask', 'reference', 'scale', 'sens_maps', 'zero_filled']
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``image`` and ``label``; see the class."""
        d = dict(data)
        scale = plain(d[names.SCALE])
        zero_filled = plain(d[names.ZERO_FILLED]) / scale
        maps = plain(d[names.SENS_MAPS]) if names.SENS_MAPS in d else None
        d[names.IMAGE] = pack_reconstruction(zero_filled, plain(d[names.MASK]), maps, channel_dim=0)
        if names.REFERENCE in d:
            d[names.LABEL] = pack_target(plain(d[names.REFERENCE]) / scale, zero_filled, channel_dim=0)
        return d


class UnpackReconstructiond(MapTransform):
    """Turn a network's result into a magnitude image in the unit of the measurement.

    Reads ``pred``, real ``(2, H, W[, S])``, and ``scale``; writes ``pred``, float32 ``(1, H, W[, S])``.

    Args:
        keys: keys of results.

    Example:
        >>> UnpackReconstructiond()({"pred": torch.ones(2, 4, 4), "scale": torch.tensor(3.0)})["pred"].shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, keys: KeysCollection = names.PRED) -> None:
        super().__init__(keys)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with magnitudes; see the class."""
        d = dict(data)
        for key in self.key_iterator(d):
            pred = plain(d[key]).float()
            d[key] = channels_to_magnitude(pred, 0) * plain(d[names.SCALE]).to(pred.device)
        return d
