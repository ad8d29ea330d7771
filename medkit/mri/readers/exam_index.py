"""Facts of the files of a folder, kept in ``$MEDKIT_CACHE`` so that listing it again opens none of them."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from medkit import __version__
from medkit.mri.readers.caching import file_stamp
from medkit.workflow import atomic_path

logger = logging.getLogger(__name__)

SAVE_EACH = 10.0  # seconds between two savings of a long listing


class ExamIndex:
    """What was found of each file, by its path, until the file changes; a context that saves when it is left.

    One JSON for the files below one folder, opened with the same options by the same version. It may be deleted at any
    time; one that is damaged is made again.

    Args:
        paths: the files that will be asked for.
        options: how they are opened.
        is_used: whether anything is kept at all.

    Example:
        >>> with ExamIndex(["a.h5"], {}) as index:
        ...     index.keep(Path("a.h5"), {"n_slices": 36})
    """

    def __init__(self, paths: Sequence[str], options: Mapping[str, Any], is_used: bool = True) -> None:
        self.is_used = is_used and bool(paths)
        self._files: dict[str, dict[str, Any]] = {}
        self._stamps: dict[str, list[int]] = {}
        self._is_changed = False
        self._saved = time.monotonic()
        if not self.is_used:
            return
        folder = _common_folder(paths)
        self._head = {"medkit": __version__, "folder": folder, "options": json.loads(json.dumps(dict(options)))}
        identity = hashlib.sha256(json.dumps(self._head, sort_keys=True).encode("utf-8")).hexdigest()[:24]
        cache = Path(os.environ.get("MEDKIT_CACHE") or Path.home() / ".cache" / "medkit")
        self.path = cache / "exam_index" / f"{identity}.json"
        self._files = self._read()

    def __enter__(self) -> ExamIndex:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.save()

    def get(self, path: Path) -> dict[str, Any] | None:
        """Return what is kept of a file; ``None`` if that is nothing, or the file has changed."""
        if not self.is_used:
            return None
        stamp = self._stamps[str(path)] = list(file_stamp(path))
        kept = self._files.get(str(path))
        return kept["facts"] if kept is not None and kept["stamp"] == stamp else None

    def keep(self, path: Path, facts: dict[str, Any]) -> None:
        """Keep the facts of a file, as it was when it was asked for."""
        if not self.is_used:
            return
        self._files[str(path)] = {"stamp": self._stamps.get(str(path)) or list(file_stamp(path)), "facts": facts}
        self._is_changed = True
        if time.monotonic() - self._saved > SAVE_EACH:
            self.save()

    def save(self) -> None:
        """Write what has changed, without files that are gone."""
        if not self._is_changed:
            return
        files = {name: kept for name, kept in self._files.items() if name in self._stamps or Path(name).is_file()}
        try:
            with atomic_path(self.path) as temporary:
                temporary.write_text(json.dumps({**self._head, "files": files}), encoding="utf-8")
        except OSError as error:
            logger.warning("The facts of %d files cannot be kept in %s: %s", len(files), self.path.parent, error)
            self.is_used = False
        self._is_changed, self._saved = False, time.monotonic()

    def _read(self) -> dict[str, dict[str, Any]]:
        content: Any = None
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError:
            return {}
        except ValueError as error:
            logger.debug("%s: %s", self.path, error)
        files = content.get("files") if isinstance(content, dict) else None
        if not isinstance(files, dict) or not all(map(_is_kept, files.values())):
            logger.warning("The index %s is damaged and made again", self.path)
            return {}
        return files


def _is_kept(kept: object) -> bool:
    """Whether an entry has the form that :meth:`ExamIndex.keep` gives it."""
    return isinstance(kept, dict) and isinstance(kept.get("stamp"), list) and isinstance(kept.get("facts"), dict)


def _common_folder(paths: Sequence[str]) -> str:
    folders = sorted({str(Path(path).absolute().parent) for path in paths})
    try:
        return os.path.commonpath(folders)
    except ValueError:  # on several drives
        return folders[0]
