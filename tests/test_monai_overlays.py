"""MONAI's networks in the place of CLGNet, and both bundles with a root sum of squares as their target."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.transforms import Compose

from medkit.mri import PackReconstructiond, RandomMask, SimulateKspaced
from tests.benchmarks.mri_recon import network
from tests.bundle_runs import CLGNET, MC_CDIC, SMALL, configs, run, values_of_steps
from tests.mri.small_exams import chain, magnitude

SHORT = {"max_epochs": 1, "samples_per_epoch": 4, "n_val_subjects": 1, "n_val_slices": 1, "device": "cpu"}


def summary(bundle: Path, overlays: list[str], folder: Path, **options: object) -> dict:
    """Train shortly, evaluate, and return the mean metrics of each method."""
    run(bundle, ["train", "small", *overlays], output_dir=str(folder), **SHORT, **options)
    few = {"n_test_subjects": 1, "n_slices": 2, "center_fraction": 0.125, **SHORT, **options}
    run(bundle, ["train", "small", *overlays, "evaluate"], output_dir=str(folder), **few)
    return json.loads(next(folder.glob("*/evaluate/metrics.json")).read_text())["summary"]


def first_validation_sample(bundle: Path, *overlays: str, **options: object) -> dict:
    parser = ConfigParser()
    parser.read_config(configs(bundle, "train", "small", *overlays))
    parser.update({"n_val_subjects": 1, **options})
    return parser.get_parsed_content("validate#dataset")[0]


@pytest.mark.parametrize("overlay", ["varnet", "complex_unet"])
def test_monais_networks_train_and_are_evaluated(overlay, tmp_path):
    metrics = summary(CLGNET, [overlay], tmp_path, method=overlay)
    assert set(metrics) == {"zero_filled", overlay}
    assert metrics[overlay]["psnr"] > 5
    # A root sum of squares has no phase by which it could be measured anew.
    assert ("residual" in metrics[overlay]) == (overlay == "complex_unet")
    folder = tmp_path / overlay
    assert (folder / "evaluate" / f"test-0000_t2_{overlay}_error.nii.gz").is_file()
    # The same weights behind inference.json.
    options = {key: value for key, value in SMALL.items() if "preset" not in key}
    out = {"output_dir": str(tmp_path / "out"), "ckpt_path": str(folder / "model.pt"), "method": overlay}
    run(CLGNET, ["inference", overlay], spacing=4.0, n_slices=1, n_coils=2, **out, **options)
    (result,) = (tmp_path / "out").glob(f"*_{overlay}.nii.gz")
    assert nibabel.load(result).shape == (48, 64, 1)


@pytest.mark.parametrize("overlay", ["varnet", "complex_unet"])
def test_training_steps_of_monais_networks_lower_the_loss(overlay):
    values = values_of_steps(CLGNET, lambda loss, value: loss.parts["l1"], overlays=(overlay,))
    assert values[-1] < 0.9 * values[0]


def test_the_benchmark_packs_what_varnet_takes(tmp_path):
    parser = ConfigParser()
    parser.read_config(configs(CLGNET, "train", "small", "varnet"))
    net = parser.get_parsed_content("network_def").eval()
    ConfigParser.export_config_file(parser.config, str(tmp_path / "config.json"))
    torch.save(net.state_dict(), tmp_path / "model.pt")
    exam = SimulateKspaced(n_coils=(3,)).set_random_state(0)({"magnitude": magnitude()})
    sample = Compose(chain(RandomMask(0.2, 3))).set_random_state(0)(exam)
    image = network(tmp_path / "config.json", tmp_path / "model.pt", "cpu")(sample)
    with torch.no_grad():
        expected = net(PackReconstructiond(coil_images=True)(sample)["image"][None])[0, 0] * sample["scale"]
    torch.testing.assert_close(image, expected)


def test_varnet_gets_coil_images_and_a_root_sum_of_squares():
    sample = first_validation_sample(CLGNET, "varnet")
    assert not sample["label"][1].any()
    coil_images, magnitude = sample["image"][3:], sample["label"][0]
    energy = np.sqrt((coil_images.numpy() ** 2).sum(0))
    assert 0.8 < np.median(energy[magnitude.numpy() > 0.5] / magnitude.numpy()[magnitude.numpy() > 0.5]) < 1.2


@pytest.mark.parametrize(("bundle", "method"), [(CLGNET, "clgnet"), (MC_CDIC, "mc_cdic")])
def test_the_target_of_several_coils_may_be_the_root_sum_of_squares(bundle, method, tmp_path):
    metrics = {target: summary(bundle, [], tmp_path / target, target=target, n_coils=3) for target in ("sense", "rss")}
    labels = {target: first_validation_sample(bundle, target=target, n_coils=3)["label"] for target in metrics}
    assert not labels["rss"][1].any()
    assert labels["sense"][1].abs().max() > 0.1
    # What is compared differs where maps of few lines lose signal, and little.
    for name in ("zero_filled", method):
        assert metrics["rss"][name]["psnr"] != metrics["sense"][name]["psnr"]
        assert metrics["rss"][name]["psnr"] == pytest.approx(metrics["sense"][name]["psnr"], abs=2)
    assert 0 < metrics["rss"][method]["residual"] < 0.3


def test_evaluation_by_fastmris_convention_is_cut_to_the_header(tmp_path):
    rng = np.random.default_rng(0)
    kspace = (rng.standard_normal((2, 3, 48, 32)) + 1j * rng.standard_normal((2, 3, 48, 32))).astype(np.complex64)
    matrix = "<matrixSize><x>{1}</x><y>32</y><z>1</z></matrixSize>"
    view = "<fieldOfView_mm><x>{1}</x><y>32</y><z>5</z></fieldOfView_mm>"
    space = "<{0}>" + matrix + view + "</{0}>"
    encoding = space.format("encodedSpace", 48) + space.format("reconSpace", 24)
    for contrast in ("t1", "t2"):
        with h5py.File(tmp_path / f"a_{contrast}.h5", "w") as file:
            file["kspace"] = kspace
            file["ismrmrd_header"] = f"<ismrmrdHeader><encoding>{encoding}</encoding></ismrmrdHeader>"
    options = {**SMALL, "dataset_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "ckpt_path": None}
    run(MC_CDIC, ["inference"], target="rss", **options)
    assert nibabel.load(tmp_path / "out" / "a_mc_cdic.nii.gz").shape == (24, 32, 2)
