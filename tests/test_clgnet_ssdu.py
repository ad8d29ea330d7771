"""The bundle clgnet trained without references: on what a scanner under-sampled, and blind to all that was not."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser

from medkit.mri import RandomMask, SplitMeasuredd, Undersampled, unpack_held, unpack_reconstruction
from medkit.workflow import user_message
from tests.bundle_runs import CLGNET, SMALL, command, configs, run, typed

SSDU = ["train", "ssdu", "small"]
ACCELERATIONS, CENTER_FRACTIONS = [2, 4], [0.2, 0.125]  # of small.json


def scan(n_coils: int, height: int, width: int, n_slices: int = 2, seed: int = 0) -> np.ndarray:
    """Return k-space (slice, coil, H, W) of blobs that each coil sees otherwise."""
    rng = np.random.default_rng(seed)
    row, column = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    image = 1.0 * (np.hypot(row, column) < 0.7) + (np.hypot(row - 0.2, column + 0.1) < 0.2)
    angles = 2 * np.pi * np.arange(n_coils) / n_coils
    coils = np.exp(-((row - np.cos(angles)[:, None, None]) ** 2) - (column - np.sin(angles)[:, None, None]) ** 2)
    kspace = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image * coils, axes=(-2, -1)), norm="ortho"), axes=(-2, -1))
    noise = rng.standard_normal((n_slices, *kspace.shape)) + 1j * rng.standard_normal((n_slices, *kspace.shape))
    return (kspace + 0.02 * noise).astype(np.complex64)


def columns(width: int) -> np.ndarray:
    """Return a mask of every third column and the central ones."""
    mask = np.arange(width) % 3 == 0
    mask[width // 2 - 5 : width // 2 + 5] = True
    return mask


def write_h5(path: Path, kspace: np.ndarray, mask: np.ndarray | None = None) -> None:
    """Write k-space (slice, coil, H, W), and the mask of its columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["kspace"] = kspace
        if mask is not None:
            file["mask"] = mask


