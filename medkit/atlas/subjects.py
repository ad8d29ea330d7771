"""The subjects of an atlas: their files, found by pattern, by list or by table, and matched by name."""

from __future__ import annotations

import csv
import glob
import json
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from medkit.atlas.subject_names import HOW_CONTRASTS, SUFFIXES, lookalikes, named_after, named_files, refuse_repeated
from medkit.data import BrainCohort
from medkit.data.cohort.labels import BRAIN
from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)

LISTS = (".json", ".csv", ".tsv")
NAMES = ("name", "subject", "case")
PARTS = ("mask", "weight", "labels")
NOT_CONTRASTS = (*NAMES, *PARTS, "split")

Files = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


@dataclass(frozen=True)
class AtlasSubject:
    """Files of one subject.

    Args:
        name: what its results are called.
        images: path of each contrast it has.
        mask: path of what is kept of its images, such as the brain; all else becomes background. ``None``: everything.
        weight: path of how much each voxel counts, 0 to 1: 0 where a lesion or a hole should not count. ``None``: 1.
        labels: path of its label map; ``None``: none.
        attributes: numbers that belong to it, such as its age.
    """

    name: str
    images: Mapping[str, str]
    mask: str | None = None
    weight: str | None = None
    labels: str | None = None
    attributes: Mapping[str, float] = field(default_factory=dict)


def list_subjects(
    images: Files | Mapping[str, Files] | None,
    masks: Files | None = None,
    weights: Files | None = None,
    labels: Files | None = None,
    covariates: str | os.PathLike[str] | None = None,
    cohort: BrainCohort | None = None,
    like: Mapping[str, str] | None = None,
) -> list[AtlasSubject]:
    """Find the subjects of an atlas.

    Files of different kinds belong together by their names: what all files of a kind end with is taken off, so that
    ``a_T1.nii.gz`` and ``b_T1.nii.gz`` are the subjects ``a`` and ``b``, and ``a_brain_mask.nii.gz`` is a mask of
    ``a``. Two files of one subject that are named as in BIDS, ``sub-01_…``, are refused but for two sessions; other
    names that look like one subject are told by a warning.

    Args:
        images: pattern such as ``dir/*.nii.gz``, folder, list of paths, or for each contrast one of these, and then a
            subject may lack some; or a ``.json``, ``.csv`` or ``.tsv`` file with one row for each subject: ``name``,
            one column for each contrast, and where there are ``mask``, ``weight``, ``labels``; columns of numbers are
            attributes. ``None``: the subjects of ``cohort``.
        masks: pattern, folder or list of masks of what is kept, such as brains.
        weights: pattern, folder or list of how much each voxel counts.
        labels: pattern, folder or list of label maps.
        covariates: ``.csv`` or ``.tsv`` file with a column ``name`` and columns of numbers.
        cohort: simulated subjects, with masks of their brains and labels of their tissues; what is missing of their
            files is generated.
        like: other subjects, name and file: an ending that was taken off their names is taken off these too, be it
            one file alone.

    Returns:
        The subjects, in the order of their names.

    Raises:
        ValueError: if nothing is found, names are not unique, files cannot be matched, or two are of one subject.

    Example:
        >>> [subject.name for subject in list_subjects("brains/*_T1.nii.gz", labels="brains/*_seg.nii.gz")]
        ['1000', '1001']
    """
    if images is None:
        if cohort is None:
            raise ValueError("list_subjects: 'images' must be given, or a simulated 'cohort'")
        subjects = _simulated(cohort)
    elif isinstance(images, (str, os.PathLike)) and str(images).lower().endswith(LISTS):
        subjects = _listed(Path(images))
    else:
        subjects = _found(images if isinstance(images, Mapping) else {"image": images}, like)
    for kind, files in zip(PARTS, (masks, weights, labels), strict=True):
        if files is not None:
            subjects = with_files(subjects, kind, files)
    lacking = [s.name for s in subjects if s.mask is None]
    if masks is not None and lacking:
        raise ValueError(
            f"list_subjects: of {len(subjects)} subjects {len(lacking)} have no mask, such as {lacking[0]!r}; give one "
            "of each, named like its image"
        )
    if covariates is not None:
        rows = {_row_name(row, Path(covariates)): row for row in _rows(Path(covariates))}
        _check_known("covariates", rows, subjects)
        subjects = [_with(s, attributes={**s.attributes, **_numbers(rows.get(s.name, {}))}) for s in subjects]
    return sorted(subjects, key=lambda s: s.name)


