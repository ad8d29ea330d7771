"""Which files are contrasts of one examination, told from their names or from a table."""

from __future__ import annotations

import csv
import json
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medkit.data.splits import SPLIT_WORDS, split_of_folder, subject_of
from medkit.mri.readers.folders import checked_case, readable_files
from medkit.mri.readers.opening import file_stem

logger = logging.getLogger(__name__)

NAME = "pair_list"
# Words in file names: of IXI (T1 T2 PD), BraTS 2018 (t1 t1ce t2 flair) and 2023 (t1n t1c t2w t2f), BIDS (T1w T2w PDw).
CONTRASTS = {
    **dict.fromkeys(("t1", "t1n", "t1w"), "t1"),
    **dict.fromkeys(("t1c", "t1ce", "t1gd"), "t1c"),
    **dict.fromkeys(("t2", "t2w"), "t2"),
    **dict.fromkeys(("flair", "t2f", "fla"), "flair"),
    **dict.fromkeys(("pd", "pdw"), "pd"),
}
# A patient's examinations: IXI002-Guys-0828, BraTS-GLI-00001-000 and -001, sub-01_ses-2.
KNOWN_SUBJECTS = re.compile(r"^(IXI\d+|BraTS-[A-Za-z]+-\d+|sub-[A-Za-z0-9]+)")
LESION_WORDS = ("seg", "lesions")  # BraTS-GLI-00001-000-seg.nii.gz, test-0000_lesions.nii
LESION_COLUMN = "lesions"
OTHER_COLUMNS = ("case", "subject", "split", LESION_COLUMN)


@dataclass
class Exam:
    """One examination: its name, whose it is, its file of each wanted contrast, its split, its map of lesions.

    ``others`` are the contrasts that it has besides the wanted ones.
    """

    case: str
    subject: str
    files: dict[str, Path] = field(default_factory=dict)
    split: str | None = None
    lesions: Path | None = None
    others: list[str] = field(default_factory=list)


def contrast_of(word: str, wanted: Iterable[str] = ()) -> str | None:
    """Return the contrast that a word names, ``t2`` for ``T2w``; ``None`` if it is no known or wanted one."""
    word = word.lower()
    return word if word in wanted else CONTRASTS.get(word)


def split_name(stem: str, wanted: Iterable[str]) -> tuple[str, str] | None:
    """Take the contrast out of a file's name: its last word that names one, between ``-``, ``_``, ``.`` or blanks.

    Returns:
        The rest, which names the examination (empty for a file that is named for its contrast alone), and the contrast;
        ``None`` if there is none.
    """
    words = re.split(r"([-_. ]+)", stem)
    for i in reversed(range(0, len(words), 2)):
        contrast = contrast_of(words[i], wanted)
        if contrast is not None:
            return "".join([*words[: max(0, i - 1)], *words[i + 1 :]]).strip("-_. "), contrast
    return None


def split_lesion_name(stem: str, wanted: Iterable[str]) -> str | None:
    """Return the examination that a map of lesions belongs to: its name without ``seg`` and without a contrast.

    Returns:
        The rest of the name, empty for ``seg.nii``; ``None`` if no word says that the file is a map of lesions.
    """
    words = re.split(r"([-_. ]+)", stem)
    for i in reversed(range(0, len(words), 2)):
        if words[i].lower() in LESION_WORDS and words[i].lower() not in wanted:
            rest = "".join([*words[: max(0, i - 1)], *words[i + 1 :]]).strip("-_. ")
            parts = split_name(rest, wanted)
            return rest if parts is None else parts[0]
    return None


def exams_of_folder(folder: Path, patterns: list[str], wanted: Sequence[str], subject: str | None) -> list[Exam]:
    """Group the files of a folder to examinations.

    Args:
        folder: at any depth; files of one examination may lie in one folder or in one for each contrast. Sub-folders
            may be named for splits. A file with the word ``seg`` or ``lesions`` in its name is the map of lesions of
            its examination, not a contrast.
        patterns: file names to keep.
        wanted: contrasts that are asked for, in lower case.
        subject: regular expression, see :func:`pair_list`.

    Returns:
        Examinations with at least one of the wanted contrasts, sorted by name.

    Raises:
        ValueError: if no file names a contrast, or two name the same one of an examination.
    """
    files = readable_files(NAME, folder, [folder], patterns)
    maps = {file: case for file in files if (case := split_lesion_name(file_stem(file), wanted)) is not None}
    images = [file for file in files if file not in maps]
    found = [(file, *parts) for file in images if (parts := split_name(file_stem(file), wanted)) is not None]
    there = sorted({contrast for _, _, contrast in found})
    rest = [one for one in found if one[2] not in wanted]
    found = [(file, case, contrast) for file, case, contrast in found if contrast in wanted]
    if not found and there:
        raise ValueError(
            f"{NAME}: 'target' and 'guides' must be contrasts that the file names in {folder} name, which are "
            f"{', '.join(there)}, got {', '.join(wanted)}; give those, rename the files, or write a datalist"
        )
    if not found:
        raise ValueError(
            f"{NAME}: file names in {folder} must name their contrast, {', '.join(wanted)}, as in IXI002-T2.nii; "
            f"none of {len(files)} does, such as {files[0].name}; rename them, or write a datalist"
        )
    repeated = {key for key, n in Counter((case, contrast) for _, case, contrast in found).items() if n > 1}
    by_folder = any(not case for _, case, _ in found) or bool(repeated)
    exams: dict[str, Exam] = {}
    for file, case, contrast in found:
        parents = file.relative_to(folder).parts[:-1]
        who = case or "-".join(parents[-1:]) or folder.name
        if by_folder:
            case = _case_by_folder(folder, file, case)
        marks = {mark for part in parents if (mark := split_of_folder(Path(part)))}
        split = marks.pop() if len(marks) == 1 else None
        exam = exams.setdefault(case, Exam(case, _subject(who, subject), split=split))
        if split != exam.split:
            raise ValueError(f"{NAME}: {file} lies in the split {split}, other contrasts of {case!r} in {exam.split}")
        if contrast in exam.files:
            raise ValueError(
                f"{NAME}: exam {case!r} must have one file of the contrast {contrast}, got {exam.files[contrast]} and "
                f"{file}; keep one of them with 'pattern', or write a datalist"
            )
        exam.files[contrast] = file
    for file, case, contrast in rest:
        case = _case_by_folder(folder, file, case) if by_folder else case
        if case in exams:
            exams[case].others.append(contrast)
    maps_of: dict[str, list[Path]] = {}
    for file, case in maps.items():
        maps_of.setdefault(_case_by_folder(folder, file, case) if by_folder else case, []).append(file)
    for case, own in maps_of.items():
        if case in exams and len(own) > 1:
            logger.warning("%s is taken without a map of lesions: %s and %s could both be it", case, own[0], own[1])
        elif case in exams:
            exams[case].lesions = own[0]
    return sorted(exams.values(), key=lambda exam: exam.case)


