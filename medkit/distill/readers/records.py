"""Labelled pictures of one source, whatever its format, and their deterministic split by subject."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np

SPLITS = ("train", "validation", "test")
SHARES = (0.7, 0.1, 0.2)
# What the splits are called elsewhere.
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Records:
    """Labelled pictures.

    Args:
        source: where they are from, for messages.
        images: a list of paths, or an array ``(N, H, W[, C])``.
        labels: int64, ``(N,)``; of several labels at a time float32, 0 or 1, ``(N, n_classes)``.
        classes: names of the classes.
        cases: name of each picture.
        subjects: whose picture each is; ``None`` where that is not known.
        splits: ``train``, ``validation`` or ``test`` of each; ``None`` where the source says nothing.
    """

    source: str
    images: Any
    labels: np.ndarray
    classes: list[str]
    cases: list[str]
    subjects: list[str] | None = None
    splits: list[str] | None = None

    def indices(self, split: str) -> list[int]:
        """Return the numbers of the pictures of a split; ``"all"`` are all.

        Raises:
            ValueError: if the source has splits, and not this one; or if it is too small to be split.
        """
        if split == "all":
            return list(range(len(self.cases)))
        splits = self.splits if self.splits is not None else self._drawn_splits()
        found = [i for i, own in enumerate(splits) if own == split]
        if not found:
            there = [name for name in SPLITS if name in splits]
            raise ValueError(
                f"image_list: {self.source} has no pictures for {split!r}, it has {there}; "
                "add some, or name another split"
            )
        return found

    def _drawn_splits(self) -> list[str]:
        """Subjects in the order of a hash of their names: 70 % train, 10 % validate, 20 % test."""
        owners = self.cases if self.subjects is None else self.subjects
        if self.subjects is None:
            logger.warning(
                f"{self.source}: no subjects are known, so pictures are split one by one; where a subject has several, "
                "a table with the column 'subject' keeps them together."
            )
        order = sorted(set(owners), key=lambda name: hashlib.sha256(name.encode()).digest())
        if len(order) < len(SPLITS):
            raise ValueError(
                f"image_list: {self.source} must hold at least {len(SPLITS)} subjects (or pictures) to be split, "
                f"got {len(order)}"
            )
        ends = np.cumsum([max(1, round(share * len(order))) for share in SHARES[1:]])
        place = {
            name: "validation" if i < ends[0] else "test" if i < ends[1] else "train" for i, name in enumerate(order)
        }
        return [place[name] for name in owners]


def split_name(name: str, source: str) -> str:
    """Return one of ``SPLITS`` for what a source calls a split.

    Raises:
        ValueError: if the name is not known.
    """
    if name.strip().lower() not in SPLIT_NAMES:
        raise ValueError(f"image_list: {source}: a split must be of {sorted(SPLIT_NAMES)}, got {name!r}")
    return SPLIT_NAMES[name.strip().lower()]


def check_labels(labels: np.ndarray, n_images: int, n_classes: int, source: str) -> None:
    """Refuse labels that do not fit pictures and classes.

    Raises:
        ValueError: if their number or range is wrong.
    """
    if len(labels) != n_images:
        raise ValueError(f"image_list: {source} must have one label for each picture, got {len(labels)} for {n_images}")
    if n_images == 0:
        raise ValueError(f"image_list: {source} holds no pictures")
    if labels.ndim == 2:
        if labels.shape[1] != n_classes or not np.isin(labels, (0, 1)).all():
            raise ValueError(
                f"image_list: {source}: labels of several classes at a time must be 0 or 1, (N, {n_classes}), "
                f"got {labels.shape} from {labels.min()} to {labels.max()}"
            )
    elif labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(
            f"image_list: {source}: labels must be 0 to {n_classes - 1} for {n_classes} classes, "
            f"got {labels.min()} to {labels.max()}"
        )