@pytest.fixture
def scans(tmp_path, monkeypatch) -> Path:
    """Return a folder of exams under-sampled by the scanner: one coil and three, by a mask and by zeros alone."""
    monkeypatch.setenv("MEDKIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "scans"
    write_h5(folder / "train" / "one.h5", scan(1, 48, 40) * columns(40), columns(40))
    np.save(folder / "train" / "three.npy", scan(3, 44, 52) * columns(52))
    write_h5(folder / "validation" / "val.h5", scan(2, 40, 44) * columns(44), columns(44))
    return folder


def parsed(**overrides: object) -> ConfigParser:
    """Return the configs of a short training without references, with overrides."""
    parser = ConfigParser()
    parser.read_config(configs(CLGNET, *SSDU))
    parser.update({"bundle_root": str(CLGNET), "device": "cpu", "val_center": 8, **overrides})
    return parser


def test_training_on_undersampled_scans_resumes_and_its_weights_reconstruct(scans, tmp_path):
    options = {
        "dataset_dir": str(scans),
        "batch_size": 1,
        "n_coils": 3,
        "samples_per_epoch": 4,
        "val_center": 8,
        "lr_scheduler#lr_lambda": "$lambda epoch: 1.0",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    out = tmp_path / "out"
    done = typed(tmp_path, command(CLGNET, SSDU, "--output_dir", str(out), "--max_epochs", "1", *words))
    assert done.returncode == 0, done.stdout + done.stderr
    run(CLGNET, SSDU, output_dir=str(out), max_epochs=2, **options)
    run(CLGNET, SSDU, output_dir=str(tmp_path / "whole"), max_epochs=2, **options)
    resumed, whole = (
        torch.load(folder / "small" / "checkpoint.pt", weights_only=True) for folder in (out, tmp_path / "whole")
    )
    for part in ("network", "average"):
        assert all(torch.equal(value, whole[part][name]) for name, value in resumed[part].items())
    assert resumed["_best"] == whole["_best"]
    assert 0.01 < resumed["_best"]["metric"] < 1
    assert (out / "small" / "previews" / "epoch_0002.png").is_file()
    ckpt_path = str(out / "small" / "model.pt")
    run(
        CLGNET, ["inference"], dataset_dir=str(scans), output_dir=str(tmp_path / "images"), ckpt_path=ckpt_path, **SMALL
    )
    assert {path.name for path in (tmp_path / "images").glob("*.nii.gz")} == {
        f"{case}_clgnet.nii.gz" for case in ("one", "three", "val")
    }


def test_network_trained_without_references_is_evaluated_with_them(tmp_path):
    options = {"output_dir": str(tmp_path), "samples_per_epoch": 2, "max_epochs": 1, "n_val_subjects": 1}
    run(CLGNET, SSDU, **options)
    run(CLGNET, [*SSDU, "evaluate"], n_test_subjects=1, n_slices=2, center_fraction=0.125, **options)
    summary = json.loads((tmp_path / "small" / "evaluate" / "metrics.json").read_text())["summary"]
    assert set(summary) == {"zero_filled", "clgnet"}
    assert set(summary["clgnet"]) == {"psnr", "ssim", "nmse", "residual"}
    assert summary["clgnet"]["psnr"] > 10


@pytest.mark.parametrize("part", ["train", "validate"])
def test_what_was_not_measured_touches_nothing(part, tmp_path):
    """Two scans that differ outside their mask alone give the same samples, bit for bit."""
    kspace = scan(3, 44, 52)
    mask = Undersampled("kspace", RandomMask(CENTER_FRACTIONS, ACCELERATIONS), seed_key="case")(
        {"kspace": torch.from_numpy(kspace[0]), "case": "a"}
    )["mask"][0].numpy()
    samples = []
    for name, outside in (("first", kspace), ("second", scan(3, 44, 52, seed=7) * 3)):
        write_h5(tmp_path / name / "a.h5", np.where(mask, kspace, outside))
        entry = {"path": str(tmp_path / name / "a.h5"), **({"i_slice": 1} if part == "train" else {})}
        parser = parsed(n_coils=3)
        transform = parser.get_parsed_content(f"{part}#preprocessing")
        samples.append(transform.set_random_state(5)({"case": "a", **entry}))
    for key in ("image", "label"):
        assert torch.equal(samples[0][key], samples[1][key])
    volume = samples[0]["label"].movedim(-1, 0) if part == "validate" else samples[0]["label"][None]
    seen = samples[0]["image"].movedim(-1, 0) if part == "validate" else samples[0]["image"][None]
    held, kept = unpack_held(volume)[1], unpack_reconstruction(seen)[1]
    assert torch.equal(held | kept, torch.from_numpy(mask).expand_as(held))
    assert not (held & kept).any()
    # What was measured does touch it.
    write_h5(tmp_path / "third" / "a.h5", np.where(mask, 1.1 * kspace + 0.1, kspace))
    changed = transform.set_random_state(5)({"case": "a", **entry, "path": str(tmp_path / "third" / "a.h5")})
    assert not torch.equal(samples[0]["label"], changed["label"])


def test_what_validates_a_single_scan_is_never_trained_on(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDKIT_CACHE", str(tmp_path / "cache"))
    write_h5(tmp_path / "a.h5", scan(3, 44, 52) * columns(52), columns(52))
    parser = parsed(n_coils=3, dataset_dir=str(tmp_path / "a.h5"))
    validation = parser.get_parsed_content("validate#dataset")[0]
    validating = unpack_held(validation["label"][..., 0], 0)[1]
    dataset = parser.get_parsed_content("train#dataset")
    held = []
    for seed in range(8):
        sample = dataset[0, seed]
        held.append(unpack_held(sample["label"], 0)[1])
        trained_on = held[-1] | unpack_reconstruction(sample["image"], 0)[1]
        assert not (trained_on & validating).any()
        assert torch.equal(trained_on | validating, torch.from_numpy(columns(52)).expand_as(validating))
    assert not torch.equal(held[0], held[1]), "each sample is split anew"
    assert torch.equal(torch.stack(held).any(0) & validating, torch.zeros_like(validating))
    assert not parsed(dataset_dir=str(tmp_path)).get_parsed_content("scan_specific")
    whole = SplitMeasuredd(0.1, 8, "uniform", seed_key="case")({"case": "a", "measured": torch.ones(1, 44, 52) + 0j,
        "mask": torch.from_numpy(columns(52))[None, None]})  # fmt: skip
    assert torch.equal(whole["held_mask"], validating), "the split can be told from outside, to measure with"


@pytest.mark.parametrize("names", [["train", "small"], SSDU])
def test_fully_sampled_kspace_goes_through_the_training_chain_uncropped(names, tmp_path):
    write_h5(tmp_path / "a.h5", scan(2, 60, 52))
    parser = ConfigParser()
    parser.read_config(configs(CLGNET, *names))
    parser.update({"bundle_root": str(CLGNET), "device": "cpu"})
    sample = parser.get_parsed_content("train#preprocessing")(
        {"path": str(tmp_path / "a.h5"), "case": "a", "i_slice": 0}
    )
    assert sample["image"].shape == (7, 60, 52)
    assert sample["label"].shape == ((4 if names == ["train", "small"] else 9), 60, 52)


def test_the_smaller_residual_is_the_better_one():
    better = parsed().get_parsed_content("validate#evaluator#metric_cmp_fn")
    assert better(0.2, 0.3)
    assert not better(0.3, 0.2)


def test_too_few_samples_end_in_one_sentence(scans, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        run(
            CLGNET,
            SSDU,
            dataset_dir=str(scans),
            output_dir=str(tmp_path / "out"),
            n_coils=3,
            batch_size=1,
            val_center=99,
        )
    sentence = user_message(caught.value)
    assert sentence is not None
    assert "lie outside the centre of 99" in sentence
    assert "--val_center" in sentence
    assert not list(tmp_path.rglob("*.pt"))
