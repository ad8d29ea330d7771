"""The bundle mdrn on files: volumes, pictures and DICOM series in and out, and what cannot be denoised."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
from skimage.io import imread, imsave

from medkit.cli import main
from medkit.workflow import user_message
from tests.bundle_runs import MDRN, hounsfield, run, trained_weights

TINY = {"network_def#channels": 8, "device": "cpu"}
AFFINE = np.array([[0.0, -2.0, 0.0, 10], [3.0, 0.0, 0.0, -7], [0.0, 0.0, 4.0, 5], [0, 0, 0, 1]])


def infer(trained: Path, images: Path, out: Path, **options: object) -> None:
    """Denoise images with the weights of the short training."""
    ckpt_path = str(trained_weights(trained))
    run(
        MDRN, ["inference"], dataset_dir=str(images), output_dir=str(out), **{"ckpt_path": ckpt_path, **TINY, **options}
    )


def save(path: Path, shape=(40, 36, 3), dtype=np.float32, scale=1000) -> Path:
    path.parent.mkdir(exist_ok=True, parents=True)
    image = (np.random.default_rng(0).random(shape) * scale).astype(dtype)
    nibabel.save(nibabel.Nifti1Image(image, AFFINE), path)
    return path


@pytest.mark.parametrize("slice_axis", [0, 2])
def test_inference_keeps_the_geometry_of_a_volume(slice_axis, trained_mdrn, tmp_path):
    infer(trained_mdrn, save(tmp_path / "head.nii.gz"), tmp_path / "out", slice_axis=slice_axis)
    result = nibabel.load(tmp_path / "out" / "head_mdrn.nii.gz")
    assert result.shape == (40, 36, 3)
    assert result.get_data_dtype() == np.float32
    np.testing.assert_allclose(result.affine, AFFINE, atol=1e-6)
    assert (tmp_path / "out" / "head.png").is_file()
    given = nibabel.load(tmp_path / "head.nii.gz").get_fdata()
    assert np.corrcoef(result.get_fdata().ravel(), given.ravel())[0, 1] > 0.5, "no axis is exchanged, in the unit"
    assert abs(result.get_fdata().mean() - given.mean()) < 400


def test_tiles_are_the_whole_image(trained_mdrn, tmp_path):
    save(tmp_path / "head.nii.gz", (300, 90, 1))
    for tile in (72, 1000):
        infer(trained_mdrn, tmp_path / "head.nii.gz", tmp_path / str(tile), tile=tile)
    tiles, whole = (nibabel.load(tmp_path / str(n) / "head_mdrn.nii.gz").get_fdata() for n in (72, 1000))
    assert np.abs(tiles - whole).max() < 1e-4 * np.abs(whole).max()


def test_ct_stays_unbiased_in_hu(trained_mdrn, tmp_path):
    path = hounsfield(tmp_path)
    infer(trained_mdrn, path, tmp_path / "out")
    given, result = (nibabel.load(file).get_fdata() for file in (path, tmp_path / "out" / "body_mdrn.nii.gz"))
    np.testing.assert_allclose(result.mean((0, 1)), given.mean((0, 1)), atol=0.02)
    infer(trained_mdrn, path, tmp_path / "biased", unbiased=False)
    biased = nibabel.load(tmp_path / "biased" / "body_mdrn.nii.gz").get_fdata()
    assert abs(biased.mean() - given.mean()) > 1, "which these weights are not by themselves"


@pytest.mark.parametrize(("suffix", "dtype"), [(".png", np.uint8), (".png", np.uint16), (".tif", np.float32)])
def test_pictures_come_back_in_their_type(suffix, dtype, trained_mdrn, tmp_path):
    top = np.iinfo(dtype).max if dtype != np.float32 else 3.0
    picture = (np.kron(np.random.default_rng(0).random((7, 6)), np.ones((6, 6))) * top).astype(dtype)
    imsave(tmp_path / f"a{suffix}", picture, check_contrast=False)
    infer(trained_mdrn, tmp_path / f"a{suffix}", tmp_path / "out")
    result = imread(tmp_path / "out" / f"a_mdrn{suffix}")
    assert result.dtype == dtype
    assert result.shape == picture.shape
    assert np.corrcoef(result.ravel().astype(float), picture.ravel().astype(float))[0, 1] > 0.5


def test_inference_without_data_adds_noise_to_a_simulated_brain(trained_mdrn, tmp_path):
    options = {"spacing": 4.0, "ckpt_path": str(trained_weights(trained_mdrn)), "output_dir": str(tmp_path), **TINY}
    run(MDRN, ["inference"], **options)
    summary = json.loads((tmp_path / "metrics.json").read_text())["summary"]
    assert set(summary) == {"noisy", "mdrn"}
    assert summary["noisy"]["psnr"] == pytest.approx(19, abs=1.5), "Rician noise of 0.1"


def test_a_told_sigma_is_heard(trained_mdrn, tmp_path):
    path = save(tmp_path / "head.nii.gz")
    results = []
    for sigma in (None, 100, "white"):
        infer(trained_mdrn, path, tmp_path / str(sigma), sigma=sigma)
        results.append(nibabel.load(tmp_path / str(sigma) / "head_mdrn.nii.gz").get_fdata())
    assert np.abs(results[0] - results[1]).max() > 1e-3
    assert np.abs(results[2] - results[1]).max() > 1e-3


@pytest.mark.skipif(importlib.util.find_spec("pydicom") is None, reason="needs pydicom")
def test_a_dicom_series_comes_out_as_one(trained_mdrn, tmp_path):
    import pydicom

    from tests.denoise.dicom_slices import write_slices

    stored = np.random.default_rng(0).integers(900, 1200, (4, 24, 20))
    written = write_slices(tmp_path / "ct", stored)
    infer(trained_mdrn, tmp_path / "ct", tmp_path / "out")
    files = sorted((tmp_path / "out" / "ct_mdrn").iterdir())
    slices = [pydicom.dcmread(file) for file in files]
    assert len(slices) == 4
    assert {s.SeriesInstanceUID for s in slices} != {written[0].SeriesInstanceUID}
    assert all(s.ImageType[0] == "DERIVED" and s.RescaleIntercept == -1024 for s in slices)
    assert [s.ImagePositionPatient for s in slices] == [s.ImagePositionPatient for s in written]
    assert nibabel.load(tmp_path / "out" / "ct_mdrn.nii.gz").shape == (20, 24, 4)
    assert np.mean([s.pixel_array.mean() for s in slices]) == pytest.approx(stored.mean(), abs=0.5), "HU are unbiased"
    with pytest.raises(Exception) as caught:  # noqa: PT011  of whatever type, what counts is what the user reads
        infer(trained_mdrn, tmp_path / "ct", tmp_path / "out")
    assert "must be new or empty" in user_message(caught.value)
    (tmp_path / "ct" / "01.dcm").unlink()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        infer(trained_mdrn, tmp_path / "ct", tmp_path / "gap")
    assert "mm" in user_message(caught.value)
    assert not (tmp_path / "gap").exists()


def wrong_image(kind: str, folder: Path) -> Path:
    """Write an image that cannot be denoised."""
    path = folder / f"{kind}.nii.gz"
    array = np.random.default_rng(0).random((12, 10, 3)).astype(np.float32)
    if kind == "complex":
        array = array.astype(np.complex64)
    elif kind == "nan":
        array[3, 4, 1] = np.nan
    elif kind == "zeros":
        array[:] = 0
    elif kind == "series":
        array = np.stack([array] * 2, -1)
    elif kind == "colour":
        path = folder / "colour.png"
        imsave(path, (np.random.default_rng(0).random((9, 8, 3)) * 255).astype(np.uint8), check_contrast=False)
        return path
    elif kind == "cut":
        nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
        path.write_bytes(path.read_bytes()[:600])
        return path
    elif kind == "text":
        path = folder / "notes.txt"
        path.write_text("no image")
        return path
    elif kind == "dicom":
        path = folder / "slices" / "1.dcm"
        path.parent.mkdir()
        path.write_bytes(bytes(128) + b"DICM")
        return path
    nibabel.save(nibabel.Nifti1Image(array, AFFINE), path)
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("complex", "complex numbers"),
        ("nan", "1 of 360 are NaN"),
        ("zeros", "is empty: every value is 0"),
        ("series", "2 or 3 axes"),
        ("colour", "3 channels, the network takes 1"),
        ("cut", "incomplete"),
        ("text", "must be one of .nii"),
        ("dicom", "give the folder"),
    ],
)
def test_wrong_images_end_in_one_sentence_and_leave_nothing(kind, words, trained_mdrn, tmp_path):
    path = wrong_image(kind, tmp_path)
    with pytest.raises(Exception) as caught:  # noqa: PT011  of whatever type, what counts is what the user reads
        infer(trained_mdrn, path, tmp_path / "out")
    sentence = user_message(caught.value)
    assert words in sentence
    assert str(path) in sentence
    assert "\n" not in sentence
    assert not [file for file in tmp_path.rglob("out/**/*") if file.is_file()]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sigma": 9000}, "half of the range"),
        ({"sigma": -1}, "at least 0"),
        ({"sigma": "loud"}, "'white' or 'background'"),
        ({"sigma": 25, "noise_map": False, "ckpt_path": None}, "takes no 'sigma'"),
        ({"window": [5, 5]}, "'window' must be"),
        ({"sigm": 25}, "did you mean 'sigma'"),
    ],
)
def test_wrong_options_end_in_one_sentence(options, words, trained_mdrn, tmp_path):
    path = save(tmp_path / "head.nii.gz")
    with pytest.raises(Exception) as caught:  # noqa: PT011
        infer(trained_mdrn, path, tmp_path / "out", **options)
    assert words in user_message(caught.value)
    assert not [file for file in tmp_path.rglob("out/**/*") if file.is_file()]


def test_the_command_denoises_a_folder(trained_mdrn, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    save(tmp_path / "scans" / "0001.nii.gz", (20, 16, 2))
    imsave(tmp_path / "scans" / "b.png", np.eye(20, dtype=np.uint8) * 255, check_contrast=False)
    options = ["--ckpt_path", str(trained_weights(trained_mdrn)), "--network_def#channels", "8"]
    line = ["denoise", str(tmp_path / "scans"), str(tmp_path / "out"), "--sigma", "20", "--device", "cpu"]
    assert main([*line, *options]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"0001_mdrn.nii.gz", "0001.png", "b_mdrn.png", "b.png"} <= names
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        main(["denoise", str(tmp_path / "none"), str(tmp_path / "out")])
    with pytest.raises(ValueError, match="'output' must be a folder"):
        main(["denoise", str(tmp_path / "scans"), str(tmp_path / "out.nii.gz")])
