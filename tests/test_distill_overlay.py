"""The overlays of distillation behind bundles of MONAI's networks, and `medkit distill`, as a user types them."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import pytest
import torch
from monai.networks.nets import DenseNet121, UNet

from medkit.cli import main
from tests.bundle_runs import ROOT, typed
from tests.foreign_bundles import CLASSIFICATION, SEGMENTATION, write_bundle

BLOCKS = ["features.denseblock1", "features.denseblock2"]
DENSE = {**CLASSIFICATION["network_def"], "init_features": 6}
VOLUME = {**SEGMENTATION["unet"], "channels": [6, 8, 8]}


def overlay_run(bundle: Path, overlay: str, *arguments: str) -> str:
    """Run a bundle's training with an overlay of medkit by MONAI's command, and return what it printed."""
    files = [str(bundle / "configs" / "train.json"), str(ROOT / "bundles" / overlay / "configs" / "distill.json")]
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), "--bundle_root", str(bundle)]
    done = typed(bundle, [*start, *arguments])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_unikd_in_a_classification_of_monai(tmp_path):
    bundle = write_bundle(tmp_path / "theirs", CLASSIFICATION)
    torch.manual_seed(5)
    teacher = DenseNet121(2, 1, 3, init_features=6, growth_rate=2, block_config=(1, 1, 1, 1))
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    shown = overlay_run(
        bundle,
        "unikd",
        *("--teacher", str(DENSE), "--teacher_ckpt", str(tmp_path / "teacher.pt"), "--kd_n_classes", "3"),
        *("--student_taps", str(BLOCKS), "--teacher_taps", str(BLOCKS)),
    )
    assert "teacher: accuracy" in shown
    assert "unikd_fraction" in shown
    # Their file of weights is that of their plain network, their state has the adapters besides.
    student = DenseNet121(2, 1, 3, init_features=4, growth_rate=2, block_config=(1, 1, 1, 1))
    for name in ("model.pt", "best.pt"):
        student.load_state_dict(torch.load(bundle / "out" / name, weights_only=True))
    state = torch.load(bundle / "out" / "state.pt", weights_only=True)
    assert set(state) == {"model", "optimizer", "scheduler", "distillation"}
    adapters = {key: value for key, value in state["distillation"].items() if key.endswith(("weight", "bias"))}
    assert sum(value.numel() for value in adapters.values()) == 985
    # Adam has seen a gradient of each: they moved.
    n_student, moments = len(list(student.parameters())), state["optimizer"]["state"]
    assert len(moments) == n_student + len(adapters)
    assert all(moments[i]["exp_avg"].abs().sum() > 0 for i in range(n_student, len(moments)))
    sizes = {tuple(value.shape) for value in state["distillation"].values() if isinstance(value, torch.Tensor)}
    assert tuple(teacher.features.conv0.weight.shape) not in sizes


def test_sokd_in_a_3d_segmentation_of_monai_with_ids_of_its_own(tmp_path):
    bundle = write_bundle(tmp_path / "theirs", SEGMENTATION)
    torch.save({"model": UNet(3, 1, 2, (6, 8, 8), (2, 2)).state_dict()}, tmp_path / "teacher.pt")
    shown = overlay_run(
        bundle,
        "sokd",
        *("--teacher", json.dumps(VOLUME), "--teacher_ckpt", str(tmp_path / "teacher.pt"), "--kd_force", "True"),
        *("--student_taps", "['bottom']", "--teacher_taps", "['bottom']", "--fitting#max_epochs", "2"),
        *("--trainer_id", "fitting", "--evaluator_id", "checking", "--kd_warmup_epochs", "0"),
    )
    assert "teacher: dice" in shown
    assert "sokd: entropy" in shown
    state = torch.load(bundle / "out" / "state.pt", weights_only=True)
    assert set(state) == {"net", "solver", "distillation", "policy"}
    UNet(3, 1, 2, (4, 8, 8), (2, 2)).load_state_dict(state["net"])
    # One batch an epoch leaves no other for the policy; with the momentum of none, the solver still has its groups.
    assert len(state["solver"]["param_groups"]) == 2
    assert len(state["solver"]["param_groups"][1]["params"]) > 0


def test_an_error_of_the_user_is_one_line(tmp_path):
    bundle = write_bundle(tmp_path / "theirs", CLASSIFICATION)
    files = [str(bundle / "configs" / "train.json"), str(ROOT / "bundles" / "unikd" / "configs" / "distill.json")]
    start = [sys.executable, "-m", "monai.bundle", "run", "--config_file", str(files), "--teacher", str(DENSE)]
    done = typed(bundle, start)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("medkit: error: install_distillation: give --student_taps, paths of")
    assert "Traceback" not in done.stderr


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDKIT_DEBUG", "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(logging.root, "handlers", list(logging.root.handlers))
    return write_bundle(tmp_path / "theirs", CLASSIFICATION)


def test_the_command_trains_with_terms_by_name(bundle, tmp_path):
    taps = ["--student_taps", *BLOCKS, "--teacher_taps", str(BLOCKS)]
    words = ["distill", str(bundle), "--teacher", str(DENSE), "--terms", "kd", "fitnet", *taps, "--max_epochs", "1"]
    assert main([*words, "--kd_warmup_epochs", "0"]) == 0
    state = torch.load(bundle / "out" / "state.pt", weights_only=True)
    assert {key.split(".")[2] for key in state["distillation"] if "weight" in key} == {"fitnet"}


def test_the_command_lists_what_can_be_tapped(bundle, capsys):
    assert main(["distill", str(bundle), "--teacher", str(DENSE), "--probe"]) == 0
    shown = capsys.readouterr().out
    student, teacher = shown.split("teacher: DenseNet121")
    assert "features.denseblock2                           (1, 5, 4, 4)" in student
    assert "features.denseblock2                           (1, 6, 4, 4)" in teacher
    assert not (bundle / "out").exists()


def test_the_command_reports_a_narrower_network_of_the_same_bundle(bundle, tmp_path, capsys):
    (bundle / "models").mkdir()
    teacher = DenseNet121(2, 1, 3, init_features=4, growth_rate=2, block_config=(1, 1, 1, 1))
    torch.save(teacher.state_dict(), bundle / "models" / "model.pt")
    words = ["distill", str(bundle), "--teacher", str(bundle), "--network_def#init_features", "2"]
    assert main([*words, "--report", str(tmp_path / "report")]) == 0
    report = json.loads((tmp_path / "report" / "compression.json").read_text())
    assert report["teacher"]["parameters"] == sum(p.numel() for p in teacher.parameters())
    assert report["student"]["parameters"] < report["teacher"]["parameters"]
    assert 0 <= report["metrics"]["teacher"] <= 1
    assert "| parameters |" in capsys.readouterr().out


def test_the_command_writes_a_config_that_runs_by_itself(bundle, tmp_path):
    out = bundle / "configs" / "distilled.json"
    assert main(["distill", str(bundle), "--teacher", str(DENSE), "--max_epochs", "1", "--write", str(out)]) == 0
    assert main(["run", str(bundle), "distilled"]) == 0
    assert (bundle / "out" / "state.pt").is_file()


def test_the_command_refuses_in_one_sentence(bundle, capsys):
    start = ["distill", str(bundle), "--teacher"]
    with pytest.raises(ValueError, match="must be names out of"):
        main([*start, str(DENSE), "--terms", "fit"])
    assert main([*start, "nobody"]) == 2
    assert "no bundle 'nobody'" in capsys.readouterr().err
    for words, sentence in (
        ([str(DENSE), "--trainer_id", "fit", "--probe"], "no trainer 'fit'; give --trainer_id"),
        (["{'a': b"], "--teacher must be written as in JSON or Python, got {'a': b"),
        ([str(DENSE), "--student_taps", "[a"], "taps must be written as in JSON or Python"),
    ):
        with pytest.raises(SystemExit):
            main([*start, *words])
        assert sentence in capsys.readouterr().err
    config = {**CLASSIFICATION, "teacher": 1}
    (bundle / "configs" / "train.json").write_text(json.dumps(config))
    with pytest.raises(SystemExit):
        main([*start, str(DENSE)])
    assert "the bundle's configs have ['teacher'] themselves" in capsys.readouterr().err
