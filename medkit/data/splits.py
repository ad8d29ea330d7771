"""Which split an exam belongs to: by the sub-folder that it lies in, else by a hash of a name."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Mapping
from pathlib import Path

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")
M4RAW = re.compile(r"(\d{8,})_(?:T1|T2|FLAIR)\d\d$")  # subject, contrast, repetition
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Shares of a folder without sub-folders for the splits, in percent of the hash's range.
TRAIN_PERCENT, VALIDATION_PERCENT = 80, 10
COHORT_SUBJECTS = {"train": 40, "validation": 8, "test": 8}


def check_split(name: str, split: str, per: str) -> None:
    """Raise ``ValueError`` in the name of a listing function if its ``split`` or ``per`` is unknown."""
    if split not in (*SPLITS, "all"):
        raise ValueError(f"{name}: 'split' must be {', '.join(SPLITS)} or all, got {split!r}")
    if per not in ("slice", "volume"):
        raise ValueError(f"{name}: 'per' must be 'slice' or 'volume', got {per!r}")


def log_split(path: Path, split: str, how: str, counts: Mapping[str, int], warning: str = "") -> None:
    """Say how many exams each split has, and by what; nothing for ``all``."""
    if split == "all":
        return
    shares = ", ".join(f"{counts[one]} {one}" for one in SPLITS if one in counts)
    level = logging.WARNING if warning else logging.INFO
    logger.log(level, "%s: the exams of %s are split by %s%s", split, path, how, f": {shares}" * bool(shares) + warning)


def split_of_folder(folder: Path) -> str | None:
    """Return the split that a folder's name names, as ``train``, ``val`` or ``multicoil_val``; else ``None``."""
    words = re.split(r"[_-]", folder.name.lower())
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


def split_of_name(name: str) -> str:
    """Return the split of a name by its hash alone: 80 % ``train``, 10 % ``validation``, 10 % ``test``."""
    percent = int.from_bytes(hashlib.sha256(name.encode("utf-8")).digest()[:8], "big") % 100
    if percent < TRAIN_PERCENT:
        return "train"
    return "validation" if percent < TRAIN_PERCENT + VALIDATION_PERCENT else "test"


def subject_of(name: str, case: str, pattern: str | None) -> str:
    """Return what a regular expression finds in a case (its first group, if it has one).

    Without one, the case; of M4Raw's names (``2022061003_T101``, first repetition of T1) the subject.

    Raises:
        ValueError: in the name of the listing function, if it finds nothing.
    """
    if pattern is None:
        known = M4RAW.search(case)
        return known.group(1) if known else case
    found = re.search(pattern, case)
    if found is None:
        raise ValueError(f"{name}: 'subject' must be found in each file's name, {pattern!r} is not in {case!r}")
    return found.group(1) if found.re.groups else found.group()
