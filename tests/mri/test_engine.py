"""The handlers of reconstruction, driven by MONAI's engines: what is on disk is what was reconstructed."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.handlers import ValidationHandler
from monai.inferers import SimpleInferer, SliceInferer
from torch import nn

from medkit.mri import (
    PackReconstructiond,
    PreviewReconstructions,
    SaveReconstructions,
    UnpackReconstructiond,
    channels_to_magnitude,
    nmse,
    psnr,
    ssim,
)
from medkit.workflow import write_nifti

OBLIQUE = np.array([[0.0, 0.9, 0.6, -80.0], [-1.2, 0.0, 0.0, 95.0], [0.0, -0.3, 1.8, -20.0], [0.0, 0.0, 0.0, 1.0]])
BRIGHTEST = 1


class Half(nn.Module):
    """Halve the zero-filled image; a stand-in for a reconstruction network."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, image):
        return image[:, :2] * self.gain


def make_sample(name, seed, n_slices=3, has_reference=True, affine=OBLIQUE):
    """A packed exam of noise; its brightest slice is the second."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 10, 12) if n_slices is None else (1, 10, 12, n_slices)
    reference = torch.randn(shape, dtype=torch.complex64, generator=generator)
    if n_slices is not None:
        reference[..., BRIGHTEST] *= 2
    zero_filled = reference + 0.3 * torch.randn(shape, dtype=torch.complex64, generator=generator)
    sample = {"case": name, "zero_filled": zero_filled, "scale": torch.tensor(3.0 + seed),
              "mask": torch.ones((1, 1, 12) if n_slices is None else (1, 1, 12, 1), dtype=torch.bool),
              "sens_maps": torch.ones(shape, dtype=torch.complex64)}  # fmt: skip
    if has_reference:
        sample["reference"] = reference
    if affine is not None:
        sample["affine"] = torch.from_numpy(affine.copy())
    # What the handlers are given in the bundles: packed by the same transform, without the k-space.
    packed = PackReconstructiond()(sample)
    return {key: value for key, value in packed.items() if key not in ("mask", "sens_maps")}


def make_evaluator(samples, handlers, postprocessing=None, batch_size=1, network=None):
    is_volume = samples[0]["image"].ndim == 4
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(samples), batch_size=batch_size),
        network=network or Half(),
        inferer=SliceInferer(roi_size=(-1, -1), spatial_dim=2, sw_batch_size=1) if is_volume else SimpleInferer(),
        postprocessing=postprocessing,
        val_handlers=handlers,
    )


def save(folder, samples, postprocessing="unpack", batch_size=1, **options):
    handler = SaveReconstructions(folder, method="half", **options)
    postprocessing = UnpackReconstructiond("pred") if postprocessing == "unpack" else postprocessing
    evaluator = make_evaluator(samples, [handler], postprocessing, batch_size)
    evaluator.run()
    return evaluator


def slices_first(volume):
    return np.moveaxis(volume[0].numpy(), -1, 0)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if path.is_file())


@pytest.fixture
def drawn(monkeypatch):
    """Return what the handlers ask to be drawn, instead of drawing it."""
    calls = []

    def record(path, images, reference=None, notes=None, title="", affine=None):
        calls.append({"path": Path(path), "images": images, "reference": reference, "notes": notes, "title": title,
                      "affine": affine})  # fmt: skip

    monkeypatch.setattr("medkit.mri.engine.draw_reconstructions", record)
    return calls


@pytest.mark.parametrize("batch_size", [1, 2])
def test_volume_on_disk_is_the_magnitude_times_the_scale_in_its_place(tmp_path, batch_size):
    samples = [make_sample("a", 0), make_sample("b", 1)]
    save(tmp_path / "out", samples, batch_size=batch_size)
    files = ["a.png", "a_half.nii.gz", "b.png", "b_half.nii.gz", "metrics.csv", "metrics.json"]
    assert names(tmp_path / "out") == files
    for sample in samples:
        file = nibabel.load(tmp_path / "out" / f"{sample['case']}_half.nii.gz")
        np.testing.assert_allclose(file.affine, OBLIQUE, atol=1e-5)
        assert file.get_data_dtype() == np.float32
        assert file.header.get_xyzt_units()[0] == "mm"
        expected = 0.5 * channels_to_magnitude(sample["image"][:2], 0)[0] * sample["scale"]
        np.testing.assert_allclose(np.asarray(file.dataobj), expected, rtol=1e-5)
        np.testing.assert_allclose(np.asarray(file.dataobj), 0.5 * sample["zero_filled"][0].abs(), rtol=1e-5)


def test_metrics_are_those_of_the_functions_for_the_whole_volume(tmp_path):
    samples = [make_sample("a", 0), make_sample("b", 1)]
    save(tmp_path, samples, use_png=False, use_nifti=False)
    assert names(tmp_path) == ["metrics.csv", "metrics.json"]
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [case["case"] for case in metrics["cases"]] == ["a", "b"]
    expected = []
    for sample in samples:
        truth, zero_filled = slices_first(sample["reference"].abs()), slices_first(sample["zero_filled"].abs())
        methods = {"zero_filled": zero_filled, "half": 0.5 * zero_filled}
        functions = {"psnr": psnr, "ssim": ssim, "nmse": nmse}
        expected.append(
            {name: {key: function(x, truth) for key, function in functions.items()} for name, x in methods.items()}
        )
    for case, wanted in zip(metrics["cases"], expected, strict=True):
        assert set(case) == {"case", "zero_filled", "half"}
        for name, values in wanted.items():
            assert case[name] == pytest.approx(values, rel=1e-4)
    for name in ("zero_filled", "half"):
        means = {key: np.mean([wanted[name][key] for wanted in expected]) for key in ("psnr", "ssim", "nmse")}
        assert metrics["summary"][name] == pytest.approx(means, rel=1e-4)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [(row["case"], row["method"]) for row in rows[:2]] == [("a", "zero_filled"), ("a", "half")]
    assert float(rows[1]["psnr"]) == pytest.approx(expected[0]["half"]["psnr"], rel=1e-4)


def test_no_metrics_without_a_reference(tmp_path, drawn):
    save(tmp_path, [make_sample("a", 0, has_reference=False)])
    assert names(tmp_path) == ["a_half.nii.gz"]
    assert [call["reference"] for call in drawn] == [None]
    assert drawn[0]["notes"] == {}


def test_cases_without_a_reference_are_left_out_of_the_metrics(tmp_path):
    samples = [make_sample("a", 0, has_reference=False), make_sample("b", 1)]
    save(tmp_path, samples, use_png=False)
    assert [case["case"] for case in json.loads((tmp_path / "metrics.json").read_text())["cases"]] == ["b"]
    assert "a_half.nii.gz" in names(tmp_path)


def test_a_second_run_starts_anew(tmp_path):
    evaluator = save(tmp_path, [make_sample("a", 0)], use_png=False, use_nifti=False)
    first = (tmp_path / "metrics.json").read_text()
    evaluator.run()
    assert (tmp_path / "metrics.json").read_text() == first


def test_diverged_result_is_written_as_no_number(tmp_path):
    sample = make_sample("a", 0)
    sample["image"] = torch.full_like(sample["image"], float("nan"))
    save(tmp_path, [sample])
    assert names(tmp_path) == ["a.png", "a_half.nii.gz", "metrics.csv", "metrics.json"]
    case = json.loads((tmp_path / "metrics.json").read_text())["cases"][0]
    assert case["half"]["psnr"] is None
    assert case["zero_filled"]["psnr"] > 0


@pytest.mark.parametrize("has_reference", [True, False])
def test_the_picture_shows_the_brightest_slice(tmp_path, drawn, has_reference):
    sample = make_sample("a", 0, has_reference=has_reference)
    save(tmp_path, [sample], use_nifti=False)
    (call,) = drawn
    assert call["path"] == tmp_path / "a.png"
    assert call["title"] == "a"
    assert list(call["images"]) == ["zero_filled", "half"]
    shown = sample["zero_filled"][0, ..., BRIGHTEST].abs()
    torch.testing.assert_close(call["images"]["zero_filled"], shown)
    torch.testing.assert_close(call["images"]["half"], 0.5 * shown)
    np.testing.assert_array_equal(call["affine"], OBLIQUE)
    if has_reference:
        torch.testing.assert_close(call["reference"], sample["reference"][0, ..., BRIGHTEST].abs())
        truth, half = slices_first(sample["reference"].abs()), 0.5 * slices_first(sample["zero_filled"].abs())
        assert call["notes"]["half"] == f"PSNR {psnr(half, truth):.2f} dB, SSIM {ssim(half, truth):.4f}"


@pytest.mark.parametrize("code", [0, 1])
def test_results_are_cut_to_what_the_scanner_keeps(tmp_path, drawn, code):
    sample = {**make_sample("a", 0), "space_code": code, "recon_size": torch.tensor((7, 8))}
    save(tmp_path / "whole", [sample])
    save(tmp_path, [sample, make_sample("b", 1)], crop_to_recon=True)
    whole, part = (nibabel.load(folder / "a_half.nii.gz") for folder in (tmp_path / "whole", tmp_path))
    assert nibabel.load(tmp_path / "b_half.nii.gz").shape == whole.shape == (10, 12, 3)
    np.testing.assert_array_equal(part.get_fdata(), whole.get_fdata()[2:9, 2:10])
    if code:
        np.testing.assert_allclose(part.affine @ [0, 0, 1, 1], whole.affine @ [2, 2, 1, 1], atol=1e-4)
    np.testing.assert_allclose(drawn[1]["affine"][:3, 3], (part.affine if code else OBLIQUE)[:3, 3], rtol=1e-5)
    assert [tuple(image.shape) for image in drawn[1]["images"].values()] == [(7, 8)] * 2
    reference = sample["reference"].abs()[:, 2:9, 2:10]
    pred = 0.5 * sample["zero_filled"].abs()[:, 2:9, 2:10]
    metrics = json.loads((tmp_path / "metrics.json").read_text())["cases"][0]["half"]
    assert metrics["psnr"] == pytest.approx(psnr(slices_first(pred), slices_first(reference)), rel=1e-4)


def test_a_slice_without_geometry(tmp_path):
    sample = make_sample("a", 0, n_slices=None, affine=None)
    save(tmp_path, [sample])
    file = nibabel.load(tmp_path / "a_half.nii.gz")
    assert int(file.header["sform_code"]) == 0
    np.testing.assert_array_equal(file.header.get_zooms(), 1)
    np.testing.assert_allclose(np.asarray(file.dataobj)[..., 0], 0.5 * sample["zero_filled"][0].abs(), rtol=1e-5)
    values = json.loads((tmp_path / "metrics.json").read_text())["cases"][0]["half"]
    assert values["ssim"] == pytest.approx(
        ssim(0.5 * sample["zero_filled"][0].abs(), sample["reference"][0].abs()), rel=1e-4
    )


def test_nothing_half_written_when_drawing_fails(tmp_path, monkeypatch):
    def fail(_, file, **options):
        Path(file).write_bytes(b"half a picture")
        raise OSError("the disk is full")

    monkeypatch.setattr(Figure, "savefig", fail)
    sample = make_sample("a", 0)
    with pytest.raises(OSError, match="disk is full"):
        save(tmp_path, [sample])
    assert names(tmp_path) == ["a_half.nii.gz"]
    stored = np.asarray(nibabel.load(tmp_path / "a_half.nii.gz").dataobj)
    np.testing.assert_allclose(stored, 0.5 * sample["zero_filled"][0].abs(), rtol=1e-5)


@pytest.mark.parametrize("postprocessing", [None, UnpackReconstructiond("pred", output="complex")])
def test_channels_or_complex_values_are_not_taken_for_a_magnitude(tmp_path, postprocessing):
    with pytest.raises(ValueError, match=r"SaveReconstructions: 'pred' must be a magnitude.*UnpackReconstructiond"):
        save(tmp_path, [make_sample("a", 0)], postprocessing=postprocessing)
    assert names(tmp_path) == []


def test_the_log_says_how_much_of_each_case_was_sampled(tmp_path, caplog):
    caplog.set_level("INFO", "medkit.mri.engine")
    samples = [make_sample("a", 0) | {"acceleration": torch.tensor(3.71)}, make_sample("b", 1)]
    save(tmp_path, samples[:1], use_png=False)
    assert "a: sampled 27 % (3.71-fold)" in caplog.messages
    caplog.clear()
    save(tmp_path, samples[1:], use_png=False)
    assert not [line for line in caplog.messages if "sampled" in line]


class Kept(nn.Module):
    """Leave the zero-filled image as it is."""

    def forward(self, image):
        return image[:, :2].clone()


def test_the_zero_filled_image_itself_may_be_the_method_and_no_other_under_its_name(tmp_path, drawn):
    samples = [make_sample(f"c{i}", i) for i in range(6)]
    unpack = UnpackReconstructiond("pred")
    (tmp_path / "comparison.json").write_text("of an earlier run")
    handler = SaveReconstructions(tmp_path, method="zero_filled")
    make_evaluator(samples, [handler], unpack, network=Kept()).run()
    assert (tmp_path / "c0_zero_filled.nii.gz").is_file()
    found = json.loads((tmp_path / "metrics.json").read_text())
    assert set(found["summary"]) == {"zero_filled"}
    assert [list(case) for case in found["cases"]] == [["case", "zero_filled"]] * 6
    assert list(drawn[0]["images"]) == ["zero_filled"]
    assert not (tmp_path / "comparison.json").exists(), "it would be compared with itself"
    assert not (tmp_path / "metrics.png").exists()
    with pytest.raises(ValueError, match="'zero_filled' is the name of the zero-filled image, and 'pred' is another"):
        make_evaluator(samples[:1], [SaveReconstructions(tmp_path, method="zero_filled")], unpack).run()


@pytest.mark.parametrize("method", ["", "case"])
def test_names_that_are_taken_are_refused(tmp_path, method):
    with pytest.raises(ValueError, match="SaveReconstructions: 'method' must be a name"):
        SaveReconstructions(tmp_path, method=method)


def test_previews_are_named_by_the_epoch_of_the_trainer(tmp_path):
    samples = [make_sample("a", 0, n_slices=None), make_sample("b", 1, n_slices=None)]
    network = Half()
    evaluator = make_evaluator(samples, [PreviewReconstructions(tmp_path)], network=network)
    trainer = SupervisedTrainer(
        device=torch.device("cpu"),
        max_epochs=5,
        train_data_loader=DataLoader(Dataset(samples), batch_size=2),
        network=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=0.1),
        loss_function=lambda pred, label: (pred - label[:, :2]).square().mean(),
        train_handlers=[ValidationHandler(interval=2, validator=evaluator)],
    )
    trainer.run()
    assert names(tmp_path) == ["preview.png", "previews/epoch_0002.png", "previews/epoch_0004.png"]
    first, newest = ((tmp_path / "previews" / f"epoch_000{i}.png").read_bytes() for i in (2, 4))
    assert (tmp_path / "preview.png").read_bytes() == newest != first


def test_preview_shows_the_brightest_slice_of_the_first_case(tmp_path, drawn):
    samples = [make_sample("a", 0), make_sample("b", 1)]
    make_evaluator(samples, [PreviewReconstructions(tmp_path)]).run(global_epoch=7)
    assert [call["path"].relative_to(tmp_path).as_posix() for call in drawn] == [
        "previews/epoch_0007.png", "preview.png"]  # fmt: skip
    sample = samples[0]
    expected = {key: sample[key][0, ..., BRIGHTEST].abs() / sample["scale"] for key in ("zero_filled", "reference")}
    for call in drawn:
        assert call["title"] == "a, epoch 7"
        torch.testing.assert_close(call["reference"], expected["reference"])
        torch.testing.assert_close(call["images"]["zero-filled"], expected["zero_filled"])
        torch.testing.assert_close(call["images"]["reconstruction"], 0.5 * expected["zero_filled"])
        np.testing.assert_array_equal(call["affine"], OBLIQUE)


def test_nifti_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "results" / "a.nii.gz"
    write_nifti(path, torch.ones(3, 4, 2, dtype=torch.float64, requires_grad=True), OBLIQUE)
    np.testing.assert_array_equal(np.asarray(nibabel.load(path).dataobj), np.ones((3, 4, 2), np.float32))
    old = path.read_bytes()

    def fail(_, file):
        Path(file).write_bytes(b"half a volume")
        raise OSError("the disk is full")

    monkeypatch.setattr(nibabel, "save", fail)
    with pytest.raises(OSError, match="disk is full"):
        write_nifti(path, torch.zeros(3, 4, 2), OBLIQUE)
    assert names(tmp_path) == ["results/a.nii.gz"]
    assert path.read_bytes() == old


def test_nifti_says_its_geometry_twice_and_keeps_a_mirrored_one(tmp_path):
    mirrored = np.diag([-0.5, 2.0, 3.0, 1.0])
    mirrored[:3, 3] = (40, -30, 12)
    write_nifti(tmp_path / "a.nii", torch.rand(4, 5), mirrored)
    header = nibabel.load(tmp_path / "a.nii").header
    assert header.get_data_shape() == (4, 5, 1)
    for affine, code in (header.get_qform(coded=True), header.get_sform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(affine, mirrored, atol=1e-5)


def test_nifti_of_labels_keeps_their_type(tmp_path):
    labels = torch.arange(24, dtype=torch.int16).reshape(2, 3, 4)
    write_nifti(tmp_path / "a.nii", labels, OBLIQUE)
    stored = nibabel.load(tmp_path / "a.nii")
    assert stored.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(stored.dataobj), labels.numpy())


def test_nifti_of_unknown_orientation_tells_its_spacing_alone(tmp_path, drawn):
    write_nifti(tmp_path / "a.nii", torch.rand(4, 5, 2), OBLIQUE, space_code=0)
    sample = make_sample("b", 0)
    known, unknown = ({**sample, "case": f"code{code}", "space_code": code} for code in (4, 0))
    save(tmp_path, [sample, make_sample("c", 1, affine=None)])
    save(tmp_path, [known, unknown], batch_size=2)
    code_of = {"a.nii": 0, "b_half.nii.gz": 1, "c_half.nii.gz": 0, "code4_half.nii.gz": 4, "code0_half.nii.gz": 0}
    for name, code in code_of.items():
        header = nibabel.load(tmp_path / name).header
        assert (int(header["qform_code"]), int(header["sform_code"])) == (code, code), name
        spacing = (1, 1, 1) if name.startswith("c_") else np.linalg.norm(OBLIQUE[:3, :3], axis=0)
        np.testing.assert_allclose(header.get_zooms(), spacing, rtol=1e-5)
        assert header.get_xyzt_units()[0] == "mm"
    with pytest.raises(ValueError, match="write_nifti: 'space_code' must be 0 to 5, got 6"):
        write_nifti(tmp_path / "d.nii", torch.rand(4, 5), OBLIQUE, space_code=6)


@pytest.mark.parametrize("image", [torch.ones(4, 4) + 0j, torch.ones(4), torch.ones(1, 4, 4, 2)])
def test_nifti_of_other_data_is_refused(tmp_path, image):
    with pytest.raises(ValueError, match="write_nifti: 'image' must be real"):
        write_nifti(tmp_path / "a.nii", image, np.eye(4))
    assert names(tmp_path) == []
