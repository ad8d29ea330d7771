"""The bundle sokd as a user runs it: trained, its policy searched and frozen, stopped, evaluated, and used on files."""

from __future__ import annotations

import json

import pytest
import torch
from monai.bundle import ConfigParser

from tests.bundle_runs import ROOT, command, configs, prepared, run, typed
from tests.classifier_runs import TINY, options, same_states, stopped_after_first_epoch, trainer_of, write_bars

SOKD = ROOT / "bundles" / "sokd"


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return write_bars(tmp_path_factory.mktemp("bars") / "bars.npz")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a short training on simulated slices, run from another folder as its README says."""
    folder = tmp_path_factory.mktemp("sokd")
    done = typed(folder, command(SOKD, ["train", "small"], "--output_dir", str(folder)))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_training_leaves_the_student_alone_and_its_policy_in_the_checkpoint(trained):
    parser = ConfigParser()
    parser.read_config(configs(SOKD, "train", "small"))
    keys = parser.get_parsed_content("network_def").state_dict().keys()
    assert torch.load(trained / "small" / "model.pt", weights_only=True).keys() == keys
    checkpoint = torch.load(trained / "small" / "checkpoint.pt", weights_only=True)
    assert checkpoint["policy"]["optimizer"]["state"], "the search made steps"
    assert (trained / "small" / "preview.png").is_file()


def test_policy_is_searched_and_then_frozen(bars, tmp_path):
    own = options(bars, tmp_path, **TINY, **{"train#handlers#3#search_epochs": 1})
    workflow = prepared(SOKD, ["train"], "train", **{**own, "max_epochs": 2})
    refiner = workflow.parser.get_parsed_content("loss").terms.weighted()["sokd"].term.refiner
    before = refiner.alpha.detach().clone()
    trainer_of(workflow).run()
    assert refiner.is_frozen
    assert not torch.equal(before, refiner.alpha)


def test_stopped_training_ends_in_the_same_state(bars, tmp_path):
    own = {**TINY, "max_epochs": 2}
    run(SOKD, ["train"], **options(bars, tmp_path, **own, run_name="whole"))
    stopped_after_first_epoch(SOKD, ["train"], **options(bars, tmp_path, **own, run_name="stopped"))
    run(SOKD, ["train"], **options(bars, tmp_path, **own, run_name="stopped"))
    whole, stopped = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "stopped"))
    assert same_states(whole, stopped)


@pytest.mark.parametrize(("overlay", "name"), [("review", "sokd_review"), ("alone", "alone"), ("teacher", "teacher")])
def test_other_methods_train_too(overlay, name, bars, tmp_path):
    sizes = {key: value for key, value in TINY.items() if overlay != "teacher" or "teacher" in key}
    run(SOKD, ["train", overlay], **options(bars, tmp_path, **sizes))
    assert (tmp_path / name / "model.pt").is_file()


def test_evaluation_and_inference(trained, bars, tmp_path):
    own = {"n_test_subjects": 1, "n_test_per_class": 1, "device": "cpu"}
    run(SOKD, ["train", "small", "evaluate"], output_dir=str(trained), **own)
    summary = json.loads((trained / "small" / "evaluate" / "metrics.json").read_text())["summary"]
    assert set(summary) == {"sokd", "teacher"}
    weights = {"ckpt_path": str(trained / "small" / "model.pt"), "network_def#block_inplanes": [4, 4, 8, 8]}
    run(SOKD, ["inference"], dataset_dir=str(bars), output_dir=str(tmp_path), device="cpu", **weights)
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 61


def test_properties_of_monai_are_there(bars, tmp_path):
    workflow = prepared(SOKD, ["train"], "train", **options(bars, tmp_path, **TINY))
    assert workflow.check_properties() == []


def test_recipe_of_cifar(bars, tmp_path):
    small = {"network_def#channels": [4, 4, 4, 4], "teacher_def#channels": [4, 4, 4, 8], "num_workers": 0}
    own = {**options(bars, tmp_path, **small), "image_size": 32, "batch_size": 8}
    run(SOKD, ["train", "cifar100"], **own)
    assert (tmp_path / "cifar100" / "model.pt").is_file()


@pytest.mark.parametrize("name", ["unikd", "sokd"])
def test_several_processes_log_once(name):
    parser = ConfigParser()
    parser.read_config(configs(ROOT / "bundles" / name, "train", "multi_gpu_train"))
    for part in ("train", "validate"):
        disabled = [handler["_target_"] for handler in parser[part]["handlers"] if "get_rank" in str(handler)]
        assert disabled == ["TensorBoardStatsHandler"]
