"""Lists of a target contrast with its reference contrasts, subject by subject and split by split."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from medkit.data import BrainCohort
from medkit.data import keys as names
from medkit.data.splits import COHORT_SUBJECTS, SPLITS, check_split, split_of_name
from medkit.mri.readers.aligning import MODES, align_entry
from medkit.mri.readers.contrasts import CONTRASTS, Exam, absent_contrasts, exams_of_folder, exams_of_table
from medkit.mri.readers.folders import existing_path
from medkit.mri.readers.grids import pair_fault
from medkit.mri.readers.guides import read_through
from medkit.mri.readers.layout import joined_axes
from medkit.mri.readers.mispairing import with_wrong_guides
from medkit.mri.readers.opening import file_stem, open_acquisition
from medkit.mri.readers.slice_signal import check_slices, entries_of_slices

logger = logging.getLogger(__name__)

NAME = "pair_list"
COHORT_MISALIGNMENT = 0.5  # mm, along each axis
Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def pair_list(
    dataset_dir: str | os.PathLike[str] | None = None,
    split: str = "all",
    cohort: BrainCohort | None = None,
    per: str = "slice",
    target: str = "t2",
    guides: str | Sequence[str] = "t1",
    guide_path: Paths | None = None,
    pattern: str | Sequence[str] = "*",
    subject: str | None = None,
    align: str = "none",
    skip_bad: bool = False,
    central_fraction: float = 1.0,
    min_signal: float = 0.0,
    each_guide: bool = False,
    mispaired: float = 0.0,
    seed: int = 0,
    key: str | None = None,
    axes: str | Sequence[str] | None = None,
    slice_axis: int = 2,
    domain: str | None = None,
    centred: bool = True,
) -> list[dict[str, Any]]:
    r"""List examinations, or their slices, with a contrast to restore and other ones of the same subject to help.

    * ``dataset_dir`` ``None``: the simulated cohort, with lesions and with contrasts that do not quite lie upon each
      other.
    * A file, with ``guide_path``: that one pair, whatever the split.
    * A ``.json`` or ``.csv``: a table of pairs, see below.
    * A folder: its files whose names name a contrast (``IXI002-Guys-0828-T2.nii.gz``, ``BraTS-GLI-00001-000-t2w.nii``,
      ``sub-01_T1w.nii.gz``, or ``t2.nii`` in a folder for each examination), paired by the rest of the name.
      Sub-folders named for splits count as in :func:`acquisition_list`; otherwise each subject goes by a hash of its
      name.

    A datalist is ``{"train": [{"t2": path, "pd": path, "case": name, "subject": name}, ...], ...}``, where case and
    subject may be left out; a table has these names as columns, and ``split``. Paths are relative to the file.

    Maps of lesions, for :class:`LoadLesionsd`, are those of the cohort, files in the folder with the word ``seg`` or
    ``lesions`` in their names (``BraTS-GLI-00001-000-seg.nii.gz``), and what a datalist or a table names ``lesions``.

    All examinations of a subject are in one split; a source that says otherwise is refused.

    Args:
        dataset_dir: folder, file, datalist, table, or ``None``.
        split: ``"train"``, ``"validation"``, ``"test"`` or ``"all"``.
        cohort: a :class:`medkit.data.BrainCohort` for ``dataset_dir=None``; ``None`` makes one of the split.
        per: ``"slice"`` for an entry per slice, ``"volume"`` for one per examination.
        target: contrast to restore: ``"t1"``, ``"t1c"``, ``"t2"``, ``"pd"``, ``"flair"``, or another word of the names.
        guides: the reference contrast, or several.
        guide_path: the file of each reference contrast, for a single file.
        pattern: file names to keep, or several such.
        subject: regular expression; what it finds in an examination's name (its first group, if it has one) is the
            subject. ``None``: ``IXI002``, ``BraTS-GLI-00001`` and ``sub-01`` are known, other names are subjects.
        align: ``"none"``: both contrasts must lie on one grid; ``"grid"``: resample the reference on the target's grid;
            ``"rigid"``: register it first by mutual information, also on equal grids. The motion found is logged.
        skip_bad: leave out an examination that is not complete, whose contrasts do not fit or that cannot be read, with
            a warning, instead of raising its error. Each file is then read through once.
        central_fraction: share of each examination's slices to keep, around the middle one, above 0 to 1.
        min_signal: keep slices whose root mean square is at least this share of that of the target's strongest slice.
        each_guide: an entry for each reference contrast by itself, its name behind the case's, instead of one entry
            with all of them; examinations may then lack some of them.
        mispaired: share of the entries, 0 to 1, that get the references of another subject: to learn, or to test, that
            a reference may be wrong.
        seed: of which entries those are.
        key: as for :func:`open_acquisition`, like the arguments that follow.
        axes: names of the array's axes.
        slice_axis: for volumes, the axis that counts the slices.
        domain: ``"kspace"`` or ``"image"``.
        centred: whether the zero frequency of stored k-space is at index ``n // 2``.

    Returns:
        Entries with ``path`` (of the target), ``guide`` (list of paths), ``guide_contrasts`` (their names), ``case``,
        ``subject``, where there is one ``lesions`` (path), and, per slice, ``i_slice``, sorted by case and slice.

    Raises:
        FileNotFoundError: if a file does not exist.
        ValueError: if an argument is out of its range, the split is empty, or an examination is bad: without one of the
            contrasts, of contrasts on different grids, orientations or numbers of coils, or unreadable; or if
            references are to be of other subjects and there is one subject alone.

    Example:
        >>> pair_list("IXI/", "validation", guides="pd")[0]
        {'path': '/data/IXI/IXI012-HH-1211-T2.nii.gz', 'guide': ['/data/IXI/IXI012-HH-1211-PD.nii.gz'],
         'guide_contrasts': ['pd'], 'case': 'IXI012-HH-1211', 'subject': 'IXI012', 'i_slice': 0}
    """
    check_split(NAME, split, per)
    check_slices(NAME, central_fraction, min_signal)
    wanted = _contrasts(target, guides)
    if align not in MODES:
        raise ValueError(f"{NAME}: 'align' must be one of {MODES}, got {align!r}")
    if not 0 <= mispaired <= 1:
        raise ValueError(f"{NAME}: 'mispaired' must be 0 to 1, got {mispaired}")
    options: dict[str, Any] = dict(
        key=key, axes=joined_axes(axes), slice_axis=slice_axis, domain=domain, centred=centred
    )
    if dataset_dir is None:
        entries = _of_cohort(cohort, split, wanted)
    else:
        path = existing_path(NAME, Path(dataset_dir))
        is_table = path.suffix.lower() in (".json", ".csv")
        if path.is_file() and not is_table:
            exams = [_single(path, guide_path, wanted)]
        elif guide_path is not None:
            raise ValueError(f"{NAME}: 'guide_path' belongs to a single file, 'dataset_dir' is {path}; leave it out")
        else:
            patterns = [pattern] if isinstance(pattern, str) else list(pattern)
            exams = (
                exams_of_table(path, wanted, subject) if is_table else exams_of_folder(path, patterns, wanted, subject)
            )
            _check_contrasts(exams, wanted, path, each_guide)
            exams = _of_split(exams, split, path)
        entries = _good_entries(exams, wanted, align, options, skip_bad, each_guide)
    listed = [one for entry in entries for one in _one_for_each_guide(entry)] if each_guide else entries
    if per == "slice":
        entries = entries_of_slices(NAME, listed, options, central_fraction, min_signal)
    else:
        entries = listed
    return with_wrong_guides(NAME, listed, entries, mispaired, seed) if mispaired > 0 else entries


def _contrasts(target: str, guides: str | Sequence[str]) -> list[str]:
    """Return the names of the target and of the references, in the words that files are searched for."""
    given = [target, *([guides] if isinstance(guides, str) else guides)]
    wanted = [CONTRASTS.get(str(word).lower(), str(word).lower()) for word in given]
    if len(wanted) < 2 or len(set(wanted)) < len(wanted) or not all(wanted):
        raise ValueError(
            f"{NAME}: 'guides' must be at least one contrast other than 'target' {target!r}, got {guides!r}"
        )
    return wanted


def _of_cohort(cohort: BrainCohort | None, split: str, wanted: list[str]) -> list[dict[str, Any]]:
    if cohort is None:
        splits = SPLITS if split == "all" else (split,)
        cohorts = [
            BrainCohort(COHORT_SUBJECTS[one], one, contrasts=wanted, lesions=True, misalignment=COHORT_MISALIGNMENT)
            for one in splits
        ]
    elif split not in (cohort.split, "all"):
        raise ValueError(
            f"{NAME}: 'cohort' is the {cohort.split} split, but 'split' is {split!r}; make a cohort of that split"
        )
    else:
        cohorts = [cohort]
    missing = [word for one in cohorts for word in wanted if word not in one.contrasts]
    if missing:
        raise ValueError(
            f"{NAME}: 'target' and 'guides' must be of {cohorts[0].contrasts} for this cohort, got {missing}"
        )
    return [
        {
            names.PATH: str(entry[wanted[0]]),
            names.GUIDE: [str(entry[word]) for word in wanted[1:]],
            names.GUIDE_CONTRASTS: wanted[1:],
            names.CASE: entry[names.CASE],
            names.SUBJECT: entry[names.CASE],
            **({names.LESIONS: entry[names.LESIONS]} if names.LESIONS in entry else {}),
        }
        for one in cohorts
        for entry in one.datalist()
    ]


def _single(path: Path, guide_path: Paths | None, wanted: list[str]) -> Exam:
    given = (
        [] if guide_path is None else [guide_path] if isinstance(guide_path, (str, os.PathLike)) else list(guide_path)
    )
    if len(given) != len(wanted) - 1:
        raise ValueError(
            f"{NAME}: 'guide_path' must name {len(wanted) - 1} file for the single target {path}, got {len(given)}; "
            "pass the reference contrast of the same subject"
        )
    guides = [Path(one).expanduser().resolve() for one in given]
    return Exam(file_stem(path), file_stem(path), dict(zip(wanted, [path, *guides], strict=True)))


def _check_contrasts(exams: list[Exam], wanted: list[str], path: Path, any_guide: bool) -> None:
    """Refuse a contrast that no examination has, which may be misspelt; of several references by themselves warn."""
    absent, there = absent_contrasts(exams, wanted)
    if not absent:
        return
    if any_guide and wanted[0] not in absent and len(absent) < len(wanted) - 1:
        logger.warning("No exam of %s has the contrasts %s; it has %s", path, ", ".join(absent), ", ".join(there))
        return
    raise ValueError(
        f"{NAME}: 'target' {wanted[0]!r} and 'guides' {wanted[1:]} must be contrasts of the exams of {path}, none has "
        f"{', '.join(absent)}; name some of {', '.join(there)}, or add the files"
    )


def _of_split(exams: list[Exam], split: str, path: Path) -> list[Exam]:
    """Return the examinations of a split, by what the source says or else by the hash of the subject."""
    if not any(exam.split for exam in exams):
        chosen = [exam for exam in exams if split in ("all", split_of_name(exam.subject))]
    else:
        splits: dict[str, str | None] = {}
        for exam in exams:
            if splits.setdefault(exam.subject, exam.split) != exam.split:
                raise ValueError(
                    f"{NAME}: the subject {exam.subject!r} must be in one split of {path}, it is in "
                    f"{splits[exam.subject]} and in {exam.split}: a network would be tested on what it learned"
                )
        chosen = [exam for exam in exams if split in ("all", exam.split)]
    if not chosen:
        raise ValueError(
            f"{NAME}: none of the {len(exams)} exams of {path} is in the split '{split}'; sort them into sub-folders "
            "train, validation and test, write a datalist, or pass split='all'"
        )
    return chosen


def _good_entries(
    exams: list[Exam], wanted: list[str], align: str, options: dict[str, Any], skip_bad: bool, any_guide: bool
) -> list[dict[str, Any]]:
    """Return the entries of examinations that are complete, fit and, with ``skip_bad``, can be read."""
    entries, n_bad = [], 0
    remedy = "" if skip_bad or len(exams) == 1 else "; or pass skip_bad=True"
    for exam in tqdm(exams, desc="pairing", leave=False, disable=True if align == "none" else None):
        try:
            entry = _checked_entry(exam, wanted, align, options, any_guide, remedy)
            if skip_bad:
                for path in (entry[names.PATH], *entry[names.GUIDE]):
                    read_through(path, tuple(options.values()))
            entries.append(entry if align == "none" else align_entry(entry, align, options))
        except (ValueError, FileNotFoundError) as error:
            if not skip_bad:
                raise
            n_bad += 1
            logger.warning("%s is left out: %s", exam.case, error)
    if not entries:
        raise ValueError(f"{NAME}: all {n_bad} exams are bad, see the warnings above; repair one of them")
    return entries


def _one_for_each_guide(entry: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {**entry, names.GUIDE: [path], names.GUIDE_CONTRASTS: [word], names.CASE: f"{entry[names.CASE]}_{word}"}
        for path, word in zip(entry[names.GUIDE], entry[names.GUIDE_CONTRASTS], strict=True)
    ]


def _checked_entry(
    exam: Exam, wanted: list[str], align: str, options: dict[str, Any], any_guide: bool, remedy: str
) -> dict[str, Any]:
    missing = [word for word in wanted if word not in exam.files]
    if any_guide and wanted[0] not in missing and len(missing) < len(wanted) - 1:
        wanted = [word for word in wanted if word not in missing]
        missing = []
    if missing:
        there = ", ".join(str(file) for file in exam.files.values())
        raise ValueError(
            f"{NAME}: {exam.case!r} must have the contrasts {', '.join(wanted)}, it has no {', '.join(missing)} beside "
            f"{there}; add it{remedy}"
        )
    target = open_acquisition(exam.files[wanted[0]], **options)
    for word in wanted[1:]:
        fault = pair_fault(target, open_acquisition(exam.files[word], **options), align == "none")
        if fault is not None:
            raise ValueError(f"{NAME}: {fault}{remedy}")
    if exam.lesions is not None and not exam.lesions.is_file():
        raise FileNotFoundError(f"{NAME}: the map of lesions of {exam.case!r} is not there: {exam.lesions}")
    return {
        names.PATH: str(target.path),
        names.GUIDE: [str(exam.files[word]) for word in wanted[1:]],
        names.GUIDE_CONTRASTS: wanted[1:],
        names.CASE: exam.case,
        names.SUBJECT: exam.subject,
        **({} if exam.lesions is None else {names.LESIONS: str(exam.lesions)}),
    }
