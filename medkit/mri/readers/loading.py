"""The transform that loads an exam, or one slice of it, into a dictionary."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform

from medkit.data import keys as names
from medkit.mri.readers.acquisition import KSPACE, Acquisition, check_fully_sampled
from medkit.mri.readers.caching import EXAMS
from medkit.mri.readers.ismrmrd_header import recon_size
from medkit.mri.readers.layout import joined_axes
from medkit.mri.readers.opening import open_acquisition

logger = logging.getLogger(__name__)


class LoadAcquisitiond(MapTransform):
    """Load a slice, or the whole exam, of the file that a key names.

    Reads ``path`` (the key that ``keys`` says) and, where it is there, ``i_slice``: with it one slice is read from
    disk, without it the whole exam. Writes, of the keys of :mod:`medkit.data.keys`:

    * ``kspace`` complex64 ``(coil, H, W[, S])``, or ``magnitude`` float32 ``(1, H, W[, S])``, as the file holds;
    * ``case``, the file's name without suffixes, unless it is there already;
    * ``affine`` float64 ``(4, 4)``, voxel ``(row, column, slice)`` to RAS mm, of the slice or of the exam;
    * ``space_code`` int, NIfTI's code of the space that ``affine`` leads to; 0 where the orientation is unknown;
    * ``recon_size`` int64 ``(2,)``, only if the file tells that the scanner cuts over-sampling off;
    * ``mask`` bool ``(1, 1 or H, W[, 1])``, only if the exam itself is under-sampled;
    * ``noise`` complex64 ``(coil, samples)``, only if the file has a scan of noise, for :class:`PrewhitenKspaced`.

    Not invertible. Handles stay open in each worker for the next item, and are never carried to another process.

    Args:
        keys: the key of the path: one.
        key: as for :func:`open_acquisition`, like the other arguments.
        axes: names of the array's axes.
        slice_axis: for volumes, the axis that counts the slices.
        domain: ``"kspace"`` or ``"image"``.
        centred: whether the zero frequency of stored k-space is at index ``n // 2``.
        n_slices: of a whole exam, read only so many slices around the middle one; ``None``: all.
        allow_missing_keys: whether a dictionary without the key passes unchanged.
        fully_sampled: whether an exam that the scanner under-sampled is refused: there is nothing to train on.

    Raises:
        ValueError: if ``keys`` are several; on a call, if the file cannot be read, see :func:`open_acquisition`, or is
            under-sampled and must not be.
        FileNotFoundError: on a call, if there is no such file.

    Example:
        >>> LoadAcquisitiond()({"path": "file1000001.h5", "i_slice": 7})["kspace"].shape
        torch.Size([16, 640, 368])
    """

    def __init__(
        self,
        keys: KeysCollection = names.PATH,
        key: str | None = None,
        axes: str | Sequence[str] | None = None,
        slice_axis: int = 2,
        domain: str | None = None,
        centred: bool = True,
        n_slices: int | None = None,
        allow_missing_keys: bool = False,
        fully_sampled: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        check_loader("LoadAcquisitiond", self.keys, n_slices)
        self.n_slices = n_slices
        self.fully_sampled = fully_sampled
        self.options = (key, joined_axes(axes), slice_axis, domain, centred)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return a copy of ``data`` with what was read; see the class."""
        d = dict(data)
        for path in self.key_iterator(d):
            exam = opened_exam(d[path], self.options)
            if names.I_SLICE in d:
                i_slice = int(d[names.I_SLICE])
                image = exam.read_slice(i_slice)
                affine = exam.slice_affine(i_slice)
                mask = exam.mask_of(image) if exam.kind == KSPACE else None
                if mask is None and exam.kind == KSPACE and not bool(image[0].any()) and not bool(image.any()):
                    mask = exam.file_mask  # an empty slice tells nothing of how it was sampled
            else:
                first, n_slices = central_part(exam, self.n_slices)
                image = exam.read_volume(first, n_slices)
                affine, mask = exam.slice_affine(first), exam.volume_mask(image)
                mask = None if mask is None else mask[..., None]
            if self.fully_sampled:
                check_fully_sampled(exam, mask)
            d[names.KSPACE if exam.kind == KSPACE else names.MAGNITUDE] = image
            d[names.AFFINE] = torch.from_numpy(affine.copy())
            d[names.SPACE_CODE] = exam.space_code
            d.setdefault(names.CASE, exam.name)
            size = recon_size(exam.header, exam.shape) if exam.holds_kspace else None
            if size is not None:
                d[names.RECON_SIZE] = torch.tensor(size)
            if mask is not None:
                d[names.MASK] = mask.clone()
            try:
                noise = exam.read_noise()
            except ValueError as error:
                # Only prewhitening needs it, and says so where it is missing.
                logger.warning("%s goes on without its noise scan: %s", exam.path, error)
                noise = None
            if noise is not None:
                d[names.NOISE] = noise
        return d


def central_part(exam: Acquisition, n_slices: int | None) -> tuple[int, int]:
    """Return the first and the number of so many slices around the middle one; ``None``: of all."""
    n_slices = exam.n_slices if n_slices is None else min(n_slices, exam.n_slices)
    return (exam.n_slices - n_slices) // 2, n_slices


def check_loader(name: str, keys: Sequence[Hashable], n_slices: int | None) -> None:
    """Raise ``ValueError`` in the name of a transform that loads, if its arguments are out of their range."""
    if len(keys) != 1:
        raise ValueError(f"{name}: 'keys' must be one key of a path, got {tuple(keys)}; use one transform each")
    if n_slices is not None and n_slices < 1:
        raise ValueError(f"{name}: 'n_slices' must be at least 1 or None, got {n_slices}")


def opened_exam(path: Any, options: tuple[Any, ...]) -> Acquisition:
    """Return an exam opened with the options of :func:`open_acquisition`, the same object until its file changes."""
    file = Path(path)
    if not file.is_file():
        return open_acquisition(file, *options)  # raises, with the reason
    return EXAMS.get(file, options, lambda: open_acquisition(file, *options))
