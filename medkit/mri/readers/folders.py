"""The files of a folder that can be read, and names for them that differ."""

from __future__ import annotations

import re
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

from medkit.mri.readers.opening import SUFFIXES, file_stem, file_suffix

MASK_FILE = re.compile(r"(^|_)mask(_\w+|\d*)?\.mat$", re.IGNORECASE)


def readable_files(name: str, root: Path, folders: list[Path], patterns: list[str]) -> list[Path]:
    """Return the files of known kinds below some folders, without hidden ones, sorted.

    Args:
        name: of the listing function, for its errors.
        root: folder below which hidden folders are left out.
        folders: where to look, at any depth.
        patterns: file names to keep.

    Returns:
        Paths, at least one.

    Raises:
        ValueError: if there is none.
    """
    kept = fitting_files(root, folders, patterns)
    if kept:
        return kept
    supported = fitting_files(root, folders, ["*"])
    found = _all_files(root, folders)
    where = ", ".join(str(folder) for folder in folders)
    if supported:
        raise ValueError(
            f"{name}: 'pattern' {patterns} must fit a file in {where}, it fits none of {len(supported)} such "
            f"as {supported[0].name}"
        )
    suffixes = Counter("".join(file.suffixes[-2:]) or file.name for file in found)
    kinds = ", ".join(f"{n} {suffix}" for suffix, n in suffixes.most_common(5)) or "no file"
    raise ValueError(
        f"{name}: {where} must hold files of {', '.join(SUFFIXES)}, it holds {kinds}; convert them, or pass "
        "another folder"
    )


def fitting_files(root: Path, folders: list[Path], patterns: list[str]) -> list[Path]:
    """Return the files of known kinds below some folders that a pattern fits, sorted; there may be none.

    CMRxRecon's files of sampling masks, ``cine_sax_mask.mat``, are no exams.
    """
    supported = (file for file in _all_files(root, folders) if file_suffix(file) and not MASK_FILE.search(file.name))
    return sorted(file for file in supported if any(fnmatch(file.name, pattern) for pattern in patterns))


def _all_files(root: Path, folders: list[Path]) -> list[Path]:
    found = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    return [file for file in found if not any(part.startswith(".") for part in file.relative_to(root).parts)]


def path_name(root: Path, file: Path) -> str:
    """Return a file's path below a folder as one name, without the suffix of its kind."""
    return "-".join((*file.relative_to(root).parts[:-1], file_stem(file)))


def existing_path(name: str, path: Path, argument: str = "dataset_dir") -> Path:
    """Return a folder or file as an absolute path; raise ``FileNotFoundError`` if there is none."""
    path = path.expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{name}: '{argument}' must be a folder or a file, there is none at {path}")
    return path.resolve()


def checked_case(function: str, case: str, source: Path) -> str:
    """Return the name of a case, which becomes that of its results, so that they stay in their folder.

    Raises:
        ValueError: in the name of ``function``, if it leads to another folder.
    """
    if case in (".", "..") or "/" in case or "\\" in case:
        raise ValueError(
            f"{function}: 'case' must name files of results, so without / and \\, got {case!r} in {source}"
        )
    return case