def _case_by_folder(folder: Path, file: Path, case: str) -> str:
    return "-".join([*file.relative_to(folder).parts[:-1], *([case] if case else [])]) or folder.name


def exams_of_table(path: Path, wanted: Sequence[str], subject: str | None) -> list[Exam]:
    """Read examinations from a datalist or a table.

    Args:
        path: ``.json``: ``{"train": [{"t2": path, "pd": path, "case": name, "subject": name}, ...], ...}``, or one list
            without splits; ``.csv``: the same names as columns, and ``split``. Paths are relative to the file; the case
            and the subject may be left out. ``lesions`` names a map of lesions.
        wanted: contrasts that are asked for, in lower case.
        subject: regular expression, for entries without a subject.

    Returns:
        Examinations, sorted by name.

    Raises:
        ValueError: if the file is not of this form.
        FileNotFoundError: if it names a file that is not there.
    """
    rows = _csv_rows(path) if path.suffix.lower() == ".csv" else _json_rows(path)
    exams = []
    for row in rows:
        files = {
            contrast: _beside(path, value)
            for word, value in row.items()
            if word not in OTHER_COLUMNS and value and isinstance(value, str)
            if (contrast := contrast_of(word, wanted)) in wanted and contrast is not None
        }
        others = [word for word, value in row.items() if value and word not in OTHER_COLUMNS]
        others = [contrast_of(word, wanted) or word for word in others]
        if not files:
            raise ValueError(
                f"{NAME}: each entry of {path} must name a file of {', '.join(wanted)}, as {_example(wanted)}, got "
                f"{dict(row)}; write it again"
            )
        first = next(iter(files.values()))
        parts = split_name(file_stem(first), wanted)
        case = checked_case(NAME, str(row.get("case") or (parts[0] if parts and parts[0] else file_stem(first))), path)
        split = row.get("split") or None
        if split is not None and split not in SPLIT_WORDS:
            raise ValueError(
                f"{NAME}: 'split' of {case!r} in {path} must be one of {', '.join(SPLIT_WORDS)}, got {split!r}"
            )
        who = str(row.get("subject") or _subject(case, subject))
        lesions = _beside(path, str(row[LESION_COLUMN])) if row.get(LESION_COLUMN) else None
        exams.append(Exam(case, who, files, None if split is None else SPLIT_WORDS[split], lesions, others))
    repeated = [case for case, n in Counter(exam.case for exam in exams).items() if n > 1]
    if repeated:
        raise ValueError(f"{NAME}: each case of {path} must have one name, {repeated[0]!r} is there twice")
    return sorted(exams, key=lambda exam: exam.case)


def absent_contrasts(exams: Sequence[Exam], wanted: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the wanted contrasts that no examination has, and all that there are."""
    there = {contrast for exam in exams for contrast in (*exam.files, *exam.others)}
    return [word for word in wanted if word not in there], sorted(there)


def _beside(table: Path, name: str) -> Path:
    return (table.parent / Path(name).expanduser()).resolve()


def _subject(case: str, pattern: str | None) -> str:
    if pattern is not None:
        return subject_of(NAME, case, pattern)
    known = KNOWN_SUBJECTS.search(case)
    return case if known is None else known.group(1)


def _example(wanted: Sequence[str]) -> str:
    return json.dumps({contrast: f"subject1-{contrast}.nii" for contrast in wanted})


def _csv_rows(path: Path) -> list[Mapping[str, Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{NAME}: {path} must be a table of UTF-8 text with commas ({error}); save it again as such"
        ) from error
    if not rows:
        raise ValueError(f"{NAME}: {path} must have a line of column names and one line for each exam, got no exam")
    return [{str(name).strip().lower(): value for name, value in row.items()} for row in rows]


def _json_rows(path: Path) -> list[Mapping[str, Any]]:
    wanted = '{"train": [{"t2": path, "t1": path, "case": name}, ...], ...}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{NAME}: {path} must be a datalist {wanted}, it is no JSON ({error})") from error
    lists = content if isinstance(content, dict) else {None: content}
    rows: list[Mapping[str, Any]] = []
    for split, entries in lists.items():
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{NAME}: {path} must be a datalist {wanted}, it has {split!r}; write it again")
        rows += [{**({} if split is None else {"split": split}), **entry} for entry in entries]
    if not rows:
        raise ValueError(f"{NAME}: {path} must be a datalist {wanted}, it is empty")
    return rows
