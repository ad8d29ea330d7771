"""Self-supervision by data under-sampling: part of what was measured is held back, to compare with.

Source: Yaman et al. 2020, doi:10.1002/mrm.28378 (SSDU).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms import Randomizable, Transform

from medkit.data import keys as names
from medkit.data.seeding import generator_of
from medkit.mri.calibration import centre_start
from medkit.mri.masks.base import choose
from medkit.mri.self_supervision import pack_held
from medkit.mri.transforms.layout import checked_complex, plain


class SplitMeasuredd(Randomizable, Transform):
    """Split the samples of an exam in two: those to reconstruct from, and those held back for the loss.

    Reads ``measured`` and ``mask``; writes ``measured`` and ``mask``, the part to reconstruct from, and
    ``held_measured`` and ``held_mask``, the part held back. The masks are bool ``(1, H, W[, 1])``, disjoint, and
    together exactly the mask that came in; all slices of a volume are split alike. ``kspace``, of which a
    self-supervised training knows nothing, is left as it is. Sensitivity maps need the whole centre: estimate them
    before. Not invertible.

    Args:
        fraction: part of the samples held back, 0 to 1, both excluded.
        n_center: rows and columns of the centre that is never held back.
        density: ``"gaussian"``: the nearer to the centre the likelier held back, as in the paper; ``"uniform"``.
        std: standard deviation of the Gaussian density along each axis, as a part of its size.
        seed_key: key of a name by which the split is fixed; ``None``: a new one for each sample, from ``self.R``.
        seed: with ``seed_key``, another seed gives other splits.

    Raises:
        ValueError: if an argument is out of its range; on a call, if mask and k-space do not fit, or so few samples lie
            outside the centre that a part would be empty.

    Example:
        >>> sample = {"measured": torch.ones(1, 16, 16, dtype=torch.complex64), "mask": torch.ones(1, 1, 16)}
        >>> SplitMeasuredd(0.25)(sample)["held_mask"].sum()
        tensor(64)
    """

    def __init__(
        self,
        fraction: float = 0.4,
        n_center: int = 4,
        density: str = "gaussian",
        std: float = 0.25,
        seed_key: str | None = None,
        seed: int = 0,
    ) -> None:
        if not 0 < fraction < 1:
            raise ValueError(f"SplitMeasuredd: 'fraction' must lie between 0 and 1, got {fraction}")
        if n_center < 0:
            raise ValueError(f"SplitMeasuredd: 'n_center' must be at least 0, got {n_center}")
        if density not in ("gaussian", "uniform"):
            raise ValueError(f"SplitMeasuredd: 'density' must be 'gaussian' or 'uniform', got {density!r}")
        if not 0 < std < math.inf:
            raise ValueError(f"SplitMeasuredd: 'std' must be positive, got {std}")
        self.fraction = fraction
        self.n_center = n_center
        self.density = density
        self.std = std
        self.seed_key = seed_key
        self.seed = seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with both parts; see the class."""
        d = dict(data)
        measured = checked_complex("SplitMeasuredd", names.MEASURED, d[names.MEASURED])
        mask = plain(d[names.MASK]).to(torch.bool)
        height, width = measured.shape[1:3]
        if mask.ndim != measured.ndim or tuple(mask.shape[1:3]) not in ((1, width), (height, width)):
            raise ValueError(
                f"SplitMeasuredd: 'mask' must be (1, 1 or H, W) for 'measured' {tuple(measured.shape)}, got "
                f"{tuple(mask.shape)}"
            )
        full = mask.reshape(mask.shape[1:3]).expand(height, width)
        held = torch.from_numpy(self._held(full.cpu().numpy(), d)).to(full.device)
        parts = {names.MASK: full & ~held, names.HELD_MASK: held}
        for key, part in parts.items():
            d[key] = part.reshape(1, height, width, *(1,) * (measured.ndim - 3))
        d[names.HELD_MEASURED] = measured * d[names.HELD_MASK]
        d[names.MEASURED] = measured * d[names.MASK]
        return d

    def _held(self, mask: np.ndarray, data: Mapping[Hashable, Any]) -> np.ndarray:
        """Bool (H, W): the samples held back."""
        free = mask.copy()
        inner = tuple(
            slice(centre_start(n, m), centre_start(n, m) + m) for n in mask.shape for m in [min(n, self.n_center)]
        )
        free[inner] = False
        n_held = round(self.fraction * int(mask.sum()))
        if not 0 < n_held <= int(free.sum()):
            exam = f" of {data[names.PATH]}" if names.PATH in data else ""
            raise ValueError(
                f"SplitMeasuredd: {n_held} of {int(mask.sum())} samples{exam} are to be held back, and "
                f"{int(free.sum())} lie outside the centre of {self.n_center}; change 'fraction' or 'n_center' (in a "
                "bundle: --held_fraction, or --val_held_fraction and --val_center)"
            )
        log_weight = np.zeros(mask.shape)
        if self.density == "gaussian":
            row, column = (-0.5 * ((np.arange(n) - n // 2) / (n * self.std)) ** 2 for n in mask.shape)
            log_weight = row[:, None] + column[None, :]
        rng = generator_of(self.R, data, self.seed_key, self.seed, "SplitMeasuredd")
        held = np.zeros(mask.shape, dtype=bool)
        held.flat[choose(np.where(free, log_weight, -np.inf), n_held, rng)] = True
        return held


class PackHeldd(Transform):
    """Pack the samples held back as what a network is compared with, in place of a fully sampled image.

    Reads ``held_measured``, ``held_mask``, ``scale``, and ``sens_maps`` where they are; writes ``label``, see
    :func:`pack_held`, for :class:`SelfSupervisedLoss` and :class:`VolumeHeldResidual`. Belongs behind
    :class:`PackReconstructiond`, whose ``label`` it replaces. Not invertible.

    Raises:
        ValueError: on a call, if nothing was held back, or the parts do not fit together.

    Example:
        >>> kspace, mask = torch.ones(1, 4, 4, dtype=torch.complex64), torch.ones(1, 4, 4)
        >>> PackHeldd()({"held_measured": kspace, "held_mask": mask, "scale": torch.tensor(2.0)})["label"].shape
        torch.Size([3, 4, 4])
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with ``label``; see the class."""
        d = dict(data)
        if names.HELD_MASK not in d or names.HELD_MEASURED not in d:
            raise ValueError(
                f"PackHeldd: '{names.HELD_MASK}' and '{names.HELD_MEASURED}' must be keys of the sample, it has "
                f"{sorted(map(str, d))}; put SplitMeasuredd before"
            )
        held = checked_complex("PackHeldd", names.HELD_MEASURED, d[names.HELD_MEASURED])
        mask = plain(d[names.HELD_MASK])
        if not bool(mask.any()):
            raise ValueError(
                f"PackHeldd: '{names.HELD_MASK}' must hold samples back, it is false everywhere; raise the 'fraction' "
                "of SplitMeasuredd"
            )
        maps = plain(d[names.SENS_MAPS]) if names.SENS_MAPS in d else None
        d[names.LABEL] = pack_held(held / plain(d[names.SCALE]), mask, maps, channel_dim=0)
        return d
