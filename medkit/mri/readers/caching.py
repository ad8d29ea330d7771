"""Open files and decompressed arrays, kept for each process and never carried to another one.

An HDF5 handle that crosses a fork or a pickle reads garbage or dies. So handles live here, in the memory of the process
that opened them: an exam holds a path alone, asks this store at each read, and a worker of a ``DataLoader`` opens its
own handle the first time.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

Item = TypeVar("Item")
Stamp = tuple[int, ...]

MAX_OPEN_FILES = 16
MAX_CACHED_BYTES = 1 << 29
MAX_EXAMS = 512
PAIRED_SUFFIXES = (".hdr", ".cfl", ".img")


def file_stamp(path: Path) -> Stamp:
    """Return modification time (ns) and size (bytes) of a file: when they change, the file is read anew.

    Those of the header of a .cfl or .img, and of the data of a .hdr, follow.
    """
    files = [path]
    if path.suffix.lower() in PAIRED_SUFFIXES:
        partners = (path.with_suffix(suffix) for suffix in PAIRED_SUFFIXES)
        files += [partner for partner in partners if partner != path and partner.is_file()]
    return tuple(number for status in map(Path.stat, files) for number in (status.st_mtime_ns, status.st_size))


class ProcessStore:
    """Keep the least recently used items of files, for this process alone; safe among threads.

    An item that is dropped is not closed here: a thread that still reads from it keeps it alive until it is done. In a
    forked child the store is empty, and the parent's items are set aside untouched.

    Args:
        max_items: most items to keep.
        max_bytes: most bytes to keep; the newest item stays even if it is larger.

    Example:
        >>> store = ProcessStore(max_items=2)
        >>> store.get(Path("a.npy"), "array", lambda: np.load("a.npy"))
    """

    def __init__(self, max_items: int, max_bytes: int | None = None) -> None:
        self.max_items = max_items
        self.max_bytes = max_bytes
        self._inherited: list[Any] = []
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._start_in_child)

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loading: dict[Hashable, threading.Lock] = {}
        self._items: OrderedDict[Hashable, tuple[Stamp, Any, int]] = OrderedDict()

    def _start_in_child(self) -> None:
        self._inherited.append(self._items)
        self._forget()

    def __len__(self) -> int:
        return len(self._items)

    def get(
        self, path: Path, tag: Hashable, load: Callable[[], Item], size: Callable[[Item], int] = lambda item: 0
    ) -> Item:
        """Return the kept item of ``path`` and ``tag``, or load and keep it.

        Args:
            path: the file that the item comes from; when it changes on disk, the item is loaded again.
            tag: what of the file it is.
            load: makes the item; its errors pass through and nothing is kept.
            size: bytes that an item occupies.

        Returns:
            The item; the same object for each call until it is dropped.
        """
        key = (str(path), tag)
        stamp = file_stamp(path)
        with self._lock:
            found = self._items.get(key)
            if found is not None and found[0] == stamp:
                self._items.move_to_end(key)
                return found[1]
            loading = self._loading.setdefault(key, threading.Lock())
        with loading:
            with self._lock:
                found = self._items.get(key)
                if found is not None and found[0] == stamp:
                    return found[1]
            item = load()
            with self._lock:
                self._items[key] = (stamp, item, size(item))
                self._items.move_to_end(key)
                self._loading.pop(key, None)
                self._drop()
        return item

    def _drop(self) -> None:
        while len(self._items) > self.max_items:
            self._items.popitem(last=False)
        if self.max_bytes is not None:
            while len(self._items) > 1 and sum(entry[2] for entry in self._items.values()) > self.max_bytes:
                self._items.popitem(last=False)


def open_file(path: Path) -> Any:
    """Return the handle of an HDF5 file that this process keeps open, opened where it is not."""
    import h5py

    return HANDLES.get(path, "hdf5", lambda: h5py.File(path, "r"))


HANDLES = ProcessStore(MAX_OPEN_FILES)
ARRAYS = ProcessStore(MAX_OPEN_FILES, MAX_CACHED_BYTES)
EXAMS = ProcessStore(MAX_EXAMS)
