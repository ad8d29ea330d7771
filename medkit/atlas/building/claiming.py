"""Whose folder it is: an atlas is begun in an empty one, goes on in its own, and leaves it if its input is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medkit.atlas.building.jobs import Jobs
from medkit.atlas.building.settings import AtlasSettings
from medkit.atlas.intensity_preparation import FOLDER
from medkit.atlas.subjects import AtlasSubject
from medkit.atlas.volumes import load_volume
from medkit.workflow import atomic_path

STARTED = "started.json"
WORK = "work"
INPUTS = "inputs"
PICTURES = "failed_*.png"
N_NAMED = 5


def check_cohort(subjects: Sequence[AtlasSubject], settings: AtlasSettings) -> None:
    """Refuse subjects that do not make a cohort.

    Raises:
        ValueError: if there are fewer than two, names are not their own, or one lacks what it is aligned by.
    """
    names = [subject.name for subject in subjects]
    if len(names) < 2:
        raise ValueError(
            f"HybridAtlas: an atlas needs at least two subjects, got {len(names)} ({', '.join(names) or 'none'}); "
            "two images alone are registered by `medkit register`"
        )
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"HybridAtlas: subjects must have names of their own, {', '.join(twice)} stand more than once")
    scan = min(contrast for subject in subjects for contrast in subject.images)
    lacking = [subject.name for subject in subjects if scan not in subject.images]
    if lacking and settings.alignment != "none":
        raise ValueError(
            f"HybridAtlas: for the alignment all subjects must have the contrast {scan!r}, {lacking[0]!r} has not; "
            "align them before, and set alignment to 'none'"
        )


def check_reference(path: str | Path) -> None:
    """Refuse a grid for the template that cannot be read, before anything is computed.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is bad.
    """
    try:
        load_volume(path)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"HybridAtlas: the 'reference' {path} cannot be used: {error}") from error


def is_claimed(folder: Path, digest: str, settings: AtlasSettings, subjects: Sequence[AtlasSubject]) -> bool:
    """Tell whether an atlas was begun in a folder already; what is left of one whose input was refused is deleted.

    Args:
        folder: of the atlas.
        digest: of all that decides it.
        settings: of it.
        subjects: of it.

    Raises:
        ValueError: if the folder holds another atlas, or other files.
    """
    path = folder / STARTED
    if path.exists():
        known = json.loads(path.read_text(encoding="utf-8"))
        if known["digest"] == digest:
            return True
        if not known.get("refused"):
            raise ValueError(
                f"HybridAtlas: {folder} holds an atlas of other subjects or settings"
                f"{_difference(known, settings, subjects)}; take another 'output_dir', or delete it"
            )
        clear(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"HybridAtlas: 'output_dir' must be a folder, {folder} is a file")
    if folder.is_dir() and any(p for p in folder.iterdir() if not p.name.startswith(".")):
        raise ValueError(f"HybridAtlas: 'output_dir' must be empty or hold this atlas, {folder} holds other files")
    return False


def _difference(known: Mapping[str, Any], settings: AtlasSettings, subjects: Sequence[AtlasSubject]) -> str:
    """What is other, where that is known."""
    now, before = [subject.name for subject in subjects], known.get("subjects", [])
    found = []
    for names, what in ((set(before) - set(now), "had"), (set(now) - set(before), "had not")):
        if names:
            more = ", …" if len(names) > N_NAMED else ""
            found.append(f"it {what} {', '.join(sorted(names)[:N_NAMED])}{more}")
    after = json.loads(json.dumps(asdict(settings)))
    old = known.get("settings", {})
    found += [f"its {key} was {old[key]}" for key in after if key in old and old[key] != after[key]]
    if not found:
        found = [
            "its subjects are called the same; their files, its spacing, reference, initial template or prior differ"
        ]
    return f" ({'; '.join(found)})"


def claim(folder: Path, digest: str, settings: AtlasSettings, subjects: Sequence[AtlasSubject], **more: bool) -> None:
    """Write down which atlas a folder holds, in ``started.json``."""
    content = {"digest": digest, "settings": asdict(settings), "subjects": [s.name for s in subjects], **more}
    with atomic_path(folder / STARTED) as temporary:
        temporary.write_text(json.dumps(content, indent=1), encoding="utf-8")


@contextmanager
def given_up_when_refused(
    folder: Path, digest: str, settings: AtlasSettings, subjects: Sequence[AtlasSubject], jobs: Jobs
) -> Iterator[None]:
    """Leave a folder whose input is refused in the block, so that a corrected one can be built there.

    What was computed before the refusal, such as alignments, stays for the same input; any other takes its place.
    Where nothing was computed, and nobody else works there, nothing stays.
    """
    try:
        yield
    except (ValueError, FileNotFoundError):
        done = {path.name for path in jobs.root.iterdir()} if jobs.root.is_dir() else set()
        if done <= {INPUTS} and not jobs.shared:
            clear(folder)
        else:
            claim(folder, digest, settings, subjects, refused=True)
        raise


def clear(folder: Path) -> None:
    """Delete what was written before an atlas's first round, and the folder, if it is empty then."""
    for name in (WORK, FOLDER):
        shutil.rmtree(folder / name, ignore_errors=True)
    for path in (folder / STARTED, *folder.glob(PICTURES)):
        path.unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()
