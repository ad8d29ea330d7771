"""Transforms between measured k-space and what a network takes and gives."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from torch import Tensor
from torch.nn.functional import pad

from medkit.data import keys as names
from medkit.mri.channels import (
    channels_to_complex,
    channels_to_magnitude,
    check_target,
    complex_to_channels,
    pack_reconstruction,
    pack_target,
)
from medkit.mri.coils import estimate_sens_maps, root_sum_of_squares, with_object_phase
from medkit.mri.espirit import espirit_maps
from medkit.mri.physics import sense_adjoint
from medkit.mri.transforms.layout import checked_complex, plain, slices_first, slices_last
from medkit.ops import centered_ifft

logger = logging.getLogger(__name__)

MAX_LOST = 0.05  # part of the signal's energy that maps may leave out without a warning


class SensitivityMapsd(Transform):
    """Estimate coil sensitivities from the fully sampled centre of what was measured, slice by slice.

    Reads ``measured`` and ``mask``; writes ``sens_maps``, complex64 ``(coil, H, W[, S])``. A sample that has
    ``sens_maps`` already keeps them. Not invertible.

    Args:
        mode: ``"estimate"``, see :func:`estimate_sens_maps`; ``"espirit"``, see :func:`espirit_maps`, one set, ones for
            one coil, with a warning where they leave out much of the signal; ``"none"``: no maps, for data of one
            coil, so that ``image`` has no channels for them; ``"auto"``: none for one coil, unless ``n_coils_out`` is
            given, otherwise estimated.
        n_coils_out: give every sample so many coils, so that samples of different scanners form a batch: missing coils
            are added to ``measured``, ``kspace`` and ``sens_maps`` as zeros. ``None``: leave them as they are.
        n_calibration: use at most so many central lines; ``None``: all that the mask samples, in mode ``"espirit"`` 24
            along each axis.
        object_phase: whether the maps carry the phase of the object too, see :func:`with_object_phase`, so that the
            combined image is nearly real; one coil then has a map in mode ``"auto"`` as well.

    Raises:
        ValueError: if ``mode`` is unknown; on a call, if there are more coils than ``n_coils_out``, several in mode
            ``"none"``, or fewer than 4 central lines (6 in mode ``"espirit"``).

    Example:
        >>> sample = {"measured": torch.ones(2, 8, 8, dtype=torch.complex64), "mask": torch.ones(1, 1, 8)}
        >>> SensitivityMapsd(n_coils_out=4)(sample)["sens_maps"].shape
        torch.Size([4, 8, 8])
    """

    def __init__(
        self,
        mode: str = "estimate",
        n_coils_out: int | None = None,
        n_calibration: int | None = None,
        object_phase: bool = False,
    ) -> None:
        if mode not in ("estimate", "espirit", "none", "auto"):
            raise ValueError(f"SensitivityMapsd: 'mode' must be 'estimate', 'espirit', 'none' or 'auto', got {mode!r}")
        self.mode = mode
        self.n_coils_out = n_coils_out
        self.n_calibration = n_calibration
        self.object_phase = object_phase

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``sens_maps``; see the class."""
        d = dict(data)
        measured = checked_complex("SensitivityMapsd", names.MEASURED, d[names.MEASURED])
        n_coils = measured.shape[0]
        is_plain = n_coils == 1 and self.n_coils_out is None and not self.object_phase
        if self.mode == "none" or (self.mode == "auto" and is_plain):
            if n_coils > 1:
                raise ValueError(f"SensitivityMapsd: mode 'none' is for one coil, got {n_coils}; use 'estimate'")
            return d
        if names.SENS_MAPS not in d:
            exam = f" of {d[names.PATH]}" if names.PATH in d else f" of {d[names.CASE]}" if names.CASE in d else ""
            slices = slices_first(measured)
            try:
                maps = self._estimated(slices, slices_first(plain(d[names.MASK])))
            except ValueError as error:
                raise ValueError(f"SensitivityMapsd: no maps{exam}: {error}") from error
            if self.mode == "espirit" and n_coils > 1:
                _warn_of_holes(exam, slices, maps)
            d[names.SENS_MAPS] = slices_last(maps, measured.ndim == 4)
        if self.n_coils_out is not None:
            if n_coils > self.n_coils_out:
                exam = f" of {d[names.PATH]}" if names.PATH in d else ""
                raise ValueError(
                    f"SensitivityMapsd: 'n_coils_out' must be at least the number of coils, got {self.n_coils_out} for "
                    f"{n_coils} coils{exam}; raise it (in a bundle: --n_coils {n_coils})"
                )
            for key in (names.MEASURED, names.KSPACE, names.SENS_MAPS):
                if key in d:
                    coils = plain(d[key])
                    d[key] = pad(coils, (0, 0) * (coils.ndim - 1) + (0, self.n_coils_out - coils.shape[0]))
        return d

    def _estimated(self, measured: Tensor, mask: Tensor) -> Tensor:
        if self.mode != "espirit" or measured.shape[1] == 1:
            maps = estimate_sens_maps(measured, mask, self.n_calibration)
        else:
            sets, _ = espirit_maps(measured, mask, 24 if self.n_calibration is None else self.n_calibration)
            maps = sets[:, 0]
        return with_object_phase(maps, measured, mask, self.n_calibration) if self.object_phase else maps