def _found(kinds: Mapping[str, Files], like: Mapping[str, str] | None) -> list[AtlasSubject]:
    """Subjects by the names of their files, for each contrast."""
    paths = {contrast: _paths(files, contrast) for contrast, files in kinds.items()}
    found: dict[str, dict[str, str]] = {}
    for contrast in sorted(paths, key=lambda c: len(paths[c]) < 2):  # one file alone is named after those of the others
        known = sorted(set().union(*found.values()))
        found[contrast] = _named(paths[contrast], contrast, known if len(paths[contrast]) < 2 else (), like)
    files = {name: path for contrast in found.values() for name, path in contrast.items()}
    refuse_repeated(files)
    for sentence in lookalikes(list(files)):
        logger.warning("%s %s", sentence, f"If they are one, leave one out; {HOW_CONTRASTS}.")
    return [AtlasSubject(n, {c: found[c][n] for c in kinds if n in found[c]}) for n in sorted(files)]


def with_files(subjects: Sequence[AtlasSubject], kind: str, files: Files) -> list[AtlasSubject]:
    """Give subjects files of a kind, matched by their names as :func:`list_subjects` does.

    Args:
        subjects: those who get them.
        kind: ``"mask"``, ``"weight"`` or ``"labels"``.
        files: pattern, folder or list; of those who get none, what they have stays.

    Raises:
        ValueError: if nothing is found, names are not unique, or none is that of a subject.
    """
    paths = _named(files, kind, [subject.name for subject in subjects])
    if len(paths) == len(subjects) == 1:  # one file alone shows no ending that all of its kind share
        paths = {subjects[0].name: next(iter(paths.values()))}
    _check_known(kind, paths, subjects)
    return [_with(s, **{kind: paths.get(s.name, getattr(s, kind))}) for s in subjects]


def _with(subject: AtlasSubject, **changes: object) -> AtlasSubject:
    return AtlasSubject(**{**subject.__dict__, **changes})


def _check_known(kind: str, found: Mapping[str, object], subjects: Sequence[AtlasSubject]) -> None:
    names = {subject.name for subject in subjects}
    if not names & set(found):
        raise ValueError(
            f"list_subjects: {kind} must be named like the images, such as {sorted(names)[0]!r}; found are "
            f"{', '.join(map(repr, sorted(found)[:3]))}"
        )


def _paths(files: Files, kind: str) -> list[str]:
    """Files of a pattern, a folder or a list."""
    if isinstance(files, (str, os.PathLike)):
        folder = Path(files)
        found = [str(path) for path in folder.iterdir()] if folder.is_dir() else glob.glob(str(files))  # noqa: PTH207
        paths = [path for path in sorted(found) if path.lower().endswith(SUFFIXES)]
        if not paths:
            raise ValueError(
                f"list_subjects: no NIfTI file (.nii, .nii.gz) is there for {kind!r}: {files}; give a folder, a list, "
                "or a pattern in quotes"
            )
        return paths
    paths = [os.fspath(path) for path in files]
    missing = [path for path in paths if not Path(path).is_file()]
    if missing or not paths:
        what = f"there is no {missing[0]}" if missing else "none was given"
        raise ValueError(f"list_subjects: {kind!r} must be files that exist, {what}")
    return paths


def _named(files: Files, kind: str, names: Sequence[str] = (), like: Mapping[str, str] | None = None) -> dict[str, str]:
    """Path of each subject; files that match none of the known names otherwise belong to those they begin with."""
    paths = _paths(files, kind)
    found = named_files(paths, kind, like)
    return found if not names or set(names) & set(found) else named_after(paths, names) or found


