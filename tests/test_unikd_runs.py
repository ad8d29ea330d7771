"""The bundle unikd as a user runs it: trained, stopped, evaluated, used on files, exported, and given wrong input."""

from __future__ import annotations

import csv
import json

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export
from PIL import Image

from medkit.workflow import user_message
from tests.bundle_runs import ROOT, command, configs, prepared, run, train_in_two_processes, typed
from tests.classifier_runs import TINY, options, same_states, stopped_after_first_epoch, write_bars

UNIKD = ROOT / "bundles" / "unikd"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return the folder of a short training on simulated slices, run from another folder as its README says."""
    folder = tmp_path_factory.mktemp("unikd")
    done = typed(folder, command(UNIKD, ["train", "small"], "--output_dir", str(folder)))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def bars(tmp_path_factory):
    return write_bars(tmp_path_factory.mktemp("bars") / "bars.npz")


def test_training_leaves_the_student_alone_and_pictures(trained):
    for name in ("model.pt", "checkpoint.pt", "preview.png", "previews/epoch_0002.png", "config.json"):
        assert (trained / "small" / name).is_file(), name
    parser = ConfigParser()
    parser.read_config(configs(UNIKD, "train", "small"))
    keys = parser.get_parsed_content("network_def").state_dict().keys()
    assert torch.load(trained / "small" / "model.pt", weights_only=True).keys() == keys
    checkpoint = torch.load(trained / "small" / "checkpoint.pt", weights_only=True)
    assert any("fusion" in key for key in checkpoint["loss"]), "the adapters are resumed"


def test_evaluation_compares_student_and_teacher(trained):
    own = {"n_test_subjects": 1, "n_test_per_class": 1}
    run(UNIKD, ["train", "small", "evaluate"], output_dir=str(trained), device="cpu", **own)
    folder = trained / "small" / "evaluate"
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics["summary"]) == {"unikd", "teacher"}
    assert {"accuracy", "balanced_accuracy", "auc", "ece"} <= set(metrics["summary"]["unikd"])
    assert len(metrics["cases"]) == 32
    assert json.loads((folder / "compression.json").read_text())["ratio"]["parameters"] > 1
    for name in ("predictions.csv", "metrics.csv", "confusion_unikd.png", "preview.png"):
        assert (folder / name).is_file(), name


def test_pictures_are_learned_and_the_loss_falls(bars, tmp_path):
    more = {**TINY, "max_epochs": 8, "learning_rate": 0.01}
    run(UNIKD, ["train", "alone"], **options(bars, tmp_path, **{**more, "run_name": "teacher"}))
    run(UNIKD, ["train", "alone", "evaluate"], **options(bars, tmp_path, **TINY, run_name="teacher"))
    summary = json.loads((tmp_path / "teacher" / "evaluate" / "metrics.json").read_text())["summary"]
    assert summary["alone"]["accuracy"] > 0.8


@pytest.mark.parametrize("overlay", ["alone", "teacher", "kd", "fitnet", "dkd", "review"])
def test_other_methods_train_too(overlay, bars, tmp_path):
    sizes = {key: value for key, value in TINY.items() if overlay != "teacher" or "teacher" in key}
    run(UNIKD, ["train", overlay], **options(bars, tmp_path, **sizes))
    assert (tmp_path / overlay / "model.pt").is_file()
    config = json.loads((tmp_path / overlay / "config.json").read_text())
    assert config["method"] == overlay


def test_several_classes_at_a_time(tmp_path):
    data = write_bars(tmp_path / "several.npz", several=True)
    run(UNIKD, ["train", "multilabel"], **options(data, tmp_path, **TINY))
    run(UNIKD, ["train", "multilabel", "evaluate"], **options(data, tmp_path, **TINY))
    summary = json.loads((tmp_path / "unikd" / "evaluate" / "metrics.json").read_text())["summary"]
    assert 0 <= summary["unikd"]["auc"] <= 1


def test_recipe_of_cifar(tmp_path):
    folder = tmp_path / "pictures"
    rng = np.random.default_rng(0)
    for split, n in (("train", 4), ("val", 2), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(n):
                path = folder / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    small = {"network_def#channels": [4, 4, 4, 4], "teacher_def#channels": [4, 4, 4, 8], "num_workers": 0}
    own = {**options(folder, tmp_path, **small), "image_size": 32, "batch_size": 4}
    workflow = prepared(UNIKD, ["train", "cifar100"], "train", **own)
    rates = workflow.parser.get_parsed_content("lr_scheduler").milestones
    assert sorted(rates) == [150, 180, 210]
    workflow.run()
    run(UNIKD, ["train", "cifar100", "evaluate"], **own)
    assert (tmp_path / "cifar100" / "evaluate" / "metrics.json").is_file()


def test_stopped_training_ends_in_the_same_state(bars, tmp_path):
    own = {**TINY, "max_epochs": 2}
    run(UNIKD, ["train"], **options(bars, tmp_path, **own, run_name="whole"))
    stopped_after_first_epoch(UNIKD, ["train"], **options(bars, tmp_path, **own, run_name="stopped"))
    run(UNIKD, ["train"], **options(bars, tmp_path, **own, run_name="stopped"))
    whole, stopped = (torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "stopped"))
    assert same_states(whole, stopped)


def test_inference_on_pictures_and_slices(trained, tmp_path):
    exams = tmp_path / "exams"
    exams.mkdir()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 64), dtype=np.uint8)).save(exams / "a.png")
    nibabel.save(nibabel.Nifti1Image(rng.random((40, 48, 3), dtype=np.float32), np.eye(4)), exams / "b.nii.gz")
    own = {"ckpt_path": str(trained / "small" / "model.pt"), "network_def#block_inplanes": [4, 4, 8, 8]}
    run(UNIKD, ["inference"], dataset_dir=str(exams), output_dir=str(tmp_path / "out"), device="cpu", **own)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a.png", "b.nii.gz_000", "b.nii.gz_001", "b.nii.gz_002"]
    assert sum(float(rows[0][name]) for name in list(rows[0])[3:]) == pytest.approx(1, abs=2e-3)
    assert (tmp_path / "out" / "preview.png").is_file()


def test_properties_of_monai_are_there(bars, tmp_path):
    workflow = prepared(UNIKD, ["train"], "train", **options(bars, tmp_path, **TINY))
    assert workflow.check_properties() == []
    own = {"dataset_dir": str(bars), "output_dir": str(tmp_path), "device": "cpu"}
    assert prepared(UNIKD, ["inference"], "infer", **own, ckpt_path=None).check_properties() == []


def test_exported_torchscript_agrees_with_the_network(trained, tmp_path):
    own = {"network_def#block_inplanes": [4, 4, 8, 8]}
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained / "small" / "model.pt"),
        meta_file=str(UNIKD / "configs" / "metadata.json"),
        config_file=configs(UNIKD, "inference")[0],
        bundle_root=str(UNIKD),
        **own,
    )
    parser = ConfigParser()
    parser.read_config(configs(UNIKD, "inference"))
    parser["network_def#block_inplanes"] = [4, 4, 8, 8]
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(trained / "small" / "model.pt", weights_only=True))
    script = torch.jit.load(str(tmp_path / "model.ts")).eval()
    for size in ((64, 64), (48, 80)):
        image = torch.rand(2, 1, *size)
        torch.testing.assert_close(script(image), network(image), atol=1e-5, rtol=1e-4)


def test_two_processes_train_one_student(tmp_path):
    train_in_two_processes(UNIKD, tmp_path)
    assert (tmp_path / "small" / "model.pt").is_file()
    assert (tmp_path / "small" / "preview.png").is_file()


WRONG = {
    "teacher": ({"teacher_path": "nowhere.pt"}, FileNotFoundError, "no weights at nowhere.pt"),
    "classes": ({"classes": ["a", "b"]}, ValueError, "has 3 classes"),
    "knob": ({"max_epoch": 3}, ValueError, "max_epochs"),
    "sizes": ({"image_size": 0}, ValueError, "'image_size'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_ends_in_one_sentence(name, bars, tmp_path):
    overrides, kind, words = WRONG[name]
    with pytest.raises((kind, RuntimeError)) as caught:
        run(UNIKD, ["train"], **{**options(bars, tmp_path, **TINY), **overrides})
    sentence = user_message(caught.value)
    assert sentence is not None
    assert words in sentence
