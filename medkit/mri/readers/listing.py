"""Lists of exams or slices: from a folder, a file, a datalist or the simulated cohort, by split."""

from __future__ import annotations

import json
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medkit.data import BrainCohort
from medkit.data import keys as names
from medkit.data.splits import (
    COHORT_SUBJECTS,
    M4RAW,
    SPLITS,
    check_split,
    log_split,
    split_of_folder,
    split_of_name,
    subject_of,
)
from medkit.mri.readers.folders import checked_case, existing_path, fitting_files, path_name, readable_files
from medkit.mri.readers.opening import data_file, file_stem, file_suffix
from medkit.mri.readers.slice_signal import check_slices, entries_of_slices

logger = logging.getLogger(__name__)

NAME = "acquisition_list"


def acquisition_list(
    dataset_dir: str | os.PathLike[str] | None = None,
    split: str = "all",
    cohort: BrainCohort | None = None,
    per: str = "slice",
    contrast: str | Sequence[str] = "t2",
    pattern: str | Sequence[str] = "*",
    subject: str | None = None,
    central_fraction: float = 1.0,
    min_signal: float = 0.0,
    key: str | None = None,
    axes: str | Sequence[str] | None = None,
    slice_axis: int = 2,
    domain: str | None = None,
    centred: bool = True,
    fully_sampled: bool = False,
    use_index: bool = True,
) -> list[dict[str, Any]]:
    r"""List the exams, or their slices, of a split.

    * ``dataset_dir`` ``None``: the volumes of ``contrast`` of the simulated cohort.
    * A file: that file, whatever the split.
    * A ``.json``: a datalist, ``{"train": [{"path": ..., "case": ...}, ...], ...}``; its paths are relative to it. An
      entry may name a map of ``lesions``.
    * A folder: its files of the kinds that :func:`open_acquisition` reads, at any depth, without hidden ones and
      masks of CMRxRecon (``*_mask.mat``). If it
      has sub-folders named for splits (``train``, ``validation`` or ``val``, ``test``, also as in
      ``multicoil_train``), those; otherwise each file goes by a hash of its name: 80 % train, 10 % validation, 10 %
      test. A file keeps its split when others come or go.

    Args:
        dataset_dir: folder, file, datalist, or ``None``.
        split: ``"train"``, ``"validation"``, ``"test"`` or ``"all"``.
        cohort: a :class:`medkit.data.BrainCohort` for ``dataset_dir=None``; ``None`` makes one of the split
            (40 subjects to train, 8 to validate, 8 to test).
        per: ``"slice"`` for an entry per slice, ``"volume"`` for one per exam.
        contrast: image of the simulated cohort, ``"t1"``, ``"t2"``, ``"pd"`` or ``"flair"``, or several of them.
        pattern: file names to keep, e.g. ``"*-T2.nii.gz"``, or several such.
        subject: regular expression; what it finds in a file's name (its first group, if it has one) is hashed in place
            of the whole name, so that all exams of a subject fall into one split: ``r"IXI\d+"``.
        central_fraction: share of each exam's slices to keep, around the middle one, above 0 to 1.
        min_signal: keep slices whose root mean square is at least this share of that of the exam's strongest slice, 0
            to 1. Above 0, each exam is read through.
        key: as for :func:`open_acquisition`, like the arguments that follow; needed here to count slices.
        axes: names of the array's axes.
        slice_axis: for volumes, the axis that counts the slices.
        domain: ``"kspace"`` or ``"image"``.
        centred: whether the zero frequency of stored k-space is at index ``n // 2``.
        fully_sampled: whether exams that the scanner under-sampled are refused here, where they are read for
            ``min_signal``; give it to :class:`LoadAcquisitiond` too.
        use_index: whether what is found of each file (number of slices, signal of each) is kept in
            ``$MEDKIT_CACHE/exam_index`` until the file changes, so that listing again opens none.

    Returns:
        Entries with ``path`` (absolute, str), ``case`` (str, one name for each exam; of the cohort
        ``<subject>_<contrast>``), ``subject`` (str; of M4Raw's files by their names) and ``lesions`` (path) where the
        cohort or the datalist tells them and, per slice, ``i_slice`` (int), sorted by case and slice.

    Raises:
        FileNotFoundError: if ``dataset_dir``, or a file of a datalist, does not exist.
        ValueError: if an argument is out of its range, the folder holds no supported file, the split is empty, a
            file cannot be opened, or an exam is under-sampled and must not be.

    Example:
        >>> acquisition_list("fastMRI/", "validation")[0]
        {'path': '/data/fastMRI/multicoil_val/file1000000.h5', 'case': 'file1000000', 'i_slice': 0}
    """
    check_split(NAME, split, per)
    check_slices(NAME, central_fraction, min_signal)
    if dataset_dir is None:
        exams = _of_cohort(cohort, split, [contrast] if isinstance(contrast, str) else list(contrast))
    else:
        exams = _of_path(Path(dataset_dir), split, [pattern] if isinstance(pattern, str) else list(pattern), subject)
    if per == "volume":
        return exams
    options: dict[str, Any] = dict(key=key, axes=axes, slice_axis=slice_axis, domain=domain, centred=centred)
    return entries_of_slices(NAME, exams, options, central_fraction, min_signal, fully_sampled, use_index)


