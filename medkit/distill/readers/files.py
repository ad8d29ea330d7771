"""Pictures in files: one folder for each class, or a table of paths and labels."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medkit.distill.readers.records import SPLIT_NAMES, Records, check_labels, split_name

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
VOLUMES = (".nii", ".nii.gz")


def is_image(path: Path) -> bool:
    """Return whether a file has the name of a picture or of a NIfTI volume."""
    return path.name.lower().endswith((*PICTURES, *VOLUMES)) and not path.name.startswith(".")


def read_folder(folder: Path) -> Records:
    """Read a folder with one sub-folder for each class; where wanted below folders ``train``, ``val`` and ``test``.

    Args:
        folder: its sub-folders bear the names of the classes, or of the splits.

    Returns:
        The records; classes in alphabetical order.

    Raises:
        ValueError: if there are no sub-folders with pictures, or the splits have different classes.
    """
    tops = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    has_splits = bool(tops) and all(path.name.lower() in SPLIT_NAMES for path in tops)
    roots = {path: SPLIT_NAMES[path.name.lower()] for path in tops} if has_splits else {folder: None}
    found: list[tuple[Path, str, str | None]] = []
    for root, split in roots.items():
        for top in sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")):
            found += [(path, top.name, split) for path in sorted(top.rglob("*")) if path.is_file() and is_image(path)]
    if not found:
        raise ValueError(
            f"image_list: {folder} must hold one sub-folder for each class with pictures ({', '.join(PICTURES)}, "
            f"{', '.join(VOLUMES)}) in it; found {[path.name for path in sorted(folder.iterdir())][:5]}"
        )
    classes = sorted({name for _, name, _ in found})
    if has_splits and (unknown := sorted(set(classes) - {name for _, name, split in found if split == "train"})):
        raise ValueError(f"image_list: {folder}: the classes {unknown} are not among those of the training split")
    labels = np.array([classes.index(name) for _, name, _ in found])
    cases = [str(path.relative_to(folder)) for path, _, _ in found]
    splits = [str(split) for _, _, split in found] if has_splits else None
    return Records(str(folder), [str(path) for path, _, _ in found], labels, classes, cases, None, splits)


def read_table(path: Path, known: Sequence[str] | None = None) -> Records:
    """Read a CSV table with the columns ``path`` and ``label``, and where wanted ``split`` and ``subject``.

    Args:
        path: the table; its paths are seen from its folder. Several labels at a time are separated by ``|``.
        known: names of the classes; ``None``: all that occur, in alphabetical order.

    Returns:
        The records.

    Raises:
        ValueError: if a column or a label is missing or unknown.
        FileNotFoundError: if a picture is missing.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        columns = reader.fieldnames or []
        if missing := [name for name in ("path", "label") if name not in columns]:
            raise ValueError(
                f"image_list: {path} must have the columns path,label[,split][,subject], it lacks {missing}"
            )
        rows = [{name: (row[name] or "").strip() for name in columns if name} for row in reader]
    several = any("|" in row["label"] for row in rows)
    words = [[word.strip() for word in row["label"].split("|") if word.strip()] for row in rows]
    if not several and (empty := [row["path"] for row, word in zip(rows, words, strict=True) if not word]):
        raise ValueError(f"image_list: {path}: every picture must have a label, {empty[:3]} have none")
    classes = list(known) if known else sorted({word for row in words for word in row})
    if unknown := sorted({word for row in words for word in row} - set(classes)):
        raise ValueError(f"image_list: {path}: the labels {unknown[:5]} are not among the classes {classes}")
    files = [Path(row["path"]) if Path(row["path"]).is_absolute() else path.parent / row["path"] for row in rows]
    if lost := [str(file) for file in files if not file.is_file()]:
        raise FileNotFoundError(f"image_list: {path} names {len(lost)} files that do not exist, the first is {lost[0]}")
    if several:
        labels = np.array([[float(name in row) for name in classes] for row in words], dtype=np.float32)
    else:
        labels = np.array([classes.index(row[0]) for row in words], dtype=np.int64)
    check_labels(labels, len(files), len(classes), str(path))
    return Records(
        str(path),
        [str(file) for file in files],
        labels,
        classes,
        [row["path"] for row in rows],
        [row["subject"] for row in rows] if "subject" in columns else None,
        [split_name(row["split"], str(path)) for row in rows] if "split" in columns else None,
    )
