"""Lists of images or slices: from a folder, a file, a datalist or the simulated cohort, by split."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medkit.data import BrainCohort
from medkit.data import keys as names
from medkit.data.splits import SPLITS, check_split, log_split, split_of_folder, split_of_name, subject_of
from medkit.denoise.dicom_series import pydicom_module
from medkit.denoise.readers.files import (
    NIFTI,
    NIFTI_SUFFIXES,
    PICTURE_SUFFIXES,
    is_dicom,
    kind_of,
    n_slices_of,
    read_image,
    suffix_of,
)

NAME = "image_list"
KNOWN = ", ".join((*NIFTI_SUFFIXES, *PICTURE_SUFFIXES))


def image_list(
    dataset_dir: str | os.PathLike[str] | None = None,
    split: str = "all",
    cohort: BrainCohort | None = None,
    per: str = "slice",
    contrasts: str | Sequence[str] = "t2",
    pattern: str | Sequence[str] = "*",
    subject: str | None = None,
    central_fraction: float = 1.0,
    min_signal: float = 0.0,
    slice_axis: int = 2,
    n_slices: int | None = None,
) -> list[dict[str, Any]]:
    r"""List the images of a split, or their slices.

    * ``dataset_dir`` ``None``: the volumes of ``contrasts`` of the simulated cohort.
    * A file: that file, whatever the split: NIfTI, or a picture (PNG, TIFF, JPEG, BMP).
    * A ``.json``: a datalist, ``{"train": [{"path": ..., "case": ...}, ...], ...}``; its paths are relative to it.
    * A folder: its files of these kinds and its DICOM series, at any depth, without hidden ones. If it has sub-folders
      named for splits (``train``, ``validation`` or ``val``, ``test``, also as in ``DIV2K_train_HR``), those; otherwise
      each image goes by a hash of its name: 80 % train, 10 % validation, 10 % test.

    Args:
        dataset_dir: folder, file, datalist, or ``None``.
        split: ``"train"``, ``"validation"``, ``"test"`` or ``"all"``.
        cohort: for ``dataset_dir=None``, of the split that is asked for.
        per: ``"slice"`` for an entry for each slice, ``"volume"`` for one for each image.
        contrasts: images of the simulated cohort, ``"t1"``, ``"t2"``, ``"pd"`` or ``"flair"``, or several of them.
        pattern: file names to keep, such as ``"*-T2.nii.gz"``, or several such.
        subject: regular expression; what it finds in a name is hashed in place of the name, so that all images of a
            subject fall into one split: ``r"IXI\d+"``.
        central_fraction: share of each volume's slices to keep, around the middle one, above 0 to 1.
        min_signal: keep slices whose root mean square is at least this share of that of the volume's strongest slice, 0
            to 1. Above 0, each volume is read through.
        slice_axis: array axis of a NIfTI volume that counts the slices.
        n_slices: keep so many of the remaining slices of each volume, evenly spread; ``None``: all.

    Returns:
        Entries with ``path`` (absolute, str), ``case`` (str) and, per slice of volumes, ``i_slice``; of DICOM
        ``series_uid``, the path being the folder.

    Raises:
        FileNotFoundError: if ``dataset_dir``, or a file of a datalist, does not exist.
        ImportError: if there is a DICOM series and pydicom is not installed.
        ValueError: if an argument is out of its range, nothing that can be read is found, or the split is empty.

    Example:
        >>> image_list("scans/", "validation", per="volume")[0]
        {'path': '/data/scans/val/head.nii.gz', 'case': 'head'}
    """
    check_split(NAME, split, per)
    if not 0 < central_fraction <= 1 or not 0 <= min_signal <= 1:
        raise ValueError(
            f"{NAME}: 'central_fraction' must be above 0 to 1 and 'min_signal' 0 to 1, got {central_fraction} and "
            f"{min_signal}"
        )
    if slice_axis not in (0, 1, 2):
        raise ValueError(f"{NAME}: 'slice_axis' must be 0, 1 or 2, got {slice_axis!r}")
    if dataset_dir is None:
        images = _of_cohort(cohort, split, [contrasts] if isinstance(contrasts, str) else list(contrasts))
    else:
        path = Path(dataset_dir).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"{NAME}: 'dataset_dir' must be a folder or a file, there is none at {path}")
        images = _of_path(path.resolve(), split, [pattern] if isinstance(pattern, str) else list(pattern), subject)
    if per == "volume":
        return images
    return _slices(images, central_fraction, min_signal, slice_axis, n_slices)


def _of_cohort(cohort: BrainCohort | None, split: str, contrasts: list[str]) -> list[dict[str, Any]]:
    if cohort is None or split not in (cohort.split, "all"):
        got = None if cohort is None else cohort.split
        raise ValueError(f"{NAME}: without 'dataset_dir', 'cohort' must be a cohort of split {split!r}, got {got!r}")
    entries = []
    for entry in cohort.datalist():
        for contrast in contrasts:
            if contrast not in entry:
                known = sorted(set(entry) - {names.CASE})
                raise ValueError(f"{NAME}: 'contrasts' must be of {known} for this cohort, got {contrast!r}")
            who = entry[names.CASE]
            entries.append({names.PATH: str(entry[contrast]), names.CASE: f"{who}_{contrast}"})
    return sorted(entries, key=lambda entry: entry[names.CASE])


def _of_path(path: Path, split: str, patterns: list[str], subject: str | None) -> list[dict[str, Any]]:
    if path.is_file():
        if path.suffix.lower() == ".json":
            return _of_datalist(path, split)
        if is_dicom(path):
            raise ValueError(f"{NAME}: {path} is one file of a DICOM series; give the folder that holds the series")
        if not suffix_of(path):
            raise ValueError(f"{NAME}: {path} must be one of {KNOWN}, or a folder of a DICOM series; convert it")
        return [{names.PATH: str(path), names.CASE: _stem(path)}]
    folders = [(folder, split_of_folder(folder)) for folder in sorted(path.iterdir()) if folder.is_dir()]
    marked = [(folder, of) for folder, of in folders if of is not None]
    if split == "all" or not marked:
        images = _images(path, [path], patterns)
        if split == "all":
            return images
        splits = [split_of_name(subject_of(NAME, str(image[names.CASE]), subject)) for image in images]
        log_split(path, split, "a hash of their names", {one: splits.count(one) for one in SPLITS})
        chosen = [image for image, of in zip(images, splits, strict=True) if of == split]
        if not chosen:
            raise ValueError(
                f"{NAME}: none of the {len(images)} images in {path} falls into the split '{split}' by the hash of its "
                "name; sort them into sub-folders train, validation and test, or write a datalist"
            )
        return chosen
    own = [folder for folder, of in marked if of == split]
    if not own:
        raise ValueError(
            f"{NAME}: {path} must have a sub-folder for the split '{split}', it has "
            f"{', '.join(folder.name for folder, _ in marked)}; add one with that word in its name"
        )
    return _images(path, own, patterns)


def _images(root: Path, folders: list[Path], patterns: list[str]) -> list[dict[str, Any]]:
    """Return entries of the images below some folders, at least one, by name."""
    found = [file for folder in folders for file in sorted(folder.rglob("*")) if file.is_file()]
    found = [file for file in found if not any(part.startswith(".") for part in file.relative_to(root).parts)]
    files = [file for file in found if suffix_of(file) and any(fnmatch(file.name, pattern) for pattern in patterns)]
    others = [file for file in found if not suffix_of(file)]
    series = [
        entry for folder in sorted({file.parent for file in others if is_dicom(file)}) for entry in _series(folder)
    ]
    if not files and not series:
        suffixes = Counter("".join(file.suffixes[-2:]) or file.name for file in found)
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in suffixes.most_common(5)) or "no file"
        raise ValueError(
            f"{NAME}: {', '.join(map(str, folders))} must hold images ({KNOWN}) or a DICOM series that fit {patterns}, "
            f"it holds {kinds}; convert them, or give another folder"
        )
    stems = Counter(_stem(file) for file in files)
    entries = [
        {
            names.PATH: str(file),
            names.CASE: _stem(file)
            if stems[_stem(file)] == 1
            else "-".join((*file.relative_to(root).parts[:-1], file.name.replace(".", "-"))),
        }
        for file in files
    ]
    return sorted([*entries, *series], key=lambda entry: entry[names.CASE])


def _series(folder: Path) -> list[dict[str, Any]]:
    """Return an entry for each DICOM series of a folder."""
    pydicom = pydicom_module(NAME)
    uids: list[str] = []
    for file in sorted(folder.iterdir()):
        if file.is_file() and is_dicom(file):
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "Rows"])
            if "Rows" in header:
                uids.append(str(header.get("SeriesInstanceUID")))
    kept = list(dict.fromkeys(uids))
    cases = [folder.name] if len(kept) == 1 else [f"{folder.name}-{i}" for i in range(1, len(kept) + 1)]
    return [
        {names.PATH: str(folder), names.CASE: case, names.SERIES_UID: uid}
        for case, uid in zip(cases, kept, strict=True)
    ]


def _of_datalist(path: Path, split: str) -> list[dict[str, Any]]:
    wanted = f'{{"{split if split != "all" else "train"}": [{{"path": ..., "case": ...}}]}}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{NAME}: {path} must be a datalist {wanted}, it is no JSON ({error})") from error
    lists = content if isinstance(content, dict) else {}
    chosen = [lists[one] for one in (SPLITS if split == "all" else (split,)) if isinstance(lists.get(one), list)]
    entries = [entry for one in chosen for entry in one]
    if not entries or not all(isinstance(entry, dict) and isinstance(entry.get(names.PATH), str) for entry in entries):
        raise ValueError(f"{NAME}: {path} must be a datalist {wanted}, it has {sorted(lists)}; write it again")
    listed = []
    for entry in entries:
        file = (path.parent / Path(entry[names.PATH]).expanduser()).resolve()
        if not file.exists():
            raise FileNotFoundError(
                f"{NAME}: the datalist {path} names {file}, which is not there; its paths are relative to itself"
            )
        case = str(entry.get(names.CASE) or _stem(file))
        if re.search(r"[/\\]", case) or case in (".", ".."):
            raise ValueError(f"{NAME}: 'case' must name files of results, so without / and \\, got {case!r} in {path}")
        listed.append({names.PATH: str(file), names.CASE: case})
    return sorted(listed, key=lambda entry: entry[names.CASE])


def _stem(path: Path) -> str:
    return path.name[: len(path.name) - len(suffix_of(path))]


def _slices(
    images: list[dict[str, Any]], central_fraction: float, min_signal: float, slice_axis: int, n_slices: int | None
) -> list[dict[str, Any]]:
    entries = []
    for image in tqdm(images, desc="listing slices", leave=False, disable=None):
        path, uid = Path(image[names.PATH]), image.get(names.SERIES_UID)
        n = n_slices_of(NAME, path, uid, slice_axis)
        if n == 1 and kind_of(path) != NIFTI:
            entries.append(image)
            continue
        n_kept = max(1, round(n * central_fraction))
        kept = list(range((n - n_kept) // 2, (n - n_kept) // 2 + n_kept))
        if min_signal > 0:
            array = read_image(NAME, path, None, uid, slice_axis).array
            signal = np.sqrt(np.square(array.reshape(-1, n)).sum(0))
            kept = [i for i in kept if signal[i] >= min_signal * signal.max()]
        if n_slices is not None and n_slices < len(kept):
            kept = [kept[i] for i in np.linspace(0, len(kept) - 1, n_slices + 2)[1:-1].round().astype(int)]
        entries += [{**image, names.I_SLICE: i} for i in kept]
    if not entries:
        raise ValueError(
            f"{NAME}: no slice of {len(images)} images has a signal of {min_signal} in the central {central_fraction} "
            "of its slices; lower 'min_signal' or raise 'central_fraction'"
        )
    return entries
