"""Tests of the values of the standard knobs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from medkit.workflow import check_knobs


@pytest.mark.parametrize(
    "values",
    [
        {"device": "cpu", "dataset_dir": None, "ckpt_path": None, "seed": None},
        {"device": torch.device("cpu"), "max_epochs": 1, "num_workers": 0, "seed": 2**32 - 1},
        {"learning_rate": 1, "use_amp": False, "run_name": "2024 run-1.b", "output_dir": "not/there/yet"},
        {"anything_else": object()},
    ],
)
def test_good_values_pass(values: dict[str, Any]) -> None:
    check_knobs(values)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("device", "cudda"),
        ("device", "cuda:99"),
        ("device", None),
        ("max_epochs", 0),
        ("max_epochs", 2.5),
        ("max_epochs", True),
        ("max_epochs", "three"),
        ("batch_size", 0),
        ("num_workers", -1),
        ("seed", -1),
        ("seed", 2**32),
        ("learning_rate", 0),
        ("learning_rate", float("nan")),
        ("learning_rate", "0.1x"),
        ("use_amp", 1),
        ("run_name", ""),
        ("run_name", ".."),
        ("run_name", "a/b"),
        ("run_name", 7),
        ("dataset_dir", 7),
        ("output_dir", None),
    ],
)
def test_wrong_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"check_knobs: '{name}' must be .*, got "):
        check_knobs({name: value})


def test_paths(tmp_path: Path) -> None:
    file = tmp_path / "scan.nii"
    file.touch()
    check_knobs({"dataset_dir": file, "bundle_root": str(tmp_path), "output_dir": tmp_path})
    with pytest.raises(FileNotFoundError, match="'dataset_dir' does not exist"):
        check_knobs({"dataset_dir": str(tmp_path / "none")})
    with pytest.raises(ValueError, match=r"'output_dir' must be a folder, got .*this is a file"):
        check_knobs({"output_dir": str(file)})
