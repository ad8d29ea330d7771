"""Open an exam by the kind of its file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from medkit.mri.readers.acquisition import Acquisition
from medkit.mri.readers.arrays import open_cfl, open_mat, open_npy, open_npz
from medkit.mri.readers.hdf5 import open_hdf5
from medkit.mri.readers.layout import joined_axes
from medkit.mri.readers.nifti import open_nifti

HDF5_SUFFIXES = (".h5", ".hdf5", ".mrd")
NIFTI_SUFFIXES = (".nii", ".nii.gz", ".mgz", ".mgh", ".img")
ARRAY_SUFFIXES = (".cfl", ".npy", ".npz", ".mat")
SUFFIXES = (*HDF5_SUFFIXES, *ARRAY_SUFFIXES, *NIFTI_SUFFIXES)


def file_suffix(path: Path) -> str:
    """Return the suffix that tells the kind of file, ``.nii.gz`` as one; empty when it is not a supported one."""
    name = path.name.lower()
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if name.endswith(suffix)), "")


def file_stem(path: Path) -> str:
    """Return the file's name without the suffix of its kind."""
    return path.name[: len(path.name) - len(file_suffix(path))] or path.name


def open_acquisition(
    path: str | os.PathLike[str],
    key: str | None = None,
    axes: str | Sequence[str] | None = None,
    slice_axis: int = 2,
    domain: str | None = None,
    centred: bool = True,
) -> Acquisition:
    """Open an exam on disk; only its header is read until a slice is asked for.

    ===================  ================================================================  ==========================
    file                 what it holds, and the axes unless ``axes`` names them            how slices are read
    ===================  ================================================================  ==========================
    ``.h5 .hdf5``        fastMRI and M4Raw [1]_: ``kspace`` (slice, coil, H, W) or         one slice of the dataset,
                         (slice, H, W), with ``mask`` (W,), ``noise`` (coil, samples) and  from a handle kept per
                         ``ismrmrd_header`` where they are there; else                     process
                         ``reconstruction_rss`` or ``_esc`` (slice, H, W)
    ``.h5 .hdf5 .mrd``   ISMRMRD raw readouts [1]_, Cartesian: multi-slice, or one slab    the lines of a slice in one
                         of partitions (inverse Fourier transform along them)              go; a slab once per process
    ``.cfl`` + ``.hdr``  BART: of axes 0, 1, 2 (readout, phase, phase) the first two       memory-mapped
                         longer than 1 are H, W and a third is slice (its Fourier
                         transform already done); 3 coil; 13 slice; 14 average
    ``.npy``             complex (H, W), (coil, H, W) or (slice, coil, H, W); real         memory-mapped
                         (H, W) or (slice, H, W); real with a last axis of 2 is k-space
                         as real and imaginary part
    ``.npz``             array ``kspace`` as ``.npy``; or ``images``, complex (slice, H,   read once per process
                         W), of which k-space is computed
    ``.mat``             in MATLAB's order: complex (H, W), (H, W, coil) or (H, W, slice,  v7.3 as HDF5, older ones
                         coil); real (H, W, slice). CMRxRecon [1]_: ``kspace_full``,       read once per process
                         ``kspace_sub04``, ``kus`` (H, W, coil, slice, frame),
                         ``kspace_single_full`` (H, W, slice, frame)
    ``.nii .nii.gz       magnitude volume, sliced along ``slice_axis``; its geometry is    mapped; compressed ones
    .mgz .mgh .img``     kept                                                              read once per process
    ===================  ================================================================  ==========================

    .. [1] Written as published, or by the format's own library; files of scanners and of the data sets were not tried.

    **ISMRMRD**: samples lie by ``center_sample``, ``kspace_encode_step_1`` and ``_2`` and the centres of the header's
    limits in the encoded matrix, rows along the readout with its over-sampling; repeated lines become their mean;
    navigators and the like are left out; lines for calibration alone fill what no other line measured. The noise scan
    is given by :meth:`Acquisition.read_noise`, scaled to the readouts' bandwidth. Slices are sorted along their normal
    and the affine comes from position and directions.

    **Time frames**: each frame of each place counts as a slice, all of the first place, then of the next. Where frames
    are sampled differently, load slice by slice.

    A guess that would give more coils than rows or columns is refused. Pickled objects are never loaded.

    Args:
        path: the file. For BART also the ``.hdr``.
        key: name of the array in ``.h5``, ``.mat`` and ``.npz``; default ``kspace``, then other usual names, then the
            only array. Groups of HDF5 are written ``group/name``. Of ISMRMRD readouts with several of them, what to
            take by ``contrast``, ``phase``, ``repetition``, ``set`` or ``encoding``: ``"contrast=1,repetition=0"``.
        axes: names of the array's axes with commas (or a sequence of them), from ``slice``, ``coil``, ``H``, ``W``,
            ``average`` (repetitions, of which the mean is taken; in k-space, at each sample, of those that measured
            it, others being zero in all coils), ``frame`` (of time), ``ri`` (real and imaginary part), ``coil_ri``
            (real and imaginary parts of the coils in turn), ``1`` (length 1); e.g. ``"H,W,coil"``. For ``.mat`` in
            MATLAB's order. Not for volumes.
        slice_axis: for volumes, the axis of the file that counts the slices: 0, 1 or 2.
        domain: ``"kspace"`` or ``"image"``: what the array holds. ``None``: real arrays and those named ``images``
            hold images, complex ones k-space, and a complex one that looks like an image is refused when it is read.
            Of complex images the k-space is given.
        centred: whether the zero frequency of stored k-space is at index ``n // 2``; otherwise at index 0
            (Calgary-Campinas; ``numpy.fft.fft2`` of an image).

    Returns:
        The exam.

    Raises:
        FileNotFoundError: if there is no such file, or a ``.cfl`` lacks its ``.hdr``.
        ValueError: if the file is a folder, of an unknown kind, damaged or incomplete, or its axes cannot be told.

    Example:
        >>> exam = open_acquisition("file1000001.h5")
        >>> exam.read_slice(exam.n_slices // 2).shape
        torch.Size([16, 640, 368])
    """
    given = Path(path)
    axes = joined_axes(axes)
    if not isinstance(centred, bool):
        raise ValueError(f"open_acquisition: 'centred' must be True or False, got {centred!r}")
    if domain not in (None, "kspace", "image"):
        raise ValueError(f"open_acquisition: 'domain' must be 'kspace', 'image' or None, got {domain!r}")
    if given.is_dir():
        raise ValueError(
            f"open_acquisition: 'path' must be a file, got the folder {given}; list it with acquisition_list"
        )
    file = data_file(given)
    if not file.is_file():
        raise FileNotFoundError(f"open_acquisition: 'path' must be a file, but there is none at {given}")
    suffix, name = file_suffix(file), file_stem(file)
    if not os.access(file, os.R_OK):
        raise ValueError(f"open_acquisition: {given} may not be read; change its permissions")
    if suffix in HDF5_SUFFIXES:
        return open_hdf5(file, name, key, axes, domain, centred)
    if suffix in NIFTI_SUFFIXES:
        if key is not None or axes is not None or domain == "kspace":
            raise ValueError(
                f"open_acquisition: {given} is a magnitude volume: it takes 'slice_axis', not 'key', 'axes' or "
                "domain='kspace'"
            )
        return open_nifti(file, name, slice_axis)
    if suffix == ".mat":
        import h5py

        opened = open_hdf5 if h5py.is_hdf5(file) else open_mat
        return opened(file, name, key, axes, domain, centred)
    for wanted, open_array in ((".cfl", open_cfl), (".npy", open_npy), (".npz", open_npz)):
        if suffix == wanted:
            return open_array(file, name, key, axes, domain, centred)
    raise ValueError(
        f"open_acquisition: 'path' must end in {', '.join(SUFFIXES)}, got {given}; convert it to one of them"
    )


def data_file(path: Path) -> Path:
    """Return the file with the data of a .hdr (BART's .cfl or Analyze's .img), and any other path as it is."""
    if path.suffix.lower() == ".hdr":
        for suffix in (".cfl", ".img"):
            if path.with_suffix(suffix).is_file():
                return path.with_suffix(suffix)
    return path
