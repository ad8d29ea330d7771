"""HDF5 exams (fastMRI and the like, MATLAB v7.3), one slice at a time."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medkit.mri.readers.acquisition import KSPACE, MAGNITUDE, Acquisition, check_finite, readable
from medkit.mri.readers.caching import open_file
from medkit.mri.readers.ismrmrd_header import parse_ismrmrd_header, spacing_affine
from medkit.mri.readers.ismrmrd_raw import open_ismrmrd, raw_group
from medkit.mri.readers.layout import (
    Layout,
    complex_of,
    find_layout,
    is_complex,
    is_mask,
    is_named,
    is_number,
    named_axes,
)
from medkit.mri.readers.own_facts import header_facts, own_facts

logger = logging.getLogger(__name__)

KSPACE_NAMES = ("kspace", "ksp", "k_space", "raw", "rawdata", "raw_data", "data")
IMAGE_NAMES = ("images", "image", "img")
RECONSTRUCTION_NAMES = ("reconstruction_rss", "reconstruction_esc", "reconstruction")
MASK_NAME = "mask"
NOISE_NAME = "noise"
HEADER_NAME = "ismrmrd_header"


@dataclass(eq=False)
class HDF5Acquisition(Acquisition):
    """An exam in an HDF5 file; see :class:`Acquisition`.

    Args:
        dataset: name of the array in the file.
        layout: its axes.
    """

    dataset: str = ""
    layout: Layout = field(default_factory=lambda: Layout(("H", "W"), (1, 1)))

    def _read(self, i_slice: int) -> np.ndarray:
        file = open_file(self.path)
        # Indexing copies the slice out of HDF5 into memory of numpy's own; no tensor ever sees memory of h5py.
        part = file[self.dataset][self.layout.select(i_slice)]
        dtype = np.complex64 if self.kind == KSPACE else np.float32
        return self.layout.arrange(part, dtype, copy=False, is_kspace=self.holds_kspace)

    def _read_stack(self, first: int, n_slices: int) -> np.ndarray | None:
        dataset = open_file(self.path)[self.dataset]
        wanted = np.dtype(np.complex64 if self.kind == KSPACE else np.float32)
        if dataset.dtype != wanted or self.layout.axes not in (("slice", "coil", "H", "W"), ("slice", "H", "W")):
            return None
        stack = dataset[first : first + n_slices]
        return stack if stack.ndim == 4 else stack[:, None]

    def read_noise(self) -> Tensor | None:
        """Return the dataset ``noise``, complex ``(coil, samples)``; see :meth:`Acquisition.read_noise`."""
        stored = open_file(self.path).get(NOISE_NAME)
        is_scan = stored is not None and is_complex(getattr(stored, "dtype", np.dtype("f4")))
        if not is_scan or len(stored.shape) != 2 or stored.shape[0] != self.n_coils:
            return None
        where = f"the noise scan of {self.path}"
        with readable(where):
            noise = complex_of(stored[()]).astype(np.complex64)
        check_finite(noise, where)
        return torch.from_numpy(noise)

    def _stored_mask(self) -> Tensor | None:
        file = open_file(self.path)
        if MASK_NAME not in file or not hasattr(file[MASK_NAME], "shape"):
            return None
        stored = np.squeeze(file[MASK_NAME][()])
        stored = stored.T if self.path.suffix.lower() == ".mat" else stored
        mask = torch.from_numpy(np.ascontiguousarray(stored != 0))
        if mask.shape == self.shape[1:]:
            return mask[None, None]
        if mask.shape == self.shape:
            return mask[None]
        raise ValueError(
            f"open_acquisition: the dataset '{MASK_NAME}' in {self.path} must have shape {self.shape[1:]} or "
            f"{self.shape} as its k-space, got {stored.shape}; remove it to have the mask found from the zeros of the "
            "k-space"
        )


def open_hdf5(
    path: Path, name: str, key: str | None, axes: str | None, domain: str | None, centred: bool
) -> Acquisition:
    """Open an HDF5 file; arguments and errors as :func:`open_acquisition`."""
    is_matlab = path.suffix.lower() == ".mat"
    try:
        file = open_file(path)
    except OSError as error:
        raise ValueError(
            f"open_acquisition: {path} must be an HDF5 file, but it cannot be opened ({error}); it may be incomplete "
            "or of another kind: copy or download it again; on a network drive that refuses locks, set "
            "HDF5_USE_FILE_LOCKING=FALSE"
        ) from error
    group = None if is_matlab else raw_group(file)
    if group is not None and (key is None or "=" in key):
        return open_ismrmrd(path, name, file, group, key, axes, domain, centred)
    key = _find_dataset(path, file, key)
    dataset = file[key]
    complex_stored = is_complex(dataset.dtype)
    try:
        own = own_facts(file.attrs)
    except ValueError as error:
        raise ValueError(f"open_acquisition: {path} is damaged, {error}; convert its source again") from error
    is_domain_given = domain is not None or bool(own)
    if domain is None:
        parts = axes is not None and "ri" in axes
        parts = parts or (not complex_stored and len(dataset.shape) > 2 and dataset.shape[-1] == 2)
        is_image = key.rsplit("/", 1)[-1].lower() in IMAGE_NAMES or not (complex_stored or parts)
        domain = "image" if is_image else "kspace"
    if axes is None and is_matlab and domain == "kspace":
        axes = named_axes(key, len(dataset.shape))
    if axes is not None and is_matlab:
        axes = ",".join(reversed(axes.split(",")))  # MATLAB stores its axes reversed
    shape, order = tuple(dataset.shape), "C"
    if is_matlab and axes is None:
        layout = find_layout(f"'{key}' in {path}", shape[::-1], dataset.dtype, None, domain, "F")
        layout = Layout(layout.axes[::-1], shape)
    else:
        layout = find_layout(f"'{key}' in {path}", shape, dataset.dtype, axes, domain, order, stack=True)
    complex_read = complex_stored or layout.has_parts
    if domain == "kspace" and not complex_read:
        raise ValueError(
            f"open_acquisition: k-space in {path} must be complex, '{key}' is {dataset.dtype} {shape}; say where real "
            "and imaginary parts lie, e.g. axes='slice,H,W,coil_ri' for Calgary-Campinas, or domain='image'"
        )
    header = _header_facts(path, file)
    exam = HDF5Acquisition(
        path=path,
        name=name,
        kind=KSPACE if complex_read else MAGNITUDE,
        n_slices=layout.n_slices,
        n_coils=layout.n_coils,
        shape=layout.matrix,
        header=header,
        centred=centred,
        is_complex_image=complex_read and domain == "image",
        is_domain_given=is_domain_given,
        dataset=key,
        n_frames=layout.n_frames,
        mask_may_differ=layout.n_frames > 1,
        layout=layout,
    )
    for field_name, value in own.items():
        setattr(exam, field_name, value)
    if exam.has_geometry:
        return exam
    affine = spacing_affine(header, layout.matrix, "encoded" if domain == "kspace" else "recon")
    if affine is not None:
        exam.affine, exam.has_geometry = affine, True
    return exam


def _find_dataset(path: Path, file: Any, key: str | None) -> str:
    import h5py

    found: dict[str, Any] = {}

    def keep(name: str, item: Any) -> None:
        # Scalars and texts of MATLAB have two axes too, one of them of length 1.
        if isinstance(item, h5py.Dataset) and sum(n > 1 for n in item.shape or ()) >= 2 and is_number(item.dtype):
            found[name] = item

    try:
        if key is not None:
            if key in file and isinstance(file[key], h5py.Dataset):
                return key
        file.visititems(keep)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"open_acquisition: the contents of {path} cannot be listed ({error}); the file may be damaged: copy or "
            "download it again"
        ) from error
    listed = ", ".join(f"{name} {tuple(item.shape)}" for name, item in found.items()) or "no array of 2 axes or more"
    if key is not None:
        raise ValueError(f"open_acquisition: 'key' must name a dataset of {path}, got {key!r}; it holds {listed}")
    names = [name for name in found if not name.startswith("#") and not is_mask(name)]
    for wanted in (*filter(is_named, names), *KSPACE_NAMES, *RECONSTRUCTION_NAMES, *IMAGE_NAMES):
        if wanted in names:
            return wanted
    if len(names) == 1:
        return names[0]
    raise ValueError(
        f"open_acquisition: {path} must hold 'kspace' (slices, coils, H, W), or one array alone; it holds {listed}; "
        "say which by key="
    )


def _header_facts(path: Path, file: Any) -> dict[str, Any]:
    facts = header_facts(file.attrs)
    if HEADER_NAME in file:
        try:
            facts |= parse_ismrmrd_header(file[HEADER_NAME][()])
        except (ValueError, TypeError, OSError) as error:
            logger.warning("The ISMRMRD header of %s is left out: %s", path, error)
    return facts
