"""The transform that loads the reference contrasts of an exam, or of one slice of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from monai.utils import ensure_tuple
from torch import Tensor

from medkit.data import keys as names
from medkit.mri.coils import root_sum_of_squares
from medkit.mri.readers.acquisition import KSPACE, Acquisition
from medkit.mri.readers.grids import pair_fault
from medkit.mri.readers.layout import joined_axes
from medkit.mri.readers.loading import central_part, check_loader, opened_exam
from medkit.ops import centered_ifft


class LoadGuided(MapTransform):
    """Load the reference contrasts that guide the restoration of a target: the same slices of the same grid.

    Reads the path, or the paths, under ``guide``; ``i_slice`` where it is there; and ``path``, the target's, to see
    that both lie on one grid. Writes ``guide``: float32 ``(n, H, W[, S])``, one channel for each path, in the unit of
    its file; of k-space the root sum of squares over the coils. Not invertible.

    Args:
        keys: the key of the paths: one.
        key: as for :func:`open_acquisition`, like the other arguments.
        axes: names of the array's axes.
        slice_axis: for volumes, the axis that counts the slices.
        domain: ``"kspace"`` or ``"image"``.
        centred: whether the zero frequency of stored k-space is at index ``n // 2``.
        n_slices: of a whole exam, read only so many slices around the middle one; ``None``: all.

    Raises:
        ValueError: if ``keys`` are several; on a call, if a file cannot be read, does not lie on the grid of the
            target, or is under-sampled, or a volume holds nothing but zeros.
        FileNotFoundError: on a call, if there is no such file.

    Example:
        >>> LoadGuided()({"path": "a-T2.nii", "guide": ["a-PD.nii"], "i_slice": 7})["guide"].shape
        torch.Size([1, 256, 256])
    """

    def __init__(
        self,
        keys: KeysCollection = names.GUIDE,
        key: str | None = None,
        axes: str | Sequence[str] | None = None,
        slice_axis: int = 2,
        domain: str | None = None,
        centred: bool = True,
        n_slices: int | None = None,
    ) -> None:
        super().__init__(keys)
        check_loader("LoadGuided", self.keys, n_slices)
        self.n_slices = n_slices
        self.options = (key, joined_axes(axes), slice_axis, domain, centred)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the reference contrasts; see the class."""
        d = dict(data)
        for key in self.key_iterator(d):
            target = opened_exam(d[names.PATH], self.options) if names.PATH in d else None
            channels = []
            for path in ensure_tuple(d[key]):
                exam = opened_exam(path, self.options)
                fault = None if target is None else pair_fault(target, exam)
                if fault is not None:
                    raise ValueError(f"LoadGuided: {fault}")
                channels.append(self._image(exam, d.get(names.I_SLICE)))
            d[key] = torch.cat(channels)
        return d

    def _image(self, exam: Acquisition, i_slice: int | None) -> Tensor:
        """Magnitude (1, H, W[, S]) of a slice, or of the central slices."""
        if i_slice is not None:
            image = exam.read_slice(int(i_slice))
            mask = exam.mask_of(image) if exam.kind == KSPACE else None
        else:
            image, mask = exam.read_volume(*central_part(exam, self.n_slices)), exam.file_mask
            if not bool(image.any()):
                raise ValueError(f"LoadGuided: {exam.path} holds nothing but zeros; give another reference contrast")
        if exam.kind != KSPACE:
            return image
        if mask is not None:
            raise ValueError(
                f"LoadGuided: {exam.path} must be fully sampled to guide another contrast, it is under-sampled; "
                "reconstruct it first"
            )
        slices = image[None] if i_slice is not None else image.movedim(-1, 0)
        magnitude = root_sum_of_squares(centered_ifft(slices), keepdim=True)
        return magnitude[0] if i_slice is not None else magnitude.movedim(0, -1)


def read_through(path: str | Path, options: tuple[Any, ...]) -> None:
    """Read all slices of an exam once, so that a damaged one shows now; raises what reading raises."""
    exam = opened_exam(path, options)
    for i_slice in range(exam.n_slices):
        exam.read_slice(i_slice)
