"""Each bundle as a user runs it: verified, trained, evaluated, used on files, exported, and given wrong input."""

from __future__ import annotations

import csv
import json

import h5py
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ckpt_export, verify_net_in_out

from medkit.workflow import user_message
from tests.bundle_runs import (
    BUNDLES,
    CLGNET,
    assert_lesions_are_shown,
    command,
    configs,
    infer,
    prepared,
    run,
    trained_network,
    trained_weights,
    typed,
    values_of_steps,
)

REQUIRED_METADATA = (
    "schema version changelog monai_version pytorch_version numpy_version required_packages_version task description "
    "authors copyright network_data_format"
).split()


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_metadata_has_what_the_schema_requires(bundle):
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text())
    assert [key for key in REQUIRED_METADATA if key not in metadata] == []
    assert metadata["version"] in metadata["changelog"]
    assert "medkit" in metadata["required_packages_version"]


@pytest.mark.parametrize(
    ("names", "kind", "overrides"),
    [(["train", "small"], "train", {}), (["inference"], "infer", {"spacing": 4.0, "ckpt_path": None})],
)
def test_properties_of_monai_are_there(names, kind, overrides, tmp_path):
    workflow = prepared(CLGNET, names, kind, output_dir=str(tmp_path), **overrides)
    assert workflow.check_properties() == []


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_network_input_and_output_are_as_the_metadata_says(bundle):
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(bundle / "configs" / "metadata.json"),
        config_file=configs(bundle, "inference")[0],
        bundle_root=str(bundle),
        device="cpu",
    )


def test_training_leaves_weights_checkpoint_and_pictures(trained):
    run_dir = trained / "small"
    for name in ("model.pt", "checkpoint.pt", "preview.png", "previews/epoch_0002.png", "config.json"):
        assert (run_dir / name).is_file(), name
    assert list(run_dir.glob("events.out.tfevents.*"))
    assert json.loads((run_dir / "config.json").read_text())["max_epochs"] == 2


def test_training_steps_lower_the_loss():
    values = values_of_steps(CLGNET, lambda loss, value: loss.parts["l1"])
    assert values[-1] < 0.95 * values[0]


def test_longer_training_goes_on_with_the_learning_rate_of_its_length():
    def optimizer_and_schedule(max_epochs):
        parser = ConfigParser()
        parser.read_config(configs(CLGNET, "train", "small"))
        parser["max_epochs"] = max_epochs
        return parser.get_parsed_content("optimizer"), parser.get_parsed_content("lr_scheduler")

    def step(optimizer, schedule):
        optimizer.step()
        schedule.step()
        return optimizer.param_groups[0]["lr"]

    short, whole = optimizer_and_schedule(2), optimizer_and_schedule(5)
    before = [step(*short) for _ in range(2)]
    assert before[-1] == pytest.approx(0)
    longer = optimizer_and_schedule(5)
    for new, old in zip(longer, short, strict=True):
        new.load_state_dict(old.state_dict())
    rates = [step(*whole) for _ in range(5)]
    assert [step(*longer) for _ in range(3)] == pytest.approx(rates[2:])


def test_finished_training_started_again_changes_nothing(trained):
    before = (trained / "small" / "model.pt").read_bytes()
    run(CLGNET, ["train", "small"], output_dir=str(trained))
    assert (trained / "small" / "model.pt").read_bytes() == before


def test_evaluate_compares_with_the_zero_filled_image(trained):
    run(CLGNET, ["train", "small", "evaluate"], output_dir=str(trained), n_test_subjects=1, center_fraction=0.125)
    folder = trained / "small" / "evaluate"
    summary = json.loads((folder / "metrics.json").read_text())["summary"]
    assert set(summary) == {"zero_filled", "clgnet"}
    assert set(summary["clgnet"]) == {"psnr", "ssim", "nmse", "residual"}
    assert 0 < summary["clgnet"]["residual"] < 0.3
    assert summary["clgnet"]["psnr"] > 10
    assert (folder / "metrics.csv").is_file()
    assert json.loads((folder / "config.json").read_text())["n_test_subjects"] == 1
    assert "n_test_subjects" not in json.loads((folder.parent / "config.json").read_text()), "the training's is kept"
    assert_lesions_are_shown(folder, "test-0000_t2", "clgnet")


