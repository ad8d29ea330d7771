"""User errors in one line: what a wrong input looks like on the command line instead of a long traceback."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

_PACKAGE = Path(__file__).resolve().parent.parent
_DOOR_ERRORS = (
    ValueError,
    TypeError,
    RuntimeError,
    FileNotFoundError,
    FileExistsError,
    NotADirectoryError,
    ImportError,
)
_FILE_ERRORS = (FileNotFoundError, NotADirectoryError, PermissionError)
_OTHER_WEIGHTS = "Error(s) in loading state_dict"  # how torch begins when weights belong to another network
_COMMANDS = ("monai.bundle.__main__", "medkit.cli.__main__")
# A door's message opens with its function, "check_knobs: …"; what Python itself says inside medkit is a defect.
_DOOR = re.compile(r"[A-Za-z_][\w.]*: .")
# A data-loader worker hands its error over as text: the frame that raised, its code, and "ValueError: message".
_RAISED = re.compile(r'  File "(?P<file>[^"]+)", line \d+, in [^\n]+\n(?:    [^\n]*\n)*(?P<type>\w+): (?P<text>[^\n]+)')


def user_message(error: BaseException) -> str | None:
    """Return the one sentence that tells the user what to change, or ``None`` when the error is a defect.

    MONAI wraps what a config raises in ``RuntimeError``, often several times; a data-loader worker turns it into text.
    The chain of causes is walked to the error that medkit itself raised.

    Args:
        error: what was caught.

    Returns:
        The message of the first error in the chain that medkit raised with a message of the form ``function: …`` (an
        error of value, type, import, file or run time), or of a missing or closed file that medkit wanted to open; or
        that given weights belong to another network.

    Example:
        >>> user_message(RuntimeError("a defect")) is None
        True
    """
    for link in _chain(error):
        files = [Path(frame.f_code.co_filename) for frame in _frames(link.__traceback__)]
        raised_here = bool(files) and _in_package(files[-1])
        asked_here = any(_in_package(file) for file in files)
        is_door = isinstance(link, _DOOR_ERRORS) and raised_here and _DOOR.match(str(link)) is not None
        if is_door or (isinstance(link, _FILE_ERRORS) and asked_here):
            return _one_line(str(link))
        if isinstance(link, RuntimeError) and str(link).startswith(_OTHER_WEIGHTS):
            first = str(link).splitlines()[1].strip()
            return _one_line(
                f"the weights do not fit the network of the configs ({first} ...); name the overlays and options of "
                "the training that made them, or give other weights with ckpt_path"
            )
        for match in _RAISED.finditer(str(link)):
            is_kind = match["type"] in {kind.__name__ for kind in _DOOR_ERRORS}
            if is_kind and _in_package(Path(match["file"])) and _DOOR.match(match["text"]):
                return _one_line(match["text"])
    return None


def report_errors_in_one_line(always: bool = False) -> bool:
    """Let a run that fails because of the user's input end with ``medkit: error: …`` and exit code 1.

    Replaces ``sys.excepthook``, and drops the log records of the same errors. Defects keep their
    traceback. Does nothing when ``MEDKIT_DEBUG=1``, and nothing in a process that is not a command of MONAI or medkit
    (a notebook, a script or a server keeps its own habits).

    Args:
        always: install it whatever the process is.

    Returns:
        Whether it is in place.

    Example:
        >>> report_errors_in_one_line()
        False
    """
    specification = getattr(sys.modules.get("__main__"), "__spec__", None)
    is_command = specification is not None and specification.name in _COMMANDS
    if os.environ.get("MEDKIT_DEBUG", "0") not in ("", "0") or not (always or is_command):
        return False
    sys.excepthook = _print_user_error
    logging.setLogRecordFactory(_without_user_errors(logging.getLogRecordFactory()))
    return True


def _print_user_error(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    message = user_message(error)
    if message is None:
        traceback.print_exception(kind, error, trace)
        return
    rank = (
        f" (rank {os.environ['RANK']})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ else ""
    )
    sys.stderr.write(f"medkit: error{rank}: {message}\n")


def _without_user_errors(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    """Keep ignite and MONAI from logging the traceback of an error that the last line of the run will tell."""

    def make_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.levelno >= logging.ERROR:
            error = record.exc_info[1] if record.exc_info else sys.exc_info()[1]
            if error is not None and user_message(error) is not None:
                record.levelno = -1  # below the level of every handler, also of those that are made later
        return record

    return make_record


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    seen: set[int] = set()
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        yield link
        link = link.__cause__ or link.__context__


def _frames(trace: TracebackType | None) -> Iterator:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _in_package(file: Path) -> bool:
    return _PACKAGE in file.parents


def _one_line(text: str) -> str:
    return " ".join(text.split())