def _warn_of_holes(exam: str, measured: Tensor, maps: Tensor) -> None:
    """Warn where ESPIRiT's maps are 0 at much of the signal, which the combined image, and the reference, then lack."""
    energy = centered_ifft(measured).abs().square().sum(1)
    lost = float(energy[~maps.any(1)].sum() / energy.sum().clamp(min=torch.finfo(energy.dtype).tiny))
    if lost > MAX_LOST:
        logger.warning(
            "The ESPIRiT maps%s are 0 where %.0f %% of the signal lies, which images and reference then lack: its "
            "fully sampled centre is too small or noisy; sample more of it (center_fractions), or take 'estimate'",
            exam,
            100 * lost,
        )


class CoilCombined(Transform):
    """Combine coils: the zero-filled image of what was measured, and the reference of what was fully sampled.

    Reads ``measured``, ``kspace`` where there is a fully sampled one, and ``sens_maps``, which data of one coil may
    lack; writes ``zero_filled`` and, with ``kspace``, ``reference``, complex64 ``(1, H, W[, S])``. Not invertible.

    Args:
        mode: ``"sense"``: the adjoint of the forward model, with the maps; ``"rss"``: root sum of squares, a magnitude
            without phase that no forward model explains.
        target: how ``reference`` is combined, ``"sense"`` or ``"rss"``; ``None``: as ``mode``. The root sum of squares
            is what fastMRI compares with: of networks whose ``zero_filled`` is combined by maps, the magnitude.

    Raises:
        ValueError: if ``mode`` or ``target`` is unknown; on a call, if k-space and maps do not fit together.

    Example:
        >>> CoilCombined("rss")({"measured": torch.ones(2, 4, 4, dtype=torch.complex64)})["zero_filled"].shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, mode: str = "sense", target: str | None = None) -> None:
        if mode not in ("sense", "rss"):
            raise ValueError(f"CoilCombined: 'mode' must be 'sense' or 'rss', got {mode!r}")
        check_target("CoilCombined", mode if target is None else target)
        self.mode = mode
        self.target = mode if target is None else target

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the combined images; see the class."""
        d = dict(data)
        maps = slices_first(plain(d[names.SENS_MAPS])) if names.SENS_MAPS in d else None
        for key, combined, mode in (
            (names.MEASURED, names.ZERO_FILLED, self.mode),
            (names.KSPACE, names.REFERENCE, self.target),
        ):
            if key == names.KSPACE and key not in d:
                continue
            kspace = plain(d[key])
            if mode == "sense":
                image = sense_adjoint(slices_first(kspace), None, maps)
            else:
                image = root_sum_of_squares(centered_ifft(slices_first(kspace)), keepdim=True).to(kspace.dtype)
            d[combined] = slices_last(image, kspace.ndim == 4)
        return d


