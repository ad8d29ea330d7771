"""An exam on disk: its header facts at once, its samples slice by slice."""

from __future__ import annotations

import logging
import math
import operator
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medkit.mri.readers.domain import looks_like_image
from medkit.mri.readers.sampling import find_mask
from medkit.ops import centered_fft

logger = logging.getLogger(__name__)

KSPACE, MAGNITUDE = "kspace", "magnitude"
# A corner of k-space this many times stronger than its centre: the zero frequency lies at index 0.
CORNER_RATIO = 10.0
# So many slices are looked at for whether they hold k-space, where the first ones do not tell.
MAX_LOOKS = 8


@dataclass(eq=False)
class Acquisition:
    """One exam in a file. Opening it reads the header alone; :meth:`read_slice` reads one slice and nothing else.

    It holds a path, never a handle: it can be pickled, and used in the workers of a ``DataLoader`` (see ``caching``).
    Get one from :func:`open_acquisition`.

    Args:
        path: the file.
        name: its name without suffixes, for tables and results.
        kind: ``"kspace"`` (complex, with coils) or ``"magnitude"`` (real image).
        n_slices: number of slices.
        n_coils: number of coils; 1 for a magnitude image.
        shape: height and width of a slice, in samples.
        affine: ``(4, 4)`` float64, voxel indices ``(row, column, slice)`` to RAS millimetres. Without geometry in the
            file, the identity: voxels of 1 mm.
        has_geometry: whether ``affine``, or at least its spacing, comes from the file; HDF5 tells no orientation.
        space_code: NIfTI's code of the space that ``affine`` leads to: 0 unknown (only the spacing counts), 1 scanner,
            2 aligned, 3 Talairach, 4 MNI, 5 another template.
        header: other facts of the file by name (``acquisition``, ``patient_id``, ``recon_matrix``, ...).
        centred: whether the zero frequency of the stored k-space lies at index ``n // 2``. Otherwise it lies at index
            0, as ``numpy.fft.fft2`` of an image leaves it and Calgary-Campinas stores it, and is moved on reading.
        is_complex_image: whether the file holds complex images, of which k-space is computed on reading.
        is_domain_given: whether the caller said so; otherwise complex data are k-space, and refused on reading where
            they look like an image.
        n_frames: time frames of each place, which count as slices: all of the first place, then of the next.
        mask_may_differ: whether slices may be sampled differently.
    """

    path: Path
    name: str
    kind: str
    n_slices: int
    n_coils: int
    shape: tuple[int, int]
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    has_geometry: bool = False
    space_code: int = 0
    header: dict[str, Any] = field(default_factory=dict)
    centred: bool = True
    is_complex_image: bool = False
    is_domain_given: bool = False
    n_frames: int = 1
    mask_may_differ: bool = False

    @property
    def file_mask(self) -> Tensor | None:
        """Sampling mask of an under-sampled exam, bool ``(1, 1 or H, W)``, true where measured; else ``None``.

        The ``mask`` that is stored in the file, else what the zeros of the middle slice tell (:func:`find_mask`).
        Worked out once, at first use.
        """
        if "_file_mask" not in self.__dict__:
            self.__dict__["_file_mask"] = self.mask_of(None)
        return self.__dict__["_file_mask"]

    @property
    def stored_mask(self) -> Tensor | None:
        """Sampling mask that the file itself tells, as :attr:`file_mask`, but also one that is true everywhere."""
        if "_stored" not in self.__dict__:
            self.__dict__["_stored"] = self._stored_mask() if self.holds_kspace else None
        return self.__dict__["_stored"]

    @property
    def holds_kspace(self) -> bool:
        """Whether the file holds k-space, not images."""
        return self.kind == KSPACE and not self.is_complex_image

    def mask_of(self, kspace: Tensor | None) -> Tensor | None:
        """Return the sampling mask of a slice that was read, without reading another one.

        Args:
            kspace: what :meth:`read_slice` returned; ``None`` for the middle slice.

        Returns:
            Bool ``(1, 1 or H, W)`` or ``None``, see :attr:`file_mask`.

        Raises:
            ValueError: if the mask in the file does not fit its k-space.
        """
        if not self.holds_kspace:
            return None
        mask = self.stored_mask
        if mask is None:
            mask = find_mask(self.read_slice(self.n_slices // 2) if kspace is None else kspace)
        return None if mask is None or bool(mask.all()) else mask

    def volume_mask(self, volume: Tensor) -> Tensor | None:
        """Return the one sampling mask of slices that were read together.

        Args:
            volume: what :meth:`read_volume` returned.

        Returns:
            Bool ``(1, 1 or H, W)`` or ``None``, see :attr:`file_mask`.

        Raises:
            ValueError: if slices are sampled differently.
        """
        mask = self.file_mask
        if self.mask_may_differ and self.holds_kspace and self.stored_mask is None:
            for kspace in volume.unbind(-1):
                other = self.mask_of(kspace.contiguous())
                is_same = other is mask or (other is not None and mask is not None and torch.equal(other, mask))
                if not is_same and bool(kspace.any()):
                    raise ValueError(
                        f"volume_mask: the slices of {self.path} are sampled differently; load them one by one, listed "
                        "by acquisition_list(per='slice')"
                    )
        return mask

    def read_noise(self) -> Tensor | None:
        """Read the scan of noise that comes with the exam, for :func:`medkit.mri.noise_covariance`.

        Returns:
            Complex64 ``(coil, samples)``, of the strength that noise has in the exam's k-space; ``None`` without one.

        Raises:
            ValueError: if it cannot be read, is not finite or has other coils than the exam.
        """
        return None

    def slice_affine(self, i_slice: int) -> np.ndarray:
        """Return the affine of one slice, ``(4, 4)`` float64: voxel ``(row, column, 0)`` to RAS millimetres."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, 2] * (self._index(i_slice) // self.n_frames)
        return affine

    def read_slice(self, i_slice: int) -> Tensor:
        """Read one slice.

        Args:
            i_slice: index of the slice, 0 to ``n_slices - 1``.

        Returns:
            K-space, complex64 ``(coil, H, W)``, centred; or a magnitude image, float32 ``(1, H, W)``. The unit is the
            file's. The tensor owns its memory.

        Raises:
            ValueError: if there is no such slice, it cannot be read, it holds NaN or infinite values, or it was taken
                for k-space and looks like an image.
        """
        i_slice = self._index(i_slice)
        where = f"slice {i_slice} of {self.path}"
        with readable(where):
            array = self._read(i_slice)
        return self._to_tensor(array, where)

    def read_volume(self, first: int = 0, n_slices: int | None = None) -> Tensor:
        """Read all slices, or some that follow one another.

        Args:
            first: index of the first slice.
            n_slices: how many; ``None`` for all from ``first`` on.

        Returns:
            ``(coil, H, W, S)`` complex64 or ``(1, H, W, S)`` float32, see :meth:`read_slice`. Each slice lies together
            in memory, as the file has it: the tensor is a view with the slices moved last.

        Raises:
            ValueError: as :meth:`read_slice`.
        """
        first = self._index(first)
        n_slices = self.n_slices - first if n_slices is None else n_slices
        if not 1 <= n_slices <= self.n_slices - first:
            raise ValueError(
                f"read_volume: 'n_slices' must be 1 to {self.n_slices - first} from slice {first} of {self.path}, got "
                f"{n_slices}"
            )
        with readable(f"slices {first} to {first + n_slices - 1} of {self.path}"):
            stack = self._read_stack(first, n_slices)
        if stack is None:
            dtype = torch.complex64 if self.kind == KSPACE else torch.float32
            slices = torch.empty((n_slices, self.n_coils, *self.shape), dtype=dtype)
            for i in range(n_slices):
                slices[i] = self.read_slice(first + i)
        else:
            slices = torch.from_numpy(stack)
            for i in range(n_slices):
                part = self._to_tensor(stack[i], f"slice {first + i} of {self.path}")
                if part.data_ptr() != slices[i].data_ptr():
                    slices[i] = part
        return slices.movedim(0, -1)

    def _read(self, i_slice: int) -> np.ndarray:
        """Read a slice as stored: an array of its own, complex64 ``(coil, H, W)`` or float32 ``(1, H, W)``."""
        raise NotImplementedError

    def _read_stack(self, first: int, n_slices: int) -> np.ndarray | None:
        """Read slices at once, ``(slice, coil, H, W)``, an array of its own; ``None`` where one by one is as good."""
        return None

    def _stored_mask(self) -> Tensor | None:
        """Return the mask stored in the file, bool ``(1, 1 or H, W)``, or ``None`` without one."""
        return None

    def _index(self, i_slice: int) -> int:
        try:
            index = operator.index(i_slice)
        except TypeError as error:
            raise ValueError(f"read_slice: 'i_slice' must be an integer, got {i_slice!r}") from error
        if not 0 <= index < self.n_slices:
            raise ValueError(f"read_slice: 'i_slice' must be 0 to {self.n_slices - 1} for {self.path}, got {index}")
        return index

    def _to_tensor(self, array: np.ndarray, where: str) -> Tensor:
        check_finite(array, where)
        tensor = torch.from_numpy(array)
        if self.kind != KSPACE:
            return tensor
        if self.is_complex_image:
            return centered_fft(tensor)
        self._refuse_image(tensor)
        if not self.centred:
            return _move_zero_frequency(tensor)
        self._warn_if_not_centred(tensor)
        return tensor

    def _refuse_image(self, kspace: Tensor) -> None:
        n_looks = self.__dict__.get("_n_looks", 0)
        if self.is_domain_given or n_looks >= MAX_LOOKS:
            return
        looks = looks_like_image(kspace[:2])  # two coils tell as well as all, in less time
        if looks:
            raise ValueError(
                f"open_acquisition: {self.path} must hold k-space, but looks like images or sensitivity maps; say "
                "domain='image' for complex images, domain='kspace' if it is k-space all the same, and keep maps out "
                "of the folder of exams (in a bundle: --domain image)"
            )
        self.__dict__["_n_looks"] = MAX_LOOKS if looks is False else n_looks + 1

    def _warn_if_not_centred(self, kspace: Tensor) -> None:
        if self.__dict__.get("_centre_seen"):
            return
        self.__dict__["_centre_seen"] = True
        height, width = (max(1, n // 16) for n in self.shape)
        if min(self.shape) < 16:
            return
        coil = kspace[0]
        top, left = self.shape[0] // 2, self.shape[1] // 2
        centre = coil[top - height : top + height, left - width : left + width].abs().square().sum()
        corners = torch.fft.fftshift(coil)[top - height : top + height, left - width : left + width]
        if corners.abs().square().sum() > CORNER_RATIO * centre:
            logger.warning(
                "The k-space in %s is strongest in its corners, as if its zero frequency were at index 0: read it with "
                "centred=False",
                self.path,
            )


def check_fully_sampled(exam: Acquisition, mask: Tensor | None) -> None:
    """Raise ``ValueError`` if an exam for training has a sampling mask, as :meth:`Acquisition.mask_of` returns it."""
    if mask is not None:
        raise ValueError(
            f"check_fully_sampled: training and validation need fully sampled k-space, but the scanner measured "
            f"{float(mask.float().mean()):.0%} of {exam.path}; move it out of their exams"
        )


@contextmanager
def readable(where: str) -> Iterator[None]:
    """Turn what reading a damaged file raises into one sentence, a ``ValueError``."""
    try:
        yield
    except (OSError, EOFError, KeyError, RuntimeError, zlib.error) as error:
        raise ValueError(
            f"read_slice: {where} cannot be read ({error}); the file may be damaged or incomplete: copy or download it "
            "again"
        ) from error


def _move_zero_frequency(kspace: Tensor) -> Tensor:
    """Turn ``fft2`` of an image into its centred transform: a shift, and the phase that keeps the image in place.

    With centre c: K_c[k] = exp(2 pi i (k - c) c / n) K[(k - c) mod n], exact, so that zeros stay zeros.
    """
    kspace = torch.fft.fftshift(kspace, dim=(-2, -1))
    for dim in (-2, -1):
        n = kspace.shape[dim]
        turns = ((torch.arange(n) - n // 2) * (n // 2)).remainder(n).to(torch.float64) / n
        phase = torch.polar(torch.ones_like(turns), 2 * math.pi * turns).to(kspace.dtype)
        kspace = kspace * (phase[:, None] if dim == -2 else phase)
    return kspace


def check_finite(array: np.ndarray, where: str) -> None:
    """Raise ``ValueError`` if a contiguous float or complex array holds NaN or infinite values.

    One sum tells in most cases; values are looked at one by one only when it is not finite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.view(np.float32).sum() if array.size else 0.0
    if np.isfinite(total):
        return
    n_bad = int(np.count_nonzero(~np.isfinite(array)))
    if n_bad:
        raise ValueError(
            f"read_slice: {where} must hold finite values, got {n_bad} of {array.size} that are NaN or infinite; "
            "mend the file, e.g. with numpy.nan_to_num"
        )
