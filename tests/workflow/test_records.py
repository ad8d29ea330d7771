"""Tests of what a run leaves behind: metrics as JSON and CSV, and the configuration."""

from __future__ import annotations

import csv
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.engines import SupervisedEvaluator
from monai.handlers import MeanAbsoluteError, MeanSquaredError, from_engine

from medkit.workflow import MetricsWriter, atomic_path, save_config_copy, write_metrics

CASES: list[dict[str, Any]] = [
    {"case": "a", "zero_filled": {"psnr": 20.0, "ssim": 0.5}, "clgnet": {"psnr": 30.0, "ssim": 0.75}},
    {"case": "b", "zero_filled": {"psnr": 22.0, "ssim": 0.7}, "clgnet": {"psnr": torch.tensor(34.0), "ssim": math.nan}},
]


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, str]]]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return json.loads((folder / "metrics.json").read_text()), lines


def test_summary_is_the_mean_of_the_cases(tmp_path: Path) -> None:
    summary = write_metrics(tmp_path / "new", CASES)
    assert summary["zero_filled"] == pytest.approx({"psnr": 21.0, "ssim": 0.6})
    assert summary["clgnet"] == {"psnr": 32.0, "ssim": 0.75}  # the value that is not a number is left out
    assert read(tmp_path / "new")[0]["summary"] == summary


def test_metrics_of_all_cases_together_join_the_summary(tmp_path: Path) -> None:
    summary = write_metrics(tmp_path, CASES, {"clgnet": {"auc": 0.9, "ece": math.nan}, "other": {"auc": 0.5}})
    assert summary["clgnet"] == {"psnr": 32.0, "ssim": 0.75, "auc": 0.9, "ece": None}
    content, lines = read(tmp_path)
    assert content["summary"] == summary
    assert [line["auc"] for line in lines if line["case"] == "mean"] == ["", "0.9", "0.5"]


def test_json_has_the_agreed_form(tmp_path: Path) -> None:
    write_metrics(tmp_path, CASES)
    content, _ = read(tmp_path)
    assert list(content) == ["summary", "cases"]
    assert content["cases"][0] == CASES[0]
    assert content["cases"][1]["clgnet"] == {"psnr": 34.0, "ssim": None}


def test_csv_says_the_same(tmp_path: Path) -> None:
    write_metrics(tmp_path, CASES)
    content, lines = read(tmp_path)
    rows = [*content["cases"], {"case": "mean", **content["summary"]}]
    expected = [(row["case"], method, row[method]) for row in rows for method in ("zero_filled", "clgnet")]
    assert [(line["case"], line["method"]) for line in lines] == [(case, method) for case, method, _ in expected]
    for line, (_, _, metrics) in zip(lines, expected, strict=True):
        assert {name: float(line[name]) if line[name] else None for name in metrics} == metrics


def test_methods_may_differ_in_metrics_and_cases(tmp_path: Path) -> None:
    summary = write_metrics(tmp_path, [{"case": "a", "x": {"dice": 1.0}}, {"case": "b", "y": {"psnr": math.inf}}])
    assert summary == {"x": {"dice": 1.0}, "y": {"psnr": None}}
    assert read(tmp_path)[1][0] == {"case": "a", "method": "x", "dice": "1.0", "psnr": ""}


@pytest.mark.parametrize(
    ("cases", "wanted"),
    [
        ([], "'cases' must hold at least one case"),
        ([{"clgnet": {"psnr": 1.0}}], "each case must have its name under 'case', got None"),
        ([{"case": "a", "psnr": 1.0}], "method 'psnr' must have a dictionary of metrics, got 1.0"),
    ],
)
def test_wrong_cases_are_refused(tmp_path: Path, cases: list[dict[str, Any]], wanted: str) -> None:
    with pytest.raises(ValueError, match=f"write_metrics: {wanted}"):
        write_metrics(tmp_path, cases)
    assert list(tmp_path.iterdir()) == []


def evaluate(output_dir: Path, names: list[str]) -> dict[str, Any]:
    """Evaluate the identity on items 0, 1, 2, … whose labels are 0 and whose baseline is twice the item."""
    values = torch.arange(len(names), dtype=torch.float32)[:, None]
    batches = [
        {"image": values[i : i + 2], "label": torch.zeros_like(values[i : i + 2]), "case": names[i : i + 2]}
        for i in range(0, len(names), 2)
    ]
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=batches,
        network=torch.nn.Identity(),
        key_val_metric={"mse": MeanSquaredError(output_transform=from_engine(["pred", "label"]))},
        additional_metrics={
            "mae": MeanAbsoluteError(output_transform=from_engine(["pred", "label"])),
            "twice/mae": MeanAbsoluteError(
                output_transform=lambda items: ([2 * x["pred"] for x in items], [x["label"] for x in items])
            ),
        },
        val_handlers=[MetricsWriter(output_dir, method="once")],
    )
    evaluator.run()
    evaluator.run()  # a second run replaces the first
    return json.loads((output_dir / "metrics.json").read_text())


def test_evaluator_is_written_case_by_case(tmp_path: Path) -> None:
    content = evaluate(tmp_path, ["a", "b", "c"])
    assert content["cases"] == [
        {"case": name, "once": {"mse": i**2, "mae": i}, "twice": {"mae": 2 * i}} for i, name in enumerate("abc")
    ]
    assert content["summary"]["twice"] == {"mae": 2.0}


def test_slices_of_a_case_are_averaged(tmp_path: Path) -> None:
    content = evaluate(tmp_path, ["a", "b", "a"])
    assert [case["case"] for case in content["cases"]] == ["a", "b"]
    assert [case["once"]["mae"] for case in content["cases"]] == [1.0, 1.0]


def test_wrong_number_of_values_is_refused(tmp_path: Path) -> None:
    from ignite.engine import Engine

    writer = MetricsWriter(tmp_path, "x")
    engine = Engine(lambda engine, batch: None)
    engine.state.metric_details = {"mae": torch.zeros(5, 1)}
    writer.attach(engine)
    with pytest.raises(ValueError, match=r"metric 'mae' must have one value per item \(3\) or per case \(2\), got 5"):
        engine.run([{"case": ["a", "b"]}, [{"case": "a"}]])


def test_config_copy_holds_the_overrides(bundle: Path) -> None:
    from monai.bundle import ConfigWorkflow

    files = [str(bundle / "configs" / "train.json")]
    overrides = {"bundle_root": str(bundle), "max_epochs": 9, "device": torch.device("cpu")}
    ConfigWorkflow(files, logging_file=False, **overrides).initialize()
    content = json.loads((bundle / "runs" / "first" / "config.json").read_text())
    assert content["max_epochs"] == 9
    assert content["device"] == "cpu"
    assert content["train"]["loader"]["batch_size"] == 2


def test_no_config_no_copy(tmp_path: Path) -> None:
    save_config_copy(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_atomic_path_replaces_only_after_success(tmp_path: Path) -> None:
    path = tmp_path / "a" / "x.nii.gz"
    with atomic_path(path) as temporary:
        temporary.write_text("old")
        assert temporary.name.endswith("x.nii.gz")
        assert not path.exists()
    with pytest.raises(KeyError), atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("new")
        raise KeyError
    assert path.read_text() == "old"
    with pytest.raises(FileNotFoundError, match="nothing was written"), atomic_path(path):
        pass
    assert [file.name for file in path.parent.iterdir()] == ["x.nii.gz"]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_atomic_path_keeps_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    with atomic_path(tmp_path / "atomic") as temporary:
        temporary.touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "usual").stat().st_mode
