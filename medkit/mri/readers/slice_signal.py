"""Which slices of an exam are worth training on: near the middle, and not empty."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from medkit.data import keys as names
from medkit.mri.readers.acquisition import KSPACE, Acquisition, check_fully_sampled
from medkit.mri.readers.caching import file_stamp
from medkit.mri.readers.opening import open_acquisition
from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)


def check_slices(name: str, central_fraction: float, min_signal: float) -> None:
    """Raise ``ValueError`` in the name of a listing function if a share of slices or signal is out of its range."""
    if not 0 < central_fraction <= 1 or not 0 <= min_signal <= 1:
        raise ValueError(
            f"{name}: 'central_fraction' must be above 0 to 1 and 'min_signal' 0 to 1, got "
            f"{central_fraction} and {min_signal}"
        )


def entries_of_slices(
    name: str,
    exams: list[dict[str, Any]],
    options: dict[str, Any],
    central_fraction: float,
    min_signal: float,
    fully_sampled: bool = False,
) -> list[dict[str, Any]]:
    """Return an entry for each slice of exams that is worth training on.

    Args:
        name: of the listing function, for its error.
        exams: entries with ``path``.
        options: how to open the exams.
        central_fraction: share of each exam's slices to keep, around the middle one.
        min_signal: keep slices whose root mean square is at least this share of that of the strongest one.
        fully_sampled: whether exams that the scanner under-sampled are refused, if they are read for ``min_signal``.

    Returns:
        The entries, each with ``i_slice``.

    Raises:
        ValueError: if no slice is left, or an exam cannot be read.
    """
    entries = []
    for exam in tqdm(exams, desc="listing slices", leave=False, disable=None):
        opened = open_acquisition(exam[names.PATH], **options)
        kept = central_slices(opened.n_slices, central_fraction)
        if min_signal > 0:
            strong = slices_with_signal(opened, min_signal, options, fully_sampled)
            kept = [i for i in kept if i in strong]
        entries += [{**exam, names.I_SLICE: i} for i in kept]
    if not entries:
        raise ValueError(
            f"{name}: no slice of {len(exams)} exams has a signal of {min_signal} in the central "
            f"{central_fraction} of its slices; lower 'min_signal' or raise 'central_fraction'"
        )
    return entries


def central_slices(n_slices: int, fraction: float) -> list[int]:
    """Return the indices of the central share of a stack; at least one."""
    n_kept = max(1, round(n_slices * fraction))
    first = (n_slices - n_kept) // 2
    return list(range(first, first + n_kept))


def slices_with_signal(
    exam: Acquisition, min_signal: float, options: dict[str, Any], fully_sampled: bool = False
) -> set[int]:
    """Return the slices whose root mean square is at least ``min_signal`` times that of the strongest one.

    Args:
        exam: the exam; it is read through, unless that was done before.
        min_signal: share of the strongest slice's, 0 to 1.
        options: how the exam was opened; part of the name under which the result is kept.
        fully_sampled: whether to refuse an exam with a slice that the scanner under-sampled.

    Returns:
        Indices of slices.

    Raises:
        ValueError: if the exam is refused.
    """
    signal = _kept_signal(exam, options, fully_sampled)
    strongest = max(signal)
    return {i for i, one in enumerate(signal) if strongest > 0 and one >= min_signal * strongest}


def _kept_signal(exam: Acquisition, options: dict[str, Any], fully_sampled: bool) -> list[float]:
    # What was kept for fully_sampled=True was found to be so: an exam that is refused leaves nothing.
    identity = json.dumps([str(exam.path), *file_stamp(exam.path), sorted(options.items()), fully_sampled])
    folder = Path(os.environ.get("MEDKIT_CACHE") or Path.home() / ".cache" / "medkit") / "slice_signal"
    kept = folder / f"{hashlib.sha256(identity.encode('utf-8')).hexdigest()[:24]}.json"
    try:
        signal = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(signal, list) and len(signal) == exam.n_slices:
            return signal
    except (OSError, ValueError):
        pass
    signal = []
    for i in range(exam.n_slices):
        image = exam.read_slice(i)
        if fully_sampled and exam.kind == KSPACE:
            check_fully_sampled(exam, exam.mask_of(image))
        signal.append(float(torch.linalg.vector_norm(image)))
    try:
        with atomic_path(kept) as temporary:
            temporary.write_text(json.dumps(signal), encoding="utf-8")
    except OSError as error:
        logger.warning("The signal of the slices of %s cannot be kept in %s: %s", exam.path, folder, error)
    return signal
