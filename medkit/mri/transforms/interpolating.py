"""The transform that fills k-space by GRAPPA, for a network that leaves the image as it is."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.transforms import Transform
from tqdm import tqdm

from medkit.data import keys as names
from medkit.mri.channels import complex_to_channels
from medkit.mri.classical import grappa
from medkit.mri.physics import sense_adjoint
from medkit.mri.transforms.layout import checked_complex, plain, slices_first, slices_last
from medkit.workflow import is_shown


class Grappad(Transform):
    """Put the GRAPPA image in the place of the zero-filled one in what a network takes.

    GRAPPA needs the k-space of each coil, which a network's input no longer has: so it runs here, behind
    :class:`PackReconstructiond`, and :class:`ZeroFilled` in the network's place hands its image on. Reads
    ``measured``, ``mask`` and ``scale``; ``sens_maps`` where they are, by which the filled coils are combined as those
    of the reference are; and ``image``, of which it writes the first two channels anew. ``zero_filled`` stays, to
    compare with. Not invertible.

    Args:
        n_calibration: see :func:`grappa`, as for the others.
        kernel_size: rows and columns of the neighbourhood.
        weight: of the ridge.

    Raises:
        ValueError: on a call, if the mask has no fully sampled centre at least as large as the kernel, or a setting is
            out of its range.

    Example:
        >>> sample = {"measured": torch.ones(2, 8, 8) + 0j, "mask": torch.ones(1, 1, 8), "scale": torch.tensor(1.0)}
        >>> Grappad()({**sample, "image": torch.zeros(7, 8, 8), "sens_maps": torch.ones(2, 8, 8) + 0j})["image"].shape
        torch.Size([7, 8, 8])
    """

    def __init__(
        self, n_calibration: int | None = None, kernel_size: tuple[int, int] = (5, 5), weight: float = 0.01
    ) -> None:
        self.n_calibration = n_calibration
        self.kernel_size = kernel_size
        self.weight = weight

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with another ``image``; see the class."""
        d = dict(data)
        measured = checked_complex("Grappad", names.MEASURED, d[names.MEASURED])
        masks = slices_first(plain(d[names.MASK]))
        maps = slices_first(plain(d[names.SENS_MAPS])) if names.SENS_MAPS in d else None
        slices = slices_first(measured).split(1)  # one by one, as all their neighbourhoods at once take much memory
        filled = [
            grappa(kspace, masks[i if len(masks) > 1 else 0][None], self.n_calibration, self.kernel_size, self.weight)
            for i, kspace in enumerate(tqdm(slices, desc="GRAPPA", leave=False, delay=1, disable=not is_shown()))
        ]
        image = slices_last(sense_adjoint(torch.cat(filled), None, maps), measured.ndim == 4)
        packed = plain(d[names.IMAGE])
        restored = complex_to_channels(image / plain(d[names.SCALE]), 0)
        d[names.IMAGE] = torch.cat([restored.to(packed.dtype), packed[2:]])
        return d
