"""The bundle mc_cdic: trained, resumed, evaluated, used on pairs of files, exported, and given wrong input."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, onnx_export

from medkit.mri import MultiContrastLoss
from medkit.workflow import user_message
from tests.bundle_runs import (
    MC_CDIC,
    SMALL,
    assert_lesions_are_shown,
    configs,
    prepared,
    run,
    train_in_two_processes,
    trained_network,
    trained_weights,
    values_of_steps,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return the folder of a short training."""
    folder = tmp_path_factory.mktemp("trained")
    run(MC_CDIC, ["train", "small"], output_dir=str(folder))
    return folder


def weights(folder: Path, name: str = "small") -> torch.Tensor:
    """Return the weights of the last step of a training, as one vector."""
    state = torch.load(folder / name / "checkpoint.pt", weights_only=True)["network"]
    return torch.cat([value.flatten() for value in state.values()])


def test_training_leaves_weights_checkpoint_and_pictures(trained):
    for name in ("model.pt", "checkpoint.pt", "preview.png", "previews/epoch_0002.png", "config.json"):
        assert (trained / "small" / name).is_file(), name


@pytest.mark.parametrize(
    ("names", "kind", "overrides"),
    [(["train", "small"], "train", {}), (["inference"], "infer", {"spacing": 4.0, "ckpt_path": None})],
)
def test_properties_of_monai_are_there(names, kind, overrides, tmp_path):
    assert prepared(MC_CDIC, names, kind, output_dir=str(tmp_path), **overrides).check_properties() == []


def test_training_steps_lower_the_loss():
    values = values_of_steps(MC_CDIC, lambda loss, value: value, learning_rate=0.002)
    assert values[-1] < 0.9 * values[0]


def test_stopped_training_goes_on_where_it_was(trained, tmp_path, monkeypatch):
    calls, forward = [], MultiContrastLoss.forward

    def stop(self, pred, label):
        calls.append(1)
        if len(calls) > 6:  # in the second of two epochs of four steps
            raise KeyboardInterrupt
        return forward(self, pred, label)

    monkeypatch.setattr(MultiContrastLoss, "forward", stop)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        run(MC_CDIC, ["train", "small"], output_dir=str(tmp_path))
    monkeypatch.undo()
    assert not torch.equal(weights(tmp_path), weights(trained))
    run(MC_CDIC, ["train", "small"], output_dir=str(tmp_path))
    assert torch.equal(weights(tmp_path), weights(trained))


def test_evaluate_compares_with_the_zero_filled_image(trained):
    run(MC_CDIC, ["train", "small", "evaluate"], output_dir=str(trained), n_test_subjects=1, center_fraction=0.125)
    folder = trained / "small" / "evaluate"
    summary = json.loads((folder / "metrics.json").read_text())["summary"]
    assert set(summary) == {"zero_filled", "mc_cdic"}
    assert set(summary["mc_cdic"]) == {"psnr", "ssim", "nmse", "residual"}
    assert 0 < summary["mc_cdic"]["residual"] < 0.3
    assert summary["mc_cdic"]["psnr"] > 10
    assert (folder / "metrics.csv").is_file()
    assert_lesions_are_shown(folder, "test-0000_t1", "mc_cdic")


def infer(trained: Path, out: Path, **options: object) -> dict:
    """Restore exams with the weights of the short training, and return their metrics."""
    weights = str(trained_weights(trained))
    run(MC_CDIC, ["inference"], output_dir=str(out), ckpt_path=weights, **{**SMALL, **options})
    return json.loads((out / "metrics.json").read_text())


def test_inference_restores_a_simulated_subject(trained, tmp_path):
    metrics = infer(trained, tmp_path, spacing=4.0, n_slices=2)
    assert [case["case"] for case in metrics["cases"]] == ["test-0000"]
    assert nibabel.load(tmp_path / "test-0000_mc_cdic.nii.gz").shape == (48, 64, 2)
    assert (tmp_path / "test-0000.png").is_file()


AFFINE = np.array([[0.0, -2.0, 0.0, 10], [3.0, 0.0, 0.0, -7], [0.0, 0.0, 4.0, 5], [0, 0, 0, 1]])


def save(path: Path, shape=(40, 36, 3), affine=AFFINE) -> Path:
    path.parent.mkdir(exist_ok=True)
    image = np.random.default_rng(0).random(shape, dtype=np.float32)
    nibabel.save(nibabel.Nifti1Image(image, affine), path)
    return path


def test_inference_of_a_volume_and_its_reference_keeps_the_geometry(trained, tmp_path):
    target, guide = save(tmp_path / "head_T2.nii.gz"), save(tmp_path / "another.nii.gz")
    metrics = infer(trained, tmp_path / "out", dataset_dir=str(target), guide_path=str(guide))
    assert metrics["summary"]["mc_cdic"]["psnr"] > 5
    result = nibabel.load(tmp_path / "out" / "head_T2_mc_cdic.nii.gz")
    assert result.shape == (40, 36, 3)
    assert result.get_data_dtype() == np.float32
    np.testing.assert_allclose(result.affine, AFFINE, atol=1e-6)


def test_inference_takes_kspace_of_several_coils(trained, tmp_path):
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((2, 3, 40, 36)) + 1j * rng.standard_normal((2, 3, 40, 36))).astype(np.complex64)
    for name in ("a_t2", "a_t1"):
        np.save(tmp_path / f"{name}.npy", kspace)
    infer(trained, tmp_path / "out", dataset_dir=str(tmp_path))
    assert nibabel.load(tmp_path / "out" / "a_mc_cdic.nii.gz").shape == (40, 36, 2)