def test_boxes_of_a_table_take_the_place_of_the_map(trained, tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text("file,slice,x,y,width,height,label\ntest-0000_t2,24,20,18,6,5,9\n")
    options = {"n_test_subjects": 1, "n_slices": 2, "boxes": str(table), "eval_dir": str(tmp_path / "out")}
    run(CLGNET, ["train", "small", "evaluate"], output_dir=str(trained), **options)
    with (tmp_path / "out" / "lesions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {(row["label"], row["voxels"], row["row_first"], row["slice_first"]) for row in rows} == {
        ("9", "30", "15", "1")
    }


@pytest.mark.parametrize("method", ["cg_sense", "grappa"])
def test_methods_without_weights_are_evaluated_too(method, tmp_path):
    options = {"n_test_subjects": 1, "n_slices": 2, "contrasts": ["t2"], "eval_dir": str(tmp_path / "out")}
    run(CLGNET, ["train", "small", "evaluate", method], output_dir=str(tmp_path), center_fraction=0.25, **options)
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())["summary"]
    assert set(summary) == {"zero_filled", method}
    assert summary[method]["residual"] < summary["zero_filled"]["residual"]
    assert_lesions_are_shown(tmp_path / "out", "test-0000_t2", method)


def test_weights_of_another_network_end_in_one_sentence_and_leave_the_evaluation(trained):
    folder = trained / "small" / "evaluate"
    before = {path: path.read_bytes() for path in folder.glob("*")}
    with pytest.raises(RuntimeError) as caught:
        run(CLGNET, ["train", "evaluate"], output_dir=str(trained), run_name="small", spacing=4.0, n_test_subjects=1)
    sentence = user_message(caught.value)
    assert sentence is not None
    assert "do not fit" in sentence
    assert "overlays" in sentence
    assert {path: path.read_bytes() for path in folder.glob("*")} == before


def test_inference_keeps_the_geometry_of_a_volume(trained, tmp_path):
    affine = np.array([[0.0, -2.0, 0.0, 10], [3.0, 0.0, 0.0, -7], [0.0, 0.0, 4.0, 5], [0, 0, 0, 1]])
    image = np.random.default_rng(0).random((40, 36, 3), dtype=np.float32)
    head = nibabel.Nifti1Image(image, affine)
    head.set_sform(affine, code=4)
    nibabel.save(head, tmp_path / "head.nii.gz")
    infer(trained, tmp_path / "head.nii.gz", tmp_path / "out")
    result = nibabel.load(tmp_path / "out" / "head_clgnet.nii.gz")
    assert result.shape == image.shape
    assert result.get_data_dtype() == np.float32
    np.testing.assert_allclose(result.affine, affine, atol=1e-6)
    assert int(result.header["sform_code"]) == 4
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())["summary"]
    assert summary["clgnet"]["psnr"] > 5
    assert (tmp_path / "out" / "head.png").is_file()


def test_inference_reads_raw_kspace_and_kspace_that_was_undersampled(trained, tmp_path):
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((2, 3, 40, 36)) + 1j * rng.standard_normal((2, 3, 40, 36))).astype(np.complex64)
    (tmp_path / "exams").mkdir()
    with h5py.File(tmp_path / "exams" / "full.h5", "w") as file:
        file["kspace"] = kspace
    mask = np.zeros(36, dtype=bool)
    mask[::3] = True
    mask[14:22] = True
    with h5py.File(tmp_path / "exams" / "measured.h5", "w") as file:
        file["kspace"] = kspace * mask
        file["mask"] = mask
    infer(trained, tmp_path / "exams", tmp_path / "out")
    for case in ("full", "measured"):
        result = nibabel.load(tmp_path / "out" / f"{case}_clgnet.nii.gz")
        assert result.shape == (40, 36, 2)
        assert int(result.header["qform_code"]) == int(result.header["sform_code"]) == 0, "no orientation is claimed"
        assert (tmp_path / "out" / f"{case}.png").is_file()
    cases = json.loads((tmp_path / "out" / "metrics.json").read_text())["cases"]
    assert [case["case"] for case in cases] == ["full"], "an exam without a reference has no metrics"