def _of_cohort(cohort: BrainCohort | None, split: str, contrasts: Sequence[str]) -> list[dict[str, Any]]:
    if cohort is None:
        wanted = SPLITS if split == "all" else (split,)
        cohorts = [BrainCohort(COHORT_SUBJECTS[one], split=one, contrasts=contrasts) for one in wanted]
    else:
        cohorts = [cohort]
        if split not in (cohort.split, "all"):
            raise ValueError(
                f"acquisition_list: 'cohort' is the {cohort.split} split, but 'split' is {split!r}; make a cohort of "
                "that split"
            )
    entries = []
    for entry in [entry for one in cohorts for entry in one.datalist()]:
        for contrast in contrasts:
            if contrast not in entry:
                known = sorted(set(entry) - {names.CASE})
                raise ValueError(f"acquisition_list: 'contrast' must be of {known} for this cohort, got {contrast!r}")
            lesions = {names.LESIONS: entry[names.LESIONS]} if names.LESIONS in entry else {}
            case = f"{entry[names.CASE]}_{contrast}"
            who = entry[names.CASE]
            entries.append({names.PATH: str(entry[contrast]), names.CASE: case, names.SUBJECT: who, **lesions})
    return sorted(entries, key=lambda entry: entry[names.CASE])


def _of_path(path: Path, split: str, patterns: list[str], subject: str | None) -> list[dict[str, Any]]:
    path = existing_path(NAME, path)
    if path.is_file():
        if path.suffix.lower() == ".json":
            return _of_datalist(path, split)
        path = data_file(path)
        if split != "all":
            logger.info("%s: %s is one file, it is taken whole for each split", split, path)
        return [{names.PATH: str(path), names.CASE: file_stem(path)}]
    folders = [(folder, split_of_folder(folder)) for folder in sorted(path.iterdir()) if folder.is_dir()]
    marked = [(folder, of) for folder, of in folders if of is not None]
    if split == "all" or not marked:
        return _split_by_hash(path, _cases(path, readable_files(NAME, path, [path], patterns)), split, subject)
    files: dict[str, list[Path]] = {of: [] for _, of in marked}
    for folder, of in marked:
        files[of] += fitting_files(path, [folder], patterns)
    log_split(path, split, "the names of its sub-folders", {of: len(found) for of, found in files.items()})
    if split not in files:
        raise ValueError(
            f"acquisition_list: {path} must have a sub-folder for the split '{split}', it has "
            f"{', '.join(folder.name for folder, _ in marked)}; add one with that word in its name, such as "
            f"multicoil_{split}, or pass split='all' or one of the sub-folders"
        )
    # Without any, readable_files says what is there instead.
    chosen = [folder for folder, of in marked if of == split]
    return _cases(path, sorted(files[split]) or readable_files(NAME, path, chosen, patterns))


