"""The order of the configs of a run: MONAI merges them one after another, and what comes last replaces the others."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from monai.bundle import create_workflow
from monai.bundle.reference_resolver import ReferenceResolver
from monai.utils import ensure_tuple


def config_order_fault(files: Sequence[str | os.PathLike[str]]) -> str | None:
    """Say what is wrong with the order in which configs are merged.

    A config that stands alone (with ``bundle_root`` and ``run``, as ``train.json``) belongs first, for it replaces what
    stands before it. An overlay belongs behind the config whose inner ids (``network_def#network``) it changes; without
    that MONAI ends with a ``KeyError``.

    Args:
        files: paths of JSON configs, in the order in which they are merged.

    Returns:
        One sentence with the right order, or ``None``. What cannot be read is left for MONAI to refuse.

    Example:
        >>> config_order_fault(["configs/train.json", "configs/small.json"]) is None
        True
    """
    try:
        contents = [json.loads(Path(file).read_text(encoding="utf-8")) for file in files]
    except (OSError, ValueError):
        return None
    if not all(isinstance(content, dict) for content in contents):
        return None
    names = [Path(file).stem for file in files]
    alone = [i for i, content in enumerate(contents) if stands_alone(content)]
    if len(set(alone_names := [names[i] for i in alone])) > 1:
        return f"the configs {' and '.join(alone_names)} stand alone each, they cannot be merged; name one of them"
    if alone and alone != [0]:
        first = alone_names[0]
        others = [name for name in names if name != first]
        return (
            f"the config {first} must be named first, since it replaces what stands before it, got "
            f"{', '.join(names)}; name them as {', '.join([first, *others])}"
        )
    known: set[str] = set()
    for name, content in zip(names, contents, strict=True):
        ids = [key.lstrip("+") for key in content]  # "+" in front of an id: add to what is there
        known |= {id for id in ids if len(ReferenceResolver.split_id(id)) == 1}
        for id in ids:
            parent, *inner = ReferenceResolver.split_id(id)
            if inner and parent not in known:
                return (
                    f"the config {name} changes {id!r}, but no config named before it has {parent!r}, got "
                    f"{', '.join(names)}; name it behind the config that it belongs to, such as train"
                )
    return None


def stands_alone(config: Mapping[str, Any]) -> bool:
    """Whether a config runs by itself, and is no overlay on another one.

    Args:
        config: its content.

    Example:
        >>> stands_alone({"max_epochs": 2})
        False
    """
    return {"bundle_root", "run"} <= set(config)


def running_files() -> tuple[str, ...]:
    """Return the configs that ``monai.bundle run`` was given, looked up among the callers; empty if it is not there."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_code is create_workflow.__code__:
            given: Any = frame.f_locals.get("config_file")
            if isinstance(given, str) and not Path(given).is_file() and "," in given:
                given = given.split(",")
            return () if given is None else tuple(map(str, ensure_tuple(given)))
        frame = frame.f_back
    return ()