@pytest.mark.parametrize("method", ["cg_sense", "l1_wavelet", "total_variation"])
def test_inference_runs_methods_without_weights_in_the_place_of_the_network(method, tmp_path):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    image = np.zeros((32, 24, 2), dtype=np.float32)
    image[8:24, 6:18] = 1
    nibabel.save(nibabel.Nifti1Image(image, affine), tmp_path / "head.nii.gz")
    options = {"dataset_dir": str(tmp_path / "head.nii.gz"), "output_dir": str(tmp_path / "out"), "device": "cpu"}
    few = {"network_def#network#n_iterations": 100, "center_fraction": 0.25, "acceleration": 2}
    run(CLGNET, ["inference", method], **options, **few)
    result = nibabel.load(tmp_path / "out" / f"head_{method}.nii.gz")
    assert result.shape == image.shape
    np.testing.assert_allclose(result.affine, affine)
    summary = json.loads((tmp_path / "out" / "metrics.json").read_text())["summary"]
    assert set(summary) == {"zero_filled", method}
    assert summary[method]["psnr"] > summary["zero_filled"]["psnr"] + 1


def write_square(path):
    """Write a volume that holds a bright square, 48x40 with 2 slices."""
    image = np.zeros((48, 40, 2), dtype=np.float32)
    image[12:36, 10:30] = 1
    image[20:26, 14:20] = 2
    nibabel.save(nibabel.Nifti1Image(image, np.diag([1.0, 2.0, 3.0, 1.0])), path)


def test_inference_runs_grappa_and_the_zero_filled_image_under_their_names(tmp_path, caplog):
    write_square(tmp_path / "head.nii.gz")
    mask = {"_target_": "medkit.mri.EquispacedMask", "center_fractions": [0.3], "accelerations": [2]}
    mask |= {"count_centre": False}
    options = {"dataset_dir": str(tmp_path / "head.nii.gz"), "device": "cpu", "mask": mask, "noise": 0.001}
    caplog.set_level("INFO", "medkit.mri.engine")
    rows = {}
    for method in ("grappa", "zero_filled"):
        run(CLGNET, ["inference", method], output_dir=str(tmp_path / method), **options)
        assert nibabel.load(tmp_path / method / f"head_{method}.nii.gz").shape == (48, 40, 2)
        rows[method] = json.loads((tmp_path / method / "metrics.json").read_text())["summary"]
    assert "head: sampled 65 % (1.54-fold)" in caplog.messages
    assert set(rows["grappa"]) == {"zero_filled", "grappa"}
    assert set(rows["zero_filled"]) == {"zero_filled"}
    assert rows["zero_filled"]["zero_filled"] == pytest.approx(rows["grappa"]["zero_filled"])
    assert rows["grappa"]["grappa"]["psnr"] > rows["grappa"]["zero_filled"]["psnr"] + 1


def test_grappa_without_a_sampled_centre_ends_in_one_sentence_and_leaves_nothing(tmp_path):
    write_square(tmp_path / "head.nii.gz")
    options = {"dataset_dir": str(tmp_path / "head.nii.gz"), "device": "cpu", "output_dir": str(tmp_path / "out")}
    mask = {"_target_": "medkit.mri.EquispacedMask", "center_fractions": [0.0], "accelerations": [3]}
    with pytest.raises(Exception) as caught:  # noqa: PT011  of whatever type, what counts is what the user reads
        run(CLGNET, ["inference", "grappa"], mask=mask, **options)
    sentence = user_message(caught.value)
    assert "'mask' must sample a centre of at least 4 lines fully" in sentence
    assert "\n" not in sentence
    assert not [path for path in tmp_path.rglob("out/**/*") if path.is_file()]


def test_exported_torchscript_agrees_with_the_network(trained, tmp_path):
    file = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(file),
        ckpt_file=str(trained_weights(trained)),
        meta_file=str(CLGNET / "configs" / "metadata.json"),
        config_file=configs(CLGNET, "inference")[0],
        bundle_root=str(CLGNET),
        **{"network_def#network#preset": "small"},
    )
    network = trained_network(trained)
    exported = torch.jit.load(str(file))
    for size in ((32, 40), (45, 33)):
        image = torch.rand(1, 7, *size)
        with torch.no_grad():
            torch.testing.assert_close(exported(image), network(image), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max_epoch", "3"], "max_epochs"),
        (["--dataset_dir", "nowhere"], "does not exist"),
        (["--accelerations", "[0.5, 4]"], "'accelerations' must be at least 1"),
    ],
)
def test_wrong_input_ends_in_one_sentence(arguments, words, tmp_path):
    line = command(CLGNET, ["train", "small"], "--output_dir", str(tmp_path / "out"), *arguments)
    done = typed(tmp_path, line)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("medkit: error: "), done.stderr
    assert words in last
    assert not list(tmp_path.rglob("*.pt"))
