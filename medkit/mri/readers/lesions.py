"""The transform that loads where the lesions of an exam, or of one slice of it, are: from a map or a table of boxes."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from medkit.data import keys as names
from medkit.mri.readers.acquisition import Acquisition
from medkit.mri.readers.boxes import map_of_boxes, read_boxes
from medkit.mri.readers.grids import pair_fault
from medkit.mri.readers.layout import joined_axes
from medkit.mri.readers.loading import central_part, check_loader, opened_exam

logger = logging.getLogger(__name__)


class LoadLesionsd(MapTransform):
    """Load the map of lesions of a target: the same slices of the same grid.

    Reads the path under ``lesions``, where there is one; ``path``, the target's, ``i_slice``, ``case`` and
    ``recon_size`` where they are there. Writes ``lesions``, uint8 ``(1, H, W[, S])``: 0 where no lesion is, otherwise
    the number in the file, 1 to 255. A sample without lesions passes unchanged. Not invertible.

    Instead of maps, ``boxes`` is a table with the columns ``file, slice, x, y, width, height, label`` in the style of
    fastMRI+, with a line for each box. ``file`` is the case's name, with or
    without the name of its one reference contrast behind it, or that of its file, ``slice`` the slice in the
    file, ``x`` the first column and ``y`` the first row of the box, counted from 0 in the image as it is reconstructed,
    cropped and stored: row 0 is at the top of the pictures of k-space, whose files tell no orientation. ``label`` is a
    number from 1 to 255, or a word, which the log numbers. Boxes of one label that touch, also from slice to slice, are
    one lesion.

    Args:
        keys: the key of the map: one.
        key: how the target is opened, as for :func:`open_acquisition`, like the other arguments.
        axes: names of the array's axes.
        slice_axis: for volumes, the axis that counts the slices; of the map too.
        domain: ``"kspace"`` or ``"image"``.
        centred: whether the zero frequency of stored k-space is at index ``n // 2``.
        n_slices: of a whole exam, read only so many slices around the middle one; ``None``: all.
        boxes: table of boxes, ``.csv``; maps are not read then.
        crop_to_recon: whether boxes count in the central ``recon_size``, where a case has it.

    Raises:
        FileNotFoundError: if there is no such table; on a call, if there is no such map.
        ValueError: if ``keys`` are several, or the table is wrong; on a call, if a map does not lie on the grid of the
            target or holds other numbers, or a box is not inside the image.

    Example:
        >>> LoadLesionsd()({"path": "a-T2.nii", "lesions": "a-seg.nii", "i_slice": 7})["lesions"].shape
        torch.Size([1, 256, 256])
    """

    def __init__(
        self,
        keys: KeysCollection = names.LESIONS,
        key: str | None = None,
        axes: str | Sequence[str] | None = None,
        slice_axis: int = 2,
        domain: str | None = None,
        centred: bool = True,
        n_slices: int | None = None,
        boxes: str | os.PathLike[str] | None = None,
        crop_to_recon: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        check_loader("LoadLesionsd", self.keys, n_slices)
        self.n_slices = n_slices
        self.crop_to_recon = crop_to_recon
        self.options = (key, joined_axes(axes), slice_axis, domain, centred)
        self.map_options = (None, None, slice_axis, None, True)
        self.boxes = None if boxes is None else read_boxes(boxes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with the map of lesions; see the class."""
        d = dict(data)
        target = opened_exam(d[names.PATH], self.options) if names.PATH in d else None
        if self.boxes is not None:
            for key in self.keys:
                d.pop(key, None)
                lesions = None if target is None else self._drawn(d, target)
                if lesions is not None:
                    d[key] = lesions
            return d
        for key in self.key_iterator(d):
            exam = opened_exam(d[key], self.map_options)
            fault = None if target is None else pair_fault(target, exam, can_align=False)
            if fault is not None:
                raise ValueError(f"LoadLesionsd: {fault}")
            d[key] = self._read(exam, d.get(names.I_SLICE))
        return d

    def _read(self, exam: Acquisition, i_slice: int | None) -> Tensor:
        """Map (1, H, W[, S]) of a slice, or of the central slices."""
        if i_slice is not None:
            stored = exam.read_slice(int(i_slice))
        else:
            stored = exam.read_volume(*central_part(exam, self.n_slices))
        labels = torch.zeros(stored.shape, dtype=torch.uint8) if stored.is_complex() else stored.to(torch.uint8)
        if not torch.equal(labels.to(stored.dtype), stored):
            raise ValueError(
                f"LoadLesionsd: {exam.path} must be a map of lesions, whole numbers from 0 to 255, it holds others; "
                "give another file, or rename it if it is no map"
            )
        return labels

    def _drawn(self, sample: Mapping[Hashable, Any], target: Acquisition) -> Tensor | None:
        """Map of the boxes of a sample; ``None`` if it has none."""
        case = str(sample.get(names.CASE, target.name))
        guides = sample.get(names.GUIDE_CONTRASTS, ())
        exam = case.removesuffix(f"_{guides[0]}") if len(guides) == 1 else case  # pair_list's each_guide
        tables = self.boxes or {}
        boxes = next((tables[name] for name in (case, exam, target.name) if name in tables), None)
        if boxes is None:
            if names.I_SLICE not in sample:
                logger.info("%s has no boxes: none names %s or %s", case, exam, target.name)
            return None
        is_cropped = self.crop_to_recon and names.RECON_SIZE in sample
        height, width = [int(n) for n in sample[names.RECON_SIZE]] if is_cropped else target.shape
        labels = map_of_boxes(boxes, (height, width, target.n_slices), target.shape, case)
        if names.I_SLICE in sample:
            return labels[..., int(sample[names.I_SLICE])]
        first, n_slices = central_part(target, self.n_slices)
        return labels[..., first : first + n_slices]
