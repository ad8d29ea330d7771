"""Which slices of an exam are worth training on: near the middle, and not empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from medkit.data import keys as names
from medkit.mri.readers.acquisition import KSPACE, Acquisition, check_fully_sampled
from medkit.mri.readers.exam_index import ExamIndex
from medkit.mri.readers.opening import open_acquisition


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
    use_index: bool = True,
) -> list[dict[str, Any]]:
    """Return an entry for each slice of exams that is worth training on.

    Args:
        name: of the listing function, for its error.
        exams: entries with ``path``.
        options: how to open the exams.
        central_fraction: share of each exam's slices to keep, around the middle one.
        min_signal: keep slices whose root mean square is at least this share of that of the strongest one.
        fully_sampled: whether exams that the scanner under-sampled are refused, if they are read for ``min_signal``.
        use_index: whether what was found of each file is kept, and taken where it was kept.

    Returns:
        The entries, each with ``i_slice``.

    Raises:
        ValueError: if no slice is left, or an exam cannot be read.
    """
    entries = []
    with ExamIndex([exam[names.PATH] for exam in exams], options, use_index) as index:
        for exam in tqdm(exams, desc="listing slices", leave=False, disable=None):
            facts = _facts(index, Path(exam[names.PATH]), options, min_signal > 0, fully_sampled)
            kept = central_slices(facts["n_slices"], central_fraction)
            if min_signal > 0:
                strong = slices_with_signal(facts["signal"], min_signal)
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


def slices_with_signal(signal: list[float], min_signal: float) -> set[int]:
    """Return the slices whose signal is at least ``min_signal`` (0 to 1) times that of the strongest one."""
    strongest = max(signal)
    return {i for i, one in enumerate(signal) if strongest > 0 and one >= min_signal * strongest}


def _facts(
    index: ExamIndex, path: Path, options: dict[str, Any], with_signal: bool, fully_sampled: bool
) -> dict[str, Any]:
    """Return ``n_slices`` and, on request, the ``signal`` of each slice, from the index or from the file."""
    kept = index.get(path) if path.is_file() else None
    if kept is not None and _is_complete(kept, with_signal, fully_sampled):
        return kept
    exam = open_acquisition(path, **options)
    facts: dict[str, Any] = {
        "kind": exam.kind,
        "n_slices": exam.n_slices,
        "n_coils": exam.n_coils,
        "shape": list(exam.shape),
    }
    if with_signal:
        facts |= {"signal": _signal(exam, fully_sampled), "fully_sampled": fully_sampled}
    index.keep(path, facts)
    return facts


def _is_complete(facts: dict[str, Any], with_signal: bool, fully_sampled: bool) -> bool:
    # What was kept with fully_sampled was found to be so: an exam that is refused leaves nothing.
    n_slices, signal = facts.get("n_slices"), facts.get("signal")
    if not isinstance(n_slices, int) or n_slices < 1:
        return False
    is_read = isinstance(signal, list) and len(signal) == n_slices and all(isinstance(one, float) for one in signal)
    return not with_signal or (is_read and (facts.get("fully_sampled") is True or not fully_sampled))


def _signal(exam: Acquisition, fully_sampled: bool) -> list[float]:
    signal = []
    for i in range(exam.n_slices):
        image = exam.read_slice(i)
        if fully_sampled and exam.kind == KSPACE:
            check_fully_sampled(exam, exam.mask_of(image))
        signal.append(float(torch.linalg.vector_norm(image)))
    return signal
