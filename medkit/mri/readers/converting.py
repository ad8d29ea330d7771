"""Exams of k-space of any readable format as HDF5 files in fastMRI's layout, of which a slice is read at once."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from medkit.data import keys as names
from medkit.mri.readers.acquisition import KSPACE, Acquisition
from medkit.mri.readers.caching import file_stamp
from medkit.mri.readers.folders import existing_path
from medkit.mri.readers.hdf5 import MASK_NAME, NOISE_NAME
from medkit.mri.readers.layout import joined_axes
from medkit.mri.readers.listing import acquisition_list
from medkit.mri.readers.opening import file_stem, file_suffix, open_acquisition
from medkit.mri.readers.own_facts import SOURCE, write_facts
from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)

NAME = "convert_acquisitions"


def convert_acquisitions(
    source: str | os.PathLike[str],
    dest: str | os.PathLike[str],
    pattern: str | Sequence[str] = "*",
    repetitions: str | None = None,
    overwrite: bool = False,
    skip_bad: bool = False,
    key: str | None = None,
    axes: str | Sequence[str] | None = None,
    domain: str | None = None,
    centred: bool = True,
) -> list[Path]:
    r"""Convert exams of k-space to ``.h5`` files that are fast to read slice by slice.

    Each holds ``kspace`` complex64 (slice, coil, H, W), centred, uncompressed, one chunk for each slice, and where the
    exam has them ``mask``, ``noise``, and as attributes its geometry and header: :func:`open_acquisition` finds the
    same exam in it. Sub-folders stay, so that splits by them do. A file appears under its name when it is complete;
    what an earlier call has made of the same file with the same options is left as it is.

    Args:
        source: a file, folder or datalist, as for :func:`acquisition_list`.
        dest: folder to write to, outside of ``source``.
        pattern: file names to convert, or several such.
        repetitions: regular expression of the part of a name by which repetitions of one exam differ, which is left out
            of the name of their mean: ``r"\d\d$"`` makes one ``2022061003_T1.h5`` of M4Raw's ``..._T101``, ``..._T102``
            and so on. At each sample the mean is over the repetitions that measured it.
        overwrite: whether a file that is there, made of something else, is replaced.
        skip_bad: whether an exam that cannot be converted is left out, with a warning, instead of ending the call; a
            last warning names all that were.
        key: as for :func:`open_acquisition`, like the arguments that follow.
        axes: names of the array's axes.
        domain: ``"kspace"`` or ``"image"``; of complex images the k-space is written.
        centred: whether the zero frequency of stored k-space is at index ``n // 2``.

    Returns:
        The files, new ones and those that were there.

    Raises:
        FileNotFoundError: if ``source`` does not exist.
        ValueError: if ``dest`` is a file or lies in ``source``, ``repetitions`` is no regular expression, an exam
            cannot be read, holds no k-space or differs from its repetitions, another file is in the way, or all exams
            are bad.

    Example:
        >>> convert_acquisitions("scans", "fast")
        [PosixPath('fast/file1000001.h5')]
    """
    root, folder = existing_path(NAME, Path(source), "source"), Path(dest).expanduser().resolve()
    if folder.is_file() or (root.is_dir() and folder.is_relative_to(root)):
        raise ValueError(f"{NAME}: 'dest' must be a folder outside of {root}, got {folder}")
    try:
        re.compile(repetitions or "")
    except re.error as error:
        raise ValueError(
            rf"{NAME}: 'repetitions' must be a regular expression such as '\d\d$', got {repetitions!r}: {error}"
        ) from error
    groups = _targets(root, folder, acquisition_list(root, "all", per="volume", pattern=pattern), repetitions)
    options: dict[str, Any] = dict(key=key, axes=joined_axes(axes), domain=domain, centred=centred)
    done, bad = [], []
    for target, files in tqdm(groups.items(), desc="converting", disable=None):
        try:
            _convert(target, files, options, overwrite)
            done.append(target)
        except (ValueError, FileNotFoundError) as error:
            if not skip_bad:
                raise
            bad.append(files[0])
            logger.warning("%s is left out: %s", files[0], error)
    if not done:
        raise ValueError(f"{NAME}: all {len(bad)} exams are bad, see the warnings above; repair one of them")
    if bad:
        logger.warning("%d of %d exams were left out: %s", len(bad), len(groups), ", ".join(map(str, bad)))
    return done


def _targets(
    root: Path, folder: Path, entries: list[dict[str, Any]], repetitions: str | None
) -> dict[Path, list[Path]]:
    """Return the files that each file to write comes from: one, or repetitions."""
    groups: dict[tuple[Path, str, str], list[Path]] = {}
    for entry in entries:
        file = Path(entry[names.PATH])
        parent = folder / file.parent.relative_to(root) if root.is_dir() else folder
        stem = file_stem(file) if root.is_dir() else str(entry[names.CASE])
        short = re.sub(repetitions, "", stem, count=1).rstrip("_-.") if repetitions else stem
        groups.setdefault((parent, short or stem, file_suffix(file)), []).append(file)
    stems = [(parent, stem) for parent, stem, _ in groups]
    targets = {}
    for (parent, stem, suffix), files in groups.items():
        ending = suffix.replace(".", "-") if stems.count((parent, stem)) > 1 else ""
        targets[parent / f"{stem}{ending}.h5"] = sorted(files) if repetitions else files[:1]
    return targets


def _convert(target: Path, files: list[Path], options: dict[str, Any], overwrite: bool) -> None:
    import h5py

    made_from = json.dumps([[[file.name, *file_stamp(file)] for file in files], options])
    if target.exists() and not overwrite:
        if _source_of(target) == made_from:
            return
        raise ValueError(
            f"{NAME}: {target} is there already, made of another file or with other options; pass overwrite=True or "
            "another 'dest'"
        )
    exams = [open_acquisition(file, **options) for file in files]
    first = exams[0]
    for exam in exams:
        if exam.kind != KSPACE:
            raise ValueError(f"{NAME}: {exam.path} must hold k-space or complex images, it holds magnitudes")
        if (exam.n_slices, exam.n_coils, exam.shape) != (first.n_slices, first.n_coils, first.shape):
            raise ValueError(
                f"{NAME}: repetitions must be alike, {exam.path} has {exam.n_slices} slices of {exam.n_coils} coils "
                f"and {exam.shape} samples, {first.path} {first.n_slices} of {first.n_coils} and {first.shape}; change "
                "'repetitions'"
            )
    shape = (first.n_slices, first.n_coils, *first.shape)
    with atomic_path(target) as temporary, h5py.File(temporary, "w") as file:
        dataset = file.create_dataset("kspace", shape, np.complex64, chunks=(1, *shape[1:]))
        masks = []
        for i_slice in range(first.n_slices):
            kspace, mask = _mean_slice(exams, i_slice)
            dataset[i_slice] = kspace.numpy()
            if bool(kspace.any()):
                masks.append(mask)
        mask = _common_mask(exams, masks)
        if mask is not None:
            file[MASK_NAME] = mask[0, 0].numpy() if mask.shape[1] == 1 else mask[0].numpy()
        noise = first.read_noise()
        if noise is not None:
            file[NOISE_NAME] = noise.numpy()
        write_facts(file.attrs, first, made_from)


def _source_of(target: Path) -> str | None:
    import h5py

    try:
        with h5py.File(target, "r") as file:
            return file.attrs.get(SOURCE)
    except OSError:
        return None


def _mean_slice(exams: list[Acquisition], i_slice: int) -> tuple[Tensor, Tensor | None]:
    """Return a slice, at each sample the mean of what was measured, and the mask of what was measured at all."""
    total = exams[0].read_slice(i_slice)
    mask = exams[0].mask_of(total)
    if len(exams) == 1:
        return total, mask
    count = (total != 0).any(0).to(torch.int32)
    for exam in exams[1:]:
        kspace = exam.read_slice(i_slice)
        total += kspace
        count += (kspace != 0).any(0)
        other = exam.mask_of(kspace)
        mask = None if mask is None or other is None else _either(mask, other)
    return total / count.clamp(min=1), mask


def _either(first: Tensor, second: Tensor) -> Tensor | None:
    either = first | second
    return None if bool(either.all()) else either


def _common_mask(exams: list[Acquisition], masks: list[Tensor | None]) -> Tensor | None:
    """Return the mask to store: that of the file, else the one that all slices have."""
    stored = exams[0].stored_mask
    if len(exams) == 1 and stored is not None:
        return stored
    if not masks or any(mask is None for mask in masks):
        return None
    same = [mask for mask in masks if mask is not None and masks[0] is not None and torch.equal(mask, masks[0])]
    return masks[0] if len(same) == len(masks) else None