def _beside(datalist: Path, name: str) -> Path:
    return data_file((datalist.parent / Path(name).expanduser()).resolve())


def _cases(root: Path, files: list[Path]) -> list[dict[str, Any]]:
    """Name each file by its stem; where stems repeat by its path below ``root``; where those repeat with the suffix."""
    stems = Counter(file_stem(file) for file in files)
    paths = Counter(path_name(root, file) for file in files)
    entries = []
    for file in files:
        case = file_stem(file)
        if stems[case] > 1:
            case = path_name(root, file)
            if paths[case] > 1:
                case += file_suffix(file).replace(".", "-")
        known = M4RAW.search(file_stem(file))
        who = {names.SUBJECT: known.group(1)} if known else {}
        entries.append({names.PATH: str(file), names.CASE: case, **who})
    return sorted(entries, key=lambda entry: entry[names.CASE])


def _split_by_hash(root: Path, entries: list[dict[str, Any]], split: str, subject: str | None) -> list[dict[str, Any]]:
    if split == "all":
        return entries
    splits = [split_of_name(subject_of(NAME, str(entry[names.CASE]), subject)) for entry in entries]
    own = split_of_folder(root)
    warning = f"; its own name says {own}: give the folder above it to split by sub-folders" if own else ""
    log_split(root, split, "a hash of their names", {one: splits.count(one) for one in SPLITS}, warning)
    chosen = [entry for entry, of in zip(entries, splits, strict=True) if of == split]
    if not chosen:
        raise ValueError(
            f"acquisition_list: none of the {len(entries)} exams in {root} falls into the split '{split}' by the hash "
            "of its name; sort them into sub-folders train, validation and test, write a datalist, or pass split='all'"
        )
    return chosen


def _of_datalist(path: Path, split: str) -> list[dict[str, Any]]:
    wanted = f'{{"{split if split != "all" else "train"}": [{{"path": ..., "case": ...}}]}}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"acquisition_list: {path} must be a datalist {wanted}, it is no JSON ({error})") from error
    lists = content if isinstance(content, dict) else {}
    log_split(path, split, "the datalist", {one: len(lists[one]) for one in SPLITS if isinstance(lists.get(one), list)})
    chosen = [lists.get(one) for one in (SPLITS if split == "all" else (split,)) if one in lists]
    entries = [entry for one in chosen if isinstance(one, list) for entry in one]
    if not entries or not all(isinstance(entry, dict) and isinstance(entry.get(names.PATH), str) for entry in entries):
        raise ValueError(
            f"acquisition_list: {path} must be a datalist {wanted}, it has {sorted(lists)}; write it again"
        )
    files = [_beside(path, entry[names.PATH]) for entry in entries]
    maps = [_beside(path, str(entry[names.LESIONS])) if entry.get(names.LESIONS) else None for entry in entries]
    gone = next((file for file in (*files, *maps) if file is not None and not file.is_file()), None)
    if gone is not None:
        raise FileNotFoundError(
            f"acquisition_list: the datalist {path} names {gone}, which is not there; its paths are relative to itself"
        )
    found = [
        {
            names.PATH: str(file),
            names.CASE: checked_case(NAME, str(entry.get(names.CASE) or file_stem(file)), path),
            **({names.SUBJECT: str(entry[names.SUBJECT])} if entry.get(names.SUBJECT) else {}),
            **({} if lesions is None else {names.LESIONS: str(lesions)}),
        }
        for file, lesions, entry in zip(files, maps, entries, strict=True)
    ]
    repeated = [case for case, n in Counter(entry[names.CASE] for entry in found).items() if n > 1]
    if repeated:
        raise ValueError(f"acquisition_list: each case of {path} must have one name, {repeated[0]!r} is there twice")
    return sorted(found, key=lambda entry: entry[names.CASE])
