"""Boxes around lesions, drawn by readers and kept as a table in the style of fastMRI+, made into a map of lesions."""

from __future__ import annotations

import csv
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medkit.mri.readers.opening import file_stem

logger = logging.getLogger(__name__)

NUMBERS = ("slice", "x", "y", "width", "height")
COLUMNS = ("file", *NUMBERS, "label")
MAX_LABEL = 255


@dataclass(frozen=True)
class Box:
    """Rows ``y`` to ``y + height - 1`` and columns ``x`` to ``x + width - 1`` of a slice, counted from 0."""

    i_slice: int
    x: int
    y: int
    width: int
    height: int
    label: int


def read_boxes(path: str | os.PathLike[str]) -> dict[str, list[Box]]:
    """Read a table of boxes: ``.csv`` with the columns ``file, slice, x, y, width, height, label``.

    Lines whose column ``study_level`` says yes are of a whole exam, as in fastMRI+, and left out.

    Args:
        path: the table. ``label`` holds numbers from 1 to 255; or words, which are numbered from 1 in the order of the
            alphabet, as the log says.

    Returns:
        For each name under ``file``, without the suffix of a kind of file, its boxes.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if a column is missing, something is no whole number, or a box is empty or begins below 0.

    Example:
        >>> read_boxes("boxes.csv")["file1000001"][0]
        Box(i_slice=17, x=120, y=84, width=22, height=14, label=1)
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"read_boxes: 'boxes' must be a .csv file, there is none at {path}")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            names = [str(name).strip().lower() for name in reader.fieldnames or ()]
            lines = [(reader.line_num, dict(zip(names, line.values(), strict=False))) for line in reader]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"read_boxes: {path} must be a table of text with commas ({error}); write it again") from error
    missing = [column for column in COLUMNS if column not in names]
    if missing:
        raise ValueError(
            f"read_boxes: {path} must have the columns {', '.join(COLUMNS)}, it has no {', '.join(missing)}, but "
            f"{', '.join(names) or 'nothing'}; add a first line with their names"
        )
    rows = [
        (i, {column: str(line.get(column) or "").strip() for column in COLUMNS})
        for i, line in lines
        if str(line.get("study_level") or "").strip().lower() not in ("yes", "true", "1")
    ]
    labels = _numbers_of({row["label"] for _, row in rows}, path)
    boxes: dict[str, list[Box]] = {}
    for i, row in rows:
        i_slice, x, y, width, height = (_whole(row[column], column, i, path) for column in NUMBERS)
        if min(i_slice, x, y) < 0 or min(width, height) < 1 or not row["file"] or not row["label"]:
            raise ValueError(
                f"read_boxes: line {i} of {path} must name a file, a label and a box with slice, x and y of at least 0 "
                f"and width and height of at least 1, got {row}; mend or delete the line"
            )
        box = Box(i_slice, x, y, width, height, labels[row["label"]])
        boxes.setdefault(file_stem(Path(row["file"])), []).append(box)
    if not boxes:
        raise ValueError(f"read_boxes: {path} must hold at least one box, it holds none")
    return boxes


def map_of_boxes(boxes: list[Box], size: tuple[int, int, int], whole: tuple[int, int], name: str) -> Tensor:
    """Make boxes a map of lesions. Where boxes overlap, the smaller one counts.

    Args:
        boxes: of one exam.
        size: height and width of the image that ``x`` and ``y`` count in, and the exam's number of slices.
        whole: height and width of the image of which that is the centre, see :func:`center_crop`.
        name: of the exam, for the error.

    Returns:
        The labels, uint8 ``(1, *whole, slices)``.

    Raises:
        ValueError: if a box is not inside the image.
    """
    out = torch.zeros((1, *whole, size[2]), dtype=torch.uint8)
    top, left = (n // 2 - m // 2 for n, m in zip(whole, size[:2], strict=True))
    for box in sorted(boxes, key=lambda box: -box.width * box.height):
        if box.y + box.height > size[0] or box.x + box.width > size[1] or box.i_slice >= size[2]:
            raise ValueError(
                f"LoadLesionsd: the boxes of {name} must lie in its {size[2]} slices of {size[0]} rows and {size[1]} "
                f"columns, counted from 0, got {box}; does the table count in another image?"
            )
        rows = slice(top + box.y, top + box.y + box.height)
        out[0, rows, left + box.x : left + box.x + box.width, box.i_slice] = box.label
    return out


def _whole(text: str, column: str, i: int, path: Path) -> int:
    try:
        number = float(text)
    except ValueError:
        number = 0.5
    if not number.is_integer():
        raise ValueError(
            f"read_boxes: '{column}' in line {i} of {path} must be a whole number, got {text!r}; mend or delete the "
            "line"
        )
    return int(number)


def _numbers_of(labels: set[str], path: Path) -> Mapping[str, int]:
    """Return the number of each label: its own, or the place of the word in the alphabet."""
    if all(label.isdecimal() for label in labels):
        wrong = sorted(label for label in labels if not 1 <= int(label) <= MAX_LABEL)
        if wrong:
            raise ValueError(f"read_boxes: 'label' in {path} must be 1 to {MAX_LABEL} or a word, got {wrong[0]!r}")
        return {label: int(label) for label in labels}
    if len(labels) > MAX_LABEL:
        raise ValueError(f"read_boxes: {path} must have at most {MAX_LABEL} labels, got {len(labels)}")
    numbers = {label: k for k, label in enumerate(sorted(labels), 1)}
    logger.info("labels of %s: %s", path, ", ".join(f"{number} {label}" for label, number in numbers.items()))
    return numbers