def _rows(path: Path) -> list[dict[str, object]]:
    """Rows of a table or of a JSON list."""
    if not path.is_file():
        raise ValueError(f"list_subjects: there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            rows = json.loads(text)
            rows = rows.get("training", rows.get("images", rows)) if isinstance(rows, dict) else rows
        else:
            rows = list(csv.DictReader(text.splitlines(), delimiter="\t" if path.suffix.lower() == ".tsv" else ","))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"list_subjects: {path} must be a readable table or JSON list: {error}") from error
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"list_subjects: {path} must hold one row for each subject, with names of columns")
    return rows


def _row_name(row: Mapping[str, object], path: Path) -> str:
    name = next((row[key] for key in NAMES if row.get(key)), None)
    if name is None or not re.fullmatch(r"[\w.+@-]+", str(name)):
        raise ValueError(
            f"list_subjects: each row of {path} must have a 'name' of letters, digits and _ . + @ -, got {name!r}"
        )
    return str(name)


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _numbers(row: Mapping[str, object]) -> dict[str, float]:
    found = {key: _number(value) for key, value in row.items() if key not in NOT_CONTRASTS}
    return {key: number for key, number in found.items() if number is not None}


def _listed(path: Path) -> list[AtlasSubject]:
    subjects, seen = [], set()
    for row in _rows(path):
        name = _row_name(row, path)
        if name in seen:
            raise ValueError(f"list_subjects: the name {name!r} stands twice in {path}")
        seen.add(name)

        def resolved(value: object) -> str:
            file = path.parent / str(value)
            if not file.is_file():
                raise ValueError(f"list_subjects: {path} names a file that does not exist: {file}")
            return str(file.resolve())

        numbers = _numbers(row)
        images = {k: resolved(v) for k, v in row.items() if v and k not in NOT_CONTRASTS and k not in numbers}
        if not images:
            raise ValueError(f"list_subjects: {path} must name at least one image of {name!r}")
        parts = {key: resolved(row[key]) for key in PARTS if row.get(key)}
        subjects.append(AtlasSubject(name, images, **parts, attributes=numbers))
    return subjects


def _simulated(cohort: BrainCohort) -> list[AtlasSubject]:
    """Subjects of a simulated cohort, with masks of their brains."""
    subjects = []
    for entry in cohort.datalist():
        mask, labels = brain_files(cohort, entry)
        images = {contrast: entry[contrast] for contrast in cohort.contrasts}
        subjects.append(AtlasSubject(entry["case"], images, mask=mask, labels=labels))
    return subjects


def brain_files(cohort: BrainCohort, entry: Mapping[str, str], contrast: str | None = None) -> tuple[str, str]:
    """Write the brain of a simulated head beside its files, once.

    Args:
        cohort: of the head.
        entry: the head, of ``cohort.datalist()``.
        contrast: of the image; ``None``: a mask.

    Returns:
        Paths of the image of the brain, 0 outside, or of the mask of the brain, and of its labels.
    """
    name = "" if contrast is None else f"_{contrast}"
    found, labels = (Path(entry["labels"]).with_name(f"{entry['case']}_brain{end}.nii") for end in (name, "_labels"))
    if not (found.exists() and labels.exists()):
        stored = nib.load(entry["labels"])
        values = np.asarray(stored.dataobj)
        inside = np.isin(values, [cohort.LABELS[tissue] for tissue in BRAIN])
        kept = inside.astype(np.uint8)
        if contrast is not None:
            kept = np.where(inside, np.asarray(nib.load(entry[contrast]).dataobj, dtype=np.float32), 0)
        for path, array in ((found, kept), (labels, np.where(inside, values, 0).astype(np.uint8))):
            with atomic_path(path) as temporary:
                nib.save(nib.Nifti1Image(array, stored.affine), temporary)
    return str(found), str(labels)