class ScaleByPercentiled(Transform):
    """Find the brightness by which a network's input is divided: one number for a slice or a volume.

    Reads ``zero_filled``; writes ``scale``, float32 0-dim, greater than 0. Where the percentile is 0 the maximum takes
    its place, and 1 where all is 0. Not invertible.

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
        zero_filled = plain(d[names.ZERO_FILLED])
        magnitude = zero_filled.abs().cpu().numpy()
        scale = float(np.percentile(magnitude, self.percentile)) or float(magnitude.max()) or 1.0
        d[names.SCALE] = torch.tensor(scale, dtype=torch.float32, device=zero_filled.device)
        return d


class PackReconstructiond(Transform):
    """Pack what a reconstruction network takes and what it is compared with.

    Reads ``zero_filled``, ``mask``, ``scale``, ``sens_maps`` where they are, and ``reference`` where it is; writes
    ``image`` and, with a reference, ``label``; see :mod:`medkit.data.keys`. Inverted by :class:`UnpackReconstructiond`.

    Args:
        coil_images: write the zero-filled image of each coil, of ``measured``, in the place of the sensitivities: for
            networks that estimate those themselves, such as :class:`PackedVarNet`.

    Example:
        >>> sample = {"zero_filled": torch.ones(1, 4, 4, dtype=torch.complex64), "scale": torch.tensor(2.0)}
        >>> PackReconstructiond()({**sample, "mask": torch.ones(1, 1, 4)})["image"].shape
        torch.Size([3, 4, 4])
    """

    def __init__(self, coil_images: bool = False) -> None:
        self.coil_images = coil_images

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``image`` and ``label``; see the class."""
        d = dict(data)
        scale = plain(d[names.SCALE])
        zero_filled = plain(d[names.ZERO_FILLED]) / scale
        coils = plain(d[names.SENS_MAPS]) if names.SENS_MAPS in d else None
        if self.coil_images:
            measured = plain(d[names.MEASURED])
            coils = slices_last(centered_ifft(slices_first(measured)), measured.ndim == 4) / scale
        d[names.IMAGE] = pack_reconstruction(zero_filled, plain(d[names.MASK]), coils, channel_dim=0)
        if names.REFERENCE in d:
            d[names.LABEL] = pack_target(plain(d[names.REFERENCE]) / scale, zero_filled, channel_dim=0)
        return d


class UnpackReconstructiond(MapTransform):
    """Turn a network's result into an image in the unit of the measurement.

    Reads ``pred``, real ``(2, H, W[, S])``, and ``scale``; writes ``pred``: the magnitude, float32 ``(1, H, W[, S])``,
    or the complex image, complex64, same shape.

    Args:
        keys: keys of results.
        output: ``"magnitude"`` or ``"complex"``.

    Raises:
        ValueError: if ``output`` is unknown; on a call, if a result has not two channels.

    Example:
        >>> UnpackReconstructiond()({"pred": torch.ones(2, 4, 4), "scale": torch.tensor(3.0)})["pred"].shape
        torch.Size([1, 4, 4])
    """

    def __init__(self, keys: KeysCollection = names.PRED, output: str = "magnitude") -> None:
        super().__init__(keys)
        if output not in ("magnitude", "complex"):
            raise ValueError(f"UnpackReconstructiond: 'output' must be 'magnitude' or 'complex', got {output!r}")
        self.convert = channels_to_magnitude if output == "magnitude" else channels_to_complex

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with images; see the class."""
        d = dict(data)
        for key in self.key_iterator(d):
            pred = plain(d[key]).float()
            d[key] = self.convert(pred, 0) * plain(d[names.SCALE]).to(pred.device)
        return d


class ComplexToChannelsd(MapTransform):
    """Write complex channels as pairs of real ones, in place; inverted by :class:`ChannelsToComplexd`.

    Reads and writes ``keys``: complex ``(C, *S)`` to real ``(2 C, *S)``, Re 1, Im 1, Re 2, ...

    Args:
        keys: keys of complex data.
        allow_missing_keys: whether a sample without a key passes.

    Example:
        >>> ComplexToChannelsd("coils")({"coils": torch.ones(1, 4, 4, dtype=torch.complex64)})["coils"].shape
        torch.Size([2, 4, 4])
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with real channels; see the class."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = complex_to_channels(plain(d[key]), 0)
        return d


class ChannelsToComplexd(MapTransform):
    """Read pairs of real channels as complex ones, in place; inverted by :class:`ComplexToChannelsd`.

    Reads and writes ``keys``: real ``(2 C, *S)`` to complex ``(C, *S)``.

    Args:
        keys: keys of real data with an even number of channels.
        allow_missing_keys: whether a sample without a key passes.

    Example:
        >>> ChannelsToComplexd("pred")({"pred": torch.ones(2, 4, 4)})["pred"].shape
        torch.Size([1, 4, 4])
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with complex channels; see the class."""
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = channels_to_complex(plain(d[key]), 0)
        return d
