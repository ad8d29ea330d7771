"""Pieces of a long computation whose results are files: run once, resumed anywhere, and shared between processes.

A piece is a pure function of files that exist before it, and its record is written last. So a run that is killed goes
on where it was, with the same numbers; and two processes that run a piece twice do no harm.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from medkit.workflow import atomic_path, is_shown

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
POLL = 0.2  # seconds


class Jobs:
    """Run pieces of work whose results lie in a folder.

    Args:
        folder: where phases of the work get their folders.
        shared: whether several processes work on the same folder, on one machine or on many that share it: each piece
            is then locked by the one that runs it.
        lease: seconds after which a lock that nobody renews is taken over; its owner is dead.

    Example:
        >>> jobs = Jobs("my_atlas/work")
        >>> jobs.each("lengths", ["a", "bc"], lambda name: {"length": len(name)})
        {'a': {'length': 1}, 'bc': {'length': 2}}
    """

    def __init__(self, folder: str | Path, shared: bool = False, lease: float = 300.0):
        self.root, self.shared, self.lease = Path(folder), shared, lease

    def folder(self, phase: str) -> Path:
        """Return the folder of a phase; made when missing."""
        path = self.root / phase
        path.mkdir(parents=True, exist_ok=True)
        return path

    def each(
        self,
        phase: str,
        names: Sequence[str],
        work: Callable[[str], Record],
        show: Callable[[Record], str] | None = None,
    ) -> dict[str, Record]:
        """Run a piece for each name, and wait until all are done.

        Args:
            phase: name of the phase; its folder is ``folder(phase)``.
            names: of the pieces, file names without suffix.
            work: writes files, and returns numbers, text and lists for JSON.
            show: what of a record to show beside the progress bar; ``None``: nothing.

        Returns:
            The record of each piece, in the order of the names, those of earlier runs and other processes included.
        """
        folder = self.folder(phase)
        paths = {name: folder / f"{name}.json" for name in names}
        left = [name for name in names if not paths[name].exists()]
        hidden = not left or not is_shown()
        with (
            logging_redirect_tqdm([logging.root]),
            tqdm(total=len(names), desc=phase, disable=hidden, leave=False) as bar,
        ):
            while left:
                bar.update(len(names) - len(left) - bar.n)
                ran = False
                for name in left:
                    with self._owned(paths[name]) as mine:
                        if mine:
                            record = dict(work(name))
                            with atomic_path(paths[name]) as temporary:
                                temporary.write_text(json.dumps(record), encoding="utf-8")
                            ran = True
                            bar.update()
                            if show is not None:
                                bar.set_postfix_str(show(record), refresh=False)
                left = [name for name in left if not paths[name].exists()]
                if left and not ran:
                    time.sleep(POLL)
        return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items()}

    def once(self, phase: str, work: Callable[[], Record], name: str = "result") -> Record:
        """Run one piece, and wait until it is done.

        Args:
            phase: name of the phase.
            work: writes files, and returns numbers, text and lists for JSON.
            name: of the piece.

        Returns:
            Its record.
        """
        return self.each(phase, [name], lambda _: work())[name]

    @contextmanager
    def _owned(self, path: Path) -> Iterator[bool]:
        """Own a piece while the block runs, if nobody else does and it is not done."""
        if not self.shared or path.exists():
            yield not path.exists()
            return
        lock = path.with_suffix(".lock")
        if not self._taken(lock):
            yield False
            return
        stop = threading.Event()

        def renew() -> None:
            while not stop.wait(self.lease / 4):
                if lock.exists():
                    os.utime(lock)

        thread = threading.Thread(target=renew, daemon=True)
        thread.start()
        try:
            yield not path.exists()
        finally:
            stop.set()
            thread.join()
            lock.unlink(missing_ok=True)

    def _taken(self, lock: Path) -> bool:
        """Take a lock that is free, or whose owner is dead."""
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return True
        except FileExistsError:
            pass
        try:
            if time.time() - lock.stat().st_mtime < self.lease:
                return False
            logger.warning("%s was left by a process that died, and is taken over", lock)
            lock.rename(lock.with_suffix(f".{os.getpid()}"))  # of several that try, one succeeds
            lock.with_suffix(f".{os.getpid()}").unlink()
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return True
        except (FileNotFoundError, FileExistsError):
            return False
