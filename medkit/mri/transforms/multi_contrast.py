"""Transforms between a target with its reference contrasts and what multi-contrast restoration takes and gives."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, Transform
from torch import Tensor

from medkit.data import keys as names
from medkit.mri.channels import channels_to_complex, channels_to_magnitude, complex_to_channels
from medkit.mri.mc_cdic import pack_multi_contrast
from medkit.mri.transforms.layout import check_finite, plain


class PackMultiContrastd(Transform):
    """Pack what multi-contrast restoration takes and what it is compared with.

    Reads ``zero_filled``, ``mask``, ``scale``, ``guide``, ``sens_maps`` where they are, and ``reference`` where it is
    (the fully sampled target); writes ``image`` and, with a ``reference``, ``label``; see :mod:`medkit.data.keys`.
    Inverted by :class:`UnpackMultiContrastd`.

    Args:
        percentile: each reference contrast is divided by this percentile of its magnitude, 0 to 100; where that is 0
            by its maximum, and by 1 where all is 0.
        use_guide: ``False`` hides the reference contrasts, all 0: what restoration without their help does.

    Raises:
        ValueError: if ``percentile`` is out of range; on a call, if ``guide`` is not real, not finite or of another
            size than the target.

    Example:
        >>> sample = {"zero_filled": torch.ones(1, 4, 4, dtype=torch.complex64), "scale": torch.tensor(2.0)}
        >>> sample |= {"mask": torch.ones(1, 1, 4), "guide": torch.ones(1, 4, 4)}
        >>> PackMultiContrastd()(sample)["image"].shape
        torch.Size([4, 4, 4])
    """

    def __init__(self, percentile: float = 99.5, use_guide: bool = True) -> None:
        if not 0 <= percentile <= 100:
            raise ValueError(f"PackMultiContrastd: 'percentile' must be 0 to 100, got {percentile}")
        self.percentile = percentile
        self.use_guide = use_guide

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``image`` and ``label``; see the class."""
        d = dict(data)
        scale = plain(d[names.SCALE])
        guide = plain(d[names.GUIDE])
        check_finite("PackMultiContrastd", names.GUIDE, guide)
        if not guide.is_complex() and guide.ndim > 1:
            guide = torch.stack([channel / self._brightness(channel) for channel in guide.to(torch.float32)])
        if not self.use_guide:
            guide = torch.zeros_like(guide)
        maps = plain(d[names.SENS_MAPS]) if names.SENS_MAPS in d else None
        zero_filled = plain(d[names.ZERO_FILLED]) / scale
        d[names.IMAGE] = pack_multi_contrast(zero_filled, plain(d[names.MASK]), guide, maps, channel_dim=0)
        if names.REFERENCE in d:
            d[names.LABEL] = torch.cat([complex_to_channels(plain(d[names.REFERENCE]) / scale, 0), guide]).float()
        return d

    def _brightness(self, channel: Tensor) -> float:
        magnitude = channel.abs().cpu().numpy()
        return float(np.percentile(magnitude, self.percentile)) or float(magnitude.max()) or 1.0


class UnpackMultiContrastd(MapTransform):
    """Turn the result of multi-contrast restoration into an image in the unit of the measurement, and into its parts.

    Reads ``pred``, real ``(6 + 3 n, H, W[, S])``, and ``scale``; writes ``pred``: the magnitude of the target, float32
    ``(1, H, W[, S])``; and ``unique`` and ``common``, float32 ``(1 + n, H, W[, S])``: what the unique and the common
    codes added to the target (the component that is in phase with the result) and to each reference, in the unit of the
    network.

    Args:
        keys: the key of the result: one.

    Raises:
        ValueError: if ``keys`` are several; on a call, if the result has not 6 + 3 n channels.

    Example:
        >>> sample = {"pred": torch.ones(9, 4, 4), "scale": torch.tensor(3.0)}
        >>> {key: tuple(value.shape) for key, value in UnpackMultiContrastd()(sample).items() if key != "scale"}
        {'pred': (1, 4, 4), 'unique': (2, 4, 4), 'common': (2, 4, 4)}
    """

    def __init__(self, keys: KeysCollection = names.PRED) -> None:
        super().__init__(keys)
        if len(self.keys) != 1:
            raise ValueError(f"UnpackMultiContrastd: 'keys' must be one key, got {self.keys}")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the image and its parts; see the class."""
        d = dict(data)
        for key in self.key_iterator(d):
            pred = plain(d[key]).float()
            n_guides, rest = divmod(pred.shape[0] - 6, 3)
            if rest or n_guides < 1 or pred.ndim not in (3, 4):
                raise ValueError(
                    f"UnpackMultiContrastd: '{key}' must be (6 + 3 n, H, W) or (6 + 3 n, H, W, S), got "
                    f"{tuple(pred.shape)}"
                )
            parts = torch.split(pred, [2, n_guides, 2, 2, n_guides, n_guides])
            target, _, unique, common, guide_unique, guide_common = parts
            magnitude = channels_to_magnitude(target, 0)
            phase = channels_to_complex(target, 0) / magnitude.clamp(min=torch.finfo(torch.float32).tiny)
            for name, own, others in ((names.UNIQUE, unique, guide_unique), (names.COMMON, common, guide_common)):
                d[name] = torch.cat([(channels_to_complex(own, 0) * phase.conj()).real, others])
            d[key] = magnitude * plain(d[names.SCALE]).to(pred.device)
        return d
