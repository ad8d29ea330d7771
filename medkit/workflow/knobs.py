"""The standard knobs of every bundle: what each may be, told in one sentence when it is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import torch


def check_knobs(values: Mapping[str, Any]) -> None:
    """Check the values of standard knobs; names that are not standard are left alone.

    Known are ``bundle_root dataset_dir output_dir ckpt_path`` (paths), ``run_name`` (text), ``device``,
    ``max_epochs val_interval batch_size num_workers seed`` (whole numbers), ``learning_rate`` and ``use_amp``.

    Args:
        values: name and value of each knob. ``None`` is allowed for ``dataset_dir``, ``ckpt_path`` and ``seed``.

    Raises:
        ValueError: if a value is not of the right kind or range, or the device is not there.
        FileNotFoundError: if ``dataset_dir``, ``ckpt_path`` or ``bundle_root`` does not exist.

    Example:
        >>> check_knobs({"max_epochs": 3, "device": "cpu", "dataset_dir": None})
    """
    for name, value in values.items():
        if name in _CHECKS:
            _CHECKS[name](name, value)


def _refuse(name: str, wanted: str, value: object, remedy: str = "") -> ValueError:
    return ValueError(f"check_knobs: '{name}' must be {wanted}, got {value!r}" + (f"; {remedy}" if remedy else ""))


def _whole(minimum: int, maximum: float = math.inf) -> Callable[[str, Any], None]:
    wanted = f"a whole number >= {minimum}" if math.isinf(maximum) else f"a whole number from {minimum} to {maximum}"

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise _refuse(name, wanted, value)

    return check


def _optional(check: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    def check_unless_none(name: str, value: Any) -> None:
        if value is not None:
            check(name, value)

    return check_unless_none


def _positive(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, Real) or not 0 < float(value) < math.inf:
        raise _refuse(name, "a number > 0", value)


def _flag(name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise _refuse(name, "True or False", value)


def _existing(name: str, value: Any) -> None:
    if not isinstance(value, (str, Path)):
        raise _refuse(name, "a path", value)
    if not Path(value).exists():
        raise FileNotFoundError(f"check_knobs: '{name}' does not exist: {str(value)!r} (seen from {Path.cwd()})")


def _weights(name: str, value: Any) -> None:
    if not isinstance(value, (str, Path)):
        raise _refuse(name, "a path", value)
    if not Path(value).exists():
        raise FileNotFoundError(
            f"check_knobs: '{name}' does not exist: {str(value)!r} (seen from {Path.cwd()}); train the bundle and pass "
            "the weights of that run, --ckpt_path .../runs/<run_name>/model.pt, or --ckpt_path None for untrained ones"
        )


def _folder_to_write(name: str, value: Any) -> None:
    if not isinstance(value, (str, Path)) or not str(value):
        raise _refuse(name, "a folder", value)
    if Path(value).exists() and not Path(value).is_dir():
        raise _refuse(name, "a folder", str(value), "this is a file")


def _run_name(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _refuse(name, "text", value, f"write it with a letter, as 'run{value}'")
    if not value or value in (".", "..") or any(mark in value for mark in '/\\:*?"<>|'):
        raise _refuse(name, "the name of one folder", value)


def _device(name: str, value: Any) -> None:
    try:
        device = torch.device(value)
    except (RuntimeError, TypeError):
        raise _refuse(name, "a device such as 'cpu', 'cuda' or 'cuda:1'", value) from None
    if device.type == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= n_devices:
            there = f"{n_devices} CUDA device{'s' * (n_devices != 1)} here"
            raise _refuse(name, "a device of this machine", str(device), f"there are {there}, use 'cpu'")
    elif device.type == "mps" and not torch.backends.mps.is_available():
        raise _refuse(name, "a device of this machine", str(device), "there is no Apple GPU here, use 'cpu'")


_CHECKS: dict[str, Callable[[str, Any], None]] = {
    "bundle_root": _existing,
    "dataset_dir": _optional(_existing),
    "ckpt_path": _optional(_weights),
    "output_dir": _folder_to_write,
    "run_name": _run_name,
    "device": _device,
    "max_epochs": _whole(1),
    "val_interval": _whole(1),
    "batch_size": _whole(1),
    "num_workers": _whole(0),
    "seed": _optional(_whole(0, 2**32 - 1)),
    "learning_rate": _positive,
    "use_amp": _flag,
}
KNOBS = tuple(_CHECKS)
