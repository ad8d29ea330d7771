"""References of other subjects: to learn, and to test, that a reference may be wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from medkit.data import keys as names


def with_wrong_guides(
    name: str, exams: list[dict[str, Any]], entries: list[dict[str, Any]], share: float, seed: int
) -> list[dict[str, Any]]:
    """Return entries, of which a share has the reference contrasts of another subject's exam.

    Args:
        name: of the listing function, for its error.
        exams: an entry for each exam, with ``subject`` and ``guide``; those with equal contrasts stand for another.
        entries: entries of these exams, or of their slices; each names its exam by ``case``.
        share: 0 to 1.
        seed: of which entries, and of whose references.

    Returns:
        New entries in the old order; ``case``, ``subject`` and ``path`` stay as they are.

    Raises:
        ValueError: if an exam has no other subject beside it.
    """
    contrasts = {exam[names.CASE]: tuple(exam[names.GUIDE_CONTRASTS]) for exam in exams}
    others: dict[str, list[list[str]]] = {}
    for exam in exams:
        case, subject = exam[names.CASE], exam[names.SUBJECT]
        others[case] = [
            other[names.GUIDE]
            for other in exams
            if other[names.SUBJECT] != subject and contrasts[other[names.CASE]] == contrasts[case]
        ]
        if not others[case]:
            raise ValueError(
                f"{name}: 'mispaired' must be 0 here, or there must be a second subject with the contrasts of "
                f"{case!r}, whose references could take the place of its own"
            )
    random = np.random.default_rng(seed)
    chosen = set(random.permutation(len(entries))[: round(share * len(entries))].tolist())
    picks = random.random(len(entries))
    return [
        {**entry, names.GUIDE: others[entry[names.CASE]][int(pick * len(others[entry[names.CASE]]))]}
        if i in chosen
        else entry
        for i, (entry, pick) in enumerate(zip(entries, picks, strict=True))
    ]