@pytest.fixture
def exams(tmp_path) -> Path:
    """Return a folder of two good pairs, and three that are not."""
    folder = tmp_path / "exams"
    for case in ("good1", "good2", "larger", "turned", "single"):
        save(folder / f"{case}-T2.nii.gz")
    for case in ("good1", "good2"):
        save(folder / f"{case}-T1.nii.gz")
    save(folder / "larger-T1.nii.gz", (40, 36, 4))
    save(folder / "turned-T1.nii.gz", affine=np.diag([3.0, 2, 4, 1]))
    return folder


def test_bad_subjects_stop_a_run_or_are_left_out(trained, exams, tmp_path, caplog):
    with pytest.raises(Exception) as caught:  # noqa: PT011  of whatever type, what counts is what the user reads
        infer(trained, tmp_path / "out", dataset_dir=str(exams))
    sentence = user_message(caught.value)
    assert "larger-T1.nii.gz must fit its target" in sentence
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    with caplog.at_level(logging.WARNING):
        metrics = infer(trained, tmp_path / "out", dataset_dir=str(exams), skip_bad=True)
    assert [case["case"] for case in metrics["cases"]] == ["good1", "good2"]
    reports = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert [report.split()[0] for report in reports] == ["larger", "single", "turned"]


def test_without_weights_one_sentence_says_how_to_get_them(tmp_path):
    bundle = tmp_path / "mc_cdic"
    shutil.copytree(MC_CDIC, bundle, ignore=shutil.ignore_patterns("models", "runs", "results"))
    with pytest.raises(Exception) as caught:  # noqa: PT011  of whatever type, what counts is what the user reads
        run(bundle, ["inference"], output_dir=str(tmp_path / "out"))
    sentence = user_message(caught.value)
    assert "train the bundle" in sentence
    assert "--ckpt_path" in sentence


@pytest.mark.parametrize("overlays", [["super_resolution", "small"], ["paper", "small"]])
def test_overlays_train_and_evaluate(overlays, tmp_path):
    short = {"output_dir": str(tmp_path), "max_epochs": 1, "samples_per_epoch": 4, "n_val_subjects": 1}
    run(MC_CDIC, ["train", *overlays], **short)
    run(MC_CDIC, ["train", "evaluate", *overlays], n_test_subjects=1, n_slices=2, **short)
    summary = json.loads((tmp_path / "small" / "evaluate" / "metrics.json").read_text())["summary"]
    assert summary["zero_filled"]["psnr"] > 15
    assert summary["mc_cdic"]["psnr"] > 10
    parser = ConfigParser()
    parser.read_config(configs(MC_CDIC, "train", *overlays))
    image = parser.get_parsed_content("validate#dataset")[0]["image"]
    mask, height, width = image[2, ..., 0], *image.shape[1:3]
    mirrored = torch.roll(torch.flip(mask, (0, 1)), (1, 1), (0, 1))
    if overlays[0] == "paper":
        assert float(image[1].abs().max()) < 1e-5, "the images are real"
        assert torch.equal(mask, mirrored), "what a real inverse transform left of the mask"
    else:
        assert int(mask.sum()) in ((height // 2) * (width // 2), (height // 4) * (width // 4))
        assert float(image[1].abs().max()) > 0.1, "the images are complex"


def test_exported_torchscript_agrees_with_the_network(trained, tmp_path):
    ckpt_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.ts"),
        ckpt_file=str(trained_weights(trained)),
        meta_file=str(MC_CDIC / "configs" / "metadata.json"),
        config_file=configs(MC_CDIC, "inference")[0],
        bundle_root=str(MC_CDIC),
        **{"network_def#network#preset": "small"},
    )
    exported, network = torch.jit.load(str(tmp_path / "model.ts")), trained_network(trained, MC_CDIC)
    for size in ((32, 40), (45, 33)):
        image = torch.rand(1, 4, *size)
        with torch.no_grad():
            torch.testing.assert_close(exported(image), network(image), atol=1e-4, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter calls what torch deprecated
def test_onnx_of_the_bundle_agrees_with_the_network(trained, tmp_path):
    import onnxruntime

    onnx_export(
        net_id="network_def",
        filepath=str(tmp_path / "model.onnx"),
        ckpt_file=str(trained_weights(trained)),
        meta_file=str(MC_CDIC / "configs" / "metadata.json"),
        config_file=configs(MC_CDIC, "inference")[0],
        input_shape=[1, 4, 32, 40],
        use_trace=True,
        bundle_root=str(MC_CDIC),
        **{"network_def#network#preset": "small", "network_def#network#fft_backend": "matmul"},
    )
    image = torch.rand(1, 4, 32, 40)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    (pred,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(
            torch.from_numpy(pred), trained_network(trained, MC_CDIC)(image), atol=1e-4, rtol=1e-4
        )


@pytest.mark.skipif(sys.platform == "win32", reason="gloo needs torchrun's store, which Windows builds of torch lack")
def test_two_processes_train_what_one_does(trained, tmp_path):
    train_in_two_processes(MC_CDIC, tmp_path)
    one, two = weights(trained), weights(tmp_path)
    assert (two - one).norm() < 1e-4 * one.norm()
