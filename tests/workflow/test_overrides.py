"""Tests of the refusal of unknown overrides, run as a user runs a bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
from monai.bundle import ConfigParser, ConfigWorkflow

from medkit.workflow import check_overrides, user_message
from medkit.workflow.overrides import known_ids, unknown_ids


def initialize(bundle: Path, *overlays: str, **overrides: Any) -> ConfigWorkflow:
    files = [str(bundle / "configs" / f"{name}.json") for name in ("train", *overlays)]
    workflow = ConfigWorkflow(files, bundle_root=str(bundle), logging_file=False, **overrides)
    workflow.initialize()
    return workflow


def refusal(bundle: Path, **overrides: Any) -> str:
    with pytest.raises(RuntimeError) as caught:
        initialize(bundle, **overrides)
    message = user_message(caught.value)
    assert message is not None
    return message


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("max_epoch", "max_epochs"),
        ("epochs", "max_epochs"),
        ("lr", "learning_rate"),
        ("dataset_dri", "dataset_dir"),
        ("logging_fil", "logging_file"),
        ("train#trainer#max_epoch", "train#trainer#max_epochs"),
        ("train::trainer::max_epoch", "train#trainer#max_epochs"),
        ("train#loader#batchsize", "train#loader#batch_size"),
        ("train#handlers#0#run_dri", "train#handlers#0#run_dir"),
        ("train#trainers", "train#trainer"),
        ("network_def#in_feature", "network_def#in_features"),
    ],
)
def test_misspelt_name_is_refused_with_the_nearest(bundle: Path, given: str, near: str) -> None:
    message = refusal(bundle, **{given: 3})
    assert f"unknown option '{given.replace('::', '#')}': did you mean '{near}'?" in message


def test_name_near_nothing_is_refused(bundle: Path) -> None:
    assert "unknown option 'zzz'" in refusal(bundle, zzz=1)
    assert "epochs_of_the_authors" in refusal(bundle, epochs_of_the_authors=1)  # metadata is no config


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"max_epochs": 3, "learning_rate": 0.5, "run_name": "second"},
        {"train#trainer#max_epochs": 3, "network_def#bias": False},  # an argument that no config names
        {"sw_batch_size": 2},  # stands in another config of the bundle
        {
            "my_network": {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 1},
            "network_def": "@my_network",
        },
        {"train#extra": 3, "max_epochs": "@train#extra"},
        {"network_def": {"_target_": "torch.nn.LazyLinear", "out_features": 1}},
        {"train#handlers": [{"_target_": "StatsHandler", "tag_name": "loss"}]},
        {"run_id": "train_it", "train_it": ["$print('x')"]},
    ],
)
def test_valid_overrides_pass(bundle: Path, overrides: dict[str, Any]) -> None:
    initialize(bundle, **overrides)


def test_overlays_are_known(bundle: Path) -> None:
    initialize(bundle, "small")
    assert known_ids(bundle / "configs")["train"][0] == {"loader": {"batch_size": 1}}
    assert len(known_ids(bundle / "configs")["run"]) == 3


def test_tracking_is_allowed_but_hides_no_typo(bundle: Path) -> None:
    settings = monai.bundle.utils.DEFAULT_MLFLOW_SETTINGS["configs"]
    config = {**json.loads((bundle / "configs" / "train.json").read_text()), **settings}
    check = {"_target_": "medkit.workflow.check_overrides", "bundle_root": str(bundle)}
    config |= {"initialize": [check], "bundle_root": str(bundle), "run_name": "first"}
    ConfigParser(dict(config)).get_parsed_content("initialize::0")
    with pytest.raises(RuntimeError, match="medkit") as caught:
        ConfigParser({**config, "trainer": 3}).get_parsed_content("initialize::0")
    assert "unknown option 'trainer'" in str(user_message(caught.value))


def test_missing_weights_are_refused_where_something_loads_them(bundle: Path) -> None:
    initialize(bundle)
    path = bundle / "configs" / "train.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "load_path": "@ckpt_path"}))
    message = refusal(bundle)
    assert "'ckpt_path' does not exist" in message
    assert "train the bundle and pass the weights of that run" in message
    initialize(bundle, ckpt_path=None)


def test_wrong_knobs_are_refused(bundle: Path) -> None:
    assert "'max_epochs' must be a whole number >= 1, got 0" in refusal(bundle, max_epochs=0)
    assert "'dataset_dir' does not exist: '/no/such'" in refusal(bundle, dataset_dir="/no/such")
    assert "'ckpt_path' does not exist" in refusal(bundle, ckpt_path="/no/such.pt")
    assert "'max_epochs' must be a whole number >= 1, got -1" in refusal(bundle, max_epochs="$1 - 2")
    assert "cuda:99" in refusal(bundle, device="cuda:99")


def test_outside_a_bundle_nothing_is_checked(tmp_path: Path) -> None:
    check_overrides(tmp_path)
    parser = ConfigParser({"anything": 1, "check": {"_target_": "medkit.workflow.check_overrides", "bundle_root": "x"}})
    parser.get_parsed_content("check")


def test_broken_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match=r"broken\.json is not valid JSON"):
        known_ids(tmp_path)
    (tmp_path / "broken.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold a dictionary, got list"):
        known_ids(tmp_path)


def test_names_inside_plain_values_are_free() -> None:
    known = {"labels": [{"1": "csf"}], "net": [{"_target_": "torch.nn.Linear", "options": {"a": 1}}]}
    config = {"labels": {"2": "white"}, "net": {"_target_": "builtins.dict", "options": {"b": 1}, "any": 2}}
    assert list(unknown_ids(config, known, set(), ConfigParser())) == []


def command(
    bundle: Path, *overrides: str, launcher: tuple[str, ...] = (), names: tuple[str, ...] = ("train",)
) -> subprocess.CompletedProcess[str]:
    files = [str(bundle / "configs" / f"{name}.json") for name in names]
    arguments = ["run", "--config_file", str(files), "--bundle_root", str(bundle)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("MEDKIT_DEBUG", None)
    return subprocess.run(
        [sys.executable, *launcher, "-m", "monai.bundle", *arguments, *overrides],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=300,
    )


def test_command_line_ends_in_one_line(bundle: Path) -> None:
    done = command(bundle, "--max_epoch", "3")
    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if "GHSA" not in line and "warn" not in line.lower()]
    assert errors[-1] == "medkit: error: check_overrides: unknown option 'max_epoch': did you mean 'max_epochs'?"
    assert "Traceback" not in done.stderr + done.stdout
    assert not (bundle / "runs").exists()


def test_an_overlay_before_the_config_that_replaces_it_is_refused(bundle: Path) -> None:
    (bundle / "configs" / "long.json").write_text(json.dumps({"max_epochs": 9}))
    done = command(bundle, names=("long", "train"))
    assert done.returncode == 1
    assert "check_overrides: the config train must be named first" in done.stderr
    assert "got long, train; name them as train, long" in done.stderr
    assert not (bundle / "runs").exists()


def test_torchrun_ends_in_one_line_too(bundle: Path) -> None:
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = command(bundle, "--train#trainer#max_epoch", "3", launcher=launcher)
    assert done.returncode != 0
    assert "medkit: error (rank " in done.stderr
    assert "unknown option 'train#trainer#max_epoch': did you mean 'train#trainer#max_epochs'?" in done.stderr


def test_a_target_that_is_not_there_or_takes_other_arguments_is_refused(bundle: Path) -> None:
    message = refusal(bundle, **{"network_def#_target_": "torch.nn.Lineer"})
    assert "'network_def#_target_' must be a class or function that can be imported, there is no" in message
    message = refusal(bundle, **{"network_def#_target_": "torch.nn.ReLU"})
    assert "torch.nn.ReLU takes no 'in_features'" in message
    assert "give --network_def whole" in message
