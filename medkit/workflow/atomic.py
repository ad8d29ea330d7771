"""Atomic writes: a file is either the old one or the new one, never half of the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside ``path``, and rename it to ``path`` when the block ends without an error.

    The temporary name keeps the suffixes of ``path`` (writers choose their format by it) and holds the process id, so
    that several processes may write the same file: the last one wins. Missing parent folders are made. After an error
    the temporary file is removed and ``path`` is as it was.

    Args:
        path: the file to write.

    Yields:
        The path to write to, in the same folder.

    Raises:
        FileNotFoundError: if the block wrote nothing.

    Example:
        >>> with atomic_path("runs/a/metrics.json") as temporary:
        ...     temporary.write_text("{}")
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        if not temporary.exists():
            raise FileNotFoundError(f"atomic_path: nothing was written to {temporary}; write to the path that is given")
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
