"""Which subjects train, validate and test: of the simulated cohort, or of a folder of images in one space."""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path

from medkit.atlas.subjects import brain_files
from medkit.data import BrainCohort
from medkit.data.keys import CASE, IMAGE, LABELS

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test", "all")
FOLDERS = {"train": "train", "training": "train", "validation": "validation", "val": "validation", "test": "test"}
SUFFIXES = (".nii.gz", ".nii")
ENDING = "_labels"


def subject_list(
    dataset_dir: str | os.PathLike[str] | None = None,
    split: str = "all",
    cohort: BrainCohort | None = None,
    contrast: str = "t1",
    skull_stripped: bool = True,
) -> list[dict[str, str]]:
    """List subjects whose images share a space, for priors to be trained on.

    * ``dataset_dir`` ``None``: the simulated cohort.
    * A folder: its NIfTI images at any depth, affinely aligned with each other. Where it has sub-folders named
      ``train``, ``validation`` (or ``val``) and ``test``, those; otherwise each image goes by a hash of its name, 80 %
      train, 10 % validation, 10 % test. A label map of ``anna.nii.gz`` lies beside it as ``anna_labels.nii.gz``.

    Args:
        dataset_dir: the folder, or ``None``.
        split: ``"train"``, ``"validation"``, ``"test"`` or ``"all"``.
        cohort: for ``None``; its split counts.
        contrast: image of the cohort.
        skull_stripped: whether the cohort's images are of brains alone, as those that atlases are built of; files of
            ``dataset_dir`` are taken as they are.

    Returns:
        For each subject ``case`` (its name), ``image`` and, where there are, ``labels`` (paths), sorted by name.

    Raises:
        FileNotFoundError: if there is no such folder.
        ValueError: if an argument is unknown, there is neither folder nor cohort, or fewer than two subjects.

    Example:
        >>> subject_list("aligned", "train")[0]
        {'case': 'anna', 'image': '/data/aligned/anna.nii.gz', 'labels': '/data/aligned/anna_labels.nii.gz'}
    """
    if split not in SPLITS:
        raise ValueError(f"subject_list: 'split' must be one of {', '.join(SPLITS)}, got {split!r}")
    if dataset_dir is None:
        if cohort is None or contrast not in cohort.contrasts:
            raise ValueError("subject_list: give 'dataset_dir', or a 'cohort' that has the 'contrast'")
        found = [{CASE: e["case"], IMAGE: e[contrast], LABELS: e["labels"]} for e in cohort.datalist()]
        if skull_stripped:
            brains = (brain_files(cohort, e, contrast) for e in cohort.datalist())
            found = [{**e, IMAGE: image, LABELS: labels} for e, (image, labels) in zip(found, brains, strict=True)]
        where = "the simulated cohort"
    else:
        found, where = _of_folder(Path(dataset_dir), split), str(dataset_dir)
    if len(found) < 2:
        raise ValueError(
            f"subject_list: the split {split!r} of {where} must have at least two subjects to make pairs, got "
            f"{len(found)}; give more images, or sub-folders train, validation and test"
        )
    return found


def _of_folder(folder: Path, split: str) -> list[dict[str, str]]:
    if not folder.is_dir():
        raise FileNotFoundError(f"subject_list: 'dataset_dir' must be a folder, but there is none at {folder}")
    files = sorted(
        path for path in folder.rglob("*") if path.name.lower().endswith(SUFFIXES) and _is_shown(path, folder)
    )
    images = [path for path in files if not _stem(path).endswith(ENDING)]
    if not images:
        raise ValueError(f"subject_list: 'dataset_dir' must hold NIfTI images (.nii, .nii.gz), {folder} has none")
    maps = {path.parent / _stem(path): path for path in files if _stem(path).endswith(ENDING)}
    named = {path: _named_split(path, folder) for path in images}
    by_folder = any(named.values())
    splits = {path: named[path] if by_folder else _hashed_split(_stem(path)) for path in images}
    names = [_stem(path) for path in images]
    entries = []
    for path in images:
        if split not in ("all", splits[path]):
            continue
        name = _stem(path)
        case = name if names.count(name) == 1 else path.relative_to(folder).as_posix().replace("/", "_")
        entry = {CASE: case.removesuffix(".gz").removesuffix(".nii"), IMAGE: str(path.resolve())}
        labels = maps.get(path.parent / f"{name}{ENDING}")
        entries.append(entry if labels is None else {**entry, LABELS: str(labels.resolve())})
    how = "its sub-folders" if by_folder else "a hash of the names"
    logger.info("%s: %d of %d images are %s, by %s", folder, len(entries), len(images), split, how)
    return sorted(entries, key=lambda entry: entry[CASE])


def _is_shown(path: Path, folder: Path) -> bool:
    return path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts)


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _named_split(path: Path, folder: Path) -> str | None:
    return next(
        (FOLDERS[part.lower()] for part in path.relative_to(folder).parts[:-1] if part.lower() in FOLDERS), None
    )


def _hashed_split(name: str) -> str:
    share = int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 16**8
    return "train" if share < 0.8 else "validation" if share < 0.9 else "test"
