"""Names of subjects from the names of their files, and what makes two of them look like one subject."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

SUFFIXES = (".nii.gz", ".nii")
SEPARATORS = "_-. "
BIDS = re.compile(r"(sub-[A-Za-z0-9]+)(?:_(ses-[A-Za-z0-9]+))?(?:_|$)")
# What names of one subject's files often end with: contrasts, copies, and what is no image.
WORDS = re.compile(
    r"(?:^|[_\-. ])(?:t1|t2|pd|t1w|t2w|pdw|t1c|t1ce|t1gd|t1post|flair|swi|dwi|adc|copy|copy\d+|\(\d+\)|mask|brainmask|"
    r"seg|label|labels|brain)$",
    re.IGNORECASE,
)
HOW_CONTRASTS = "contrasts of one subject are given as \"{'t1': 'a/*_T1.nii.gz', 't2': 'a/*_T2.nii.gz'}\""
N_TOLD = 3


def stem_of(path: str) -> str:
    """Return a NIfTI file's name without folder and suffix.

    Raises:
        ValueError: if the suffix is another one.
    """
    name = Path(path).name
    for suffix in SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    raise ValueError(f"list_subjects: {path} must be a NIfTI file (.nii, .nii.gz)")


def named_files(paths: Sequence[str], kind: str, like: Mapping[str, str] | None = None) -> dict[str, str]:
    """Name files of one kind for their subjects.

    Args:
        paths: NIfTI files.
        kind: for messages.
        like: other subjects, name and file, whose files end with what theirs may end with too.

    Returns:
        Absolute path of each name: what all files end with is taken off, from a separator on; or where there are
        others and all end as theirs do, that ending.

    Raises:
        ValueError: if two files get one name, or a file has another suffix.
    """
    stems = [stem_of(path) for path in paths]
    cut = len(_ending_of(like or {}, stems)) or _n_shared(stems)
    named: dict[str, str] = {}
    for stem, path in zip(stems, paths, strict=True):
        name = stem[: len(stem) - cut]
        if not name or name in named:
            raise ValueError(
                f"list_subjects: each file of {kind!r} must have a name of its own, {path} and {named.get(name)} share "
                f"{name!r}; give a list with names (.json, .csv)"
            )
        named[name] = str(Path(path).absolute())
    return named


def _n_shared(stems: Sequence[str]) -> int:
    """Number of letters that all names end with, from a separator on."""
    n_shared, least = 0, min(map(len, stems))
    while len(stems) > 1 and n_shared < least and len({stem[-n_shared - 1 :] for stem in stems}) == 1:
        n_shared += 1
    ending = stems[0][len(stems[0]) - n_shared :]
    return n_shared - next((i for i, letter in enumerate(ending) if letter in SEPARATORS), n_shared)


def _ending_of(like: Mapping[str, str], stems: Sequence[str]) -> str:
    """What was taken off the names of other files, if these names end with it too; otherwise nothing."""
    found = {(path and stem_of(path)).removeprefix(name) for name, path in like.items()}
    ending = found.pop() if len(found) == 1 else ""
    fits = ending[:1] in tuple(SEPARATORS) and all(stem.endswith(ending) and stem != ending for stem in stems)
    return ending if fits else ""


def named_after(paths: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Name files for the subjects whose names they begin with, up to a separator.

    Args:
        paths: NIfTI files.
        names: of the subjects.

    Returns:
        Absolute path of each name; empty, if a file begins with no name, or two with the same one.
    """
    found: dict[str, str] = {}
    for path in paths:
        stem = stem_of(path)
        fitting = [n for n in names if stem == n or (stem.startswith(n) and stem[len(n)] in SEPARATORS)]
        name = max(fitting, key=len, default="")
        if not name or name in found:
            return {}
        found[name] = str(Path(path).absolute())
    return found


def refuse_repeated(files: Mapping[str, str]) -> None:
    """Refuse two files of one subject of a BIDS data set, ``sub-<label>``, that are not of two sessions.

    Args:
        files: a file of each name.

    Raises:
        ValueError: if there are any.
    """
    for subject, names in _of_one_subject(files).items():
        sessions = [BIDS.match(name)[2] for name in names]  # type: ignore[index]
        if None in sessions or len(set(sessions)) < len(sessions):
            first, second = (Path(files[name]).name for name in names[:2])
            raise ValueError(
                f"list_subjects: {first} and {second} are both of {subject!r}, who would count twice; {HOW_CONTRASTS}, "
                "otherwise leave one out, or give a list with names (.json, .csv)"
            )


def _of_one_subject(names: Mapping[str, str] | Sequence[str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        match = BIDS.match(name)
        if match is not None:
            groups[match[1]].append(name)
    return {subject: found for subject, found in groups.items() if len(found) > 1}


def lookalikes(names: Sequence[str]) -> list[str]:
    """Say which names look as if they were of one subject.

    Args:
        names: of subjects.

    Returns:
        Sentences; at most three and one more, how many others there are.

    Example:
        >>> lookalikes(["1000_T1", "1000_T1_copy", "1001_T1"])
        ['1000_T1 and 1000_T1_copy look like one subject, and count as two.']
    """
    groups = list(_of_one_subject(names).values())
    known = {name for group in groups for name in group}
    bare: dict[str, list[str]] = defaultdict(list)
    for name in sorted(set(names) - known):
        bare[_without_words(name)].append(name)
    groups += [group for group in bare.values() if len(group) > 1]
    known |= {name for group in groups for name in group}
    for name in sorted(set(names) - known):
        ends = [i for i, letter in enumerate(name) if letter in SEPARATORS and i]
        shorter = next((name[:i] for i in ends if name[:i] in set(names)), None)
        if shorter is not None:
            groups.append([shorter, name])
    found = [
        f"{', '.join(group[:-1])} and {group[-1]} look like one subject, and count as {_number(len(group))}."
        for group in groups[:N_TOLD]
    ]
    if len(groups) > N_TOLD:
        found.append(f"So do {len(groups) - N_TOLD} more groups of names.")
    return found


def _number(n: int) -> str:
    return {2: "two", 3: "three"}.get(n, str(n))


def _without_words(name: str) -> str:
    while True:
        shorter = WORDS.sub("", name)
        if shorter == name:
            return name.casefold()
        name = shorter
