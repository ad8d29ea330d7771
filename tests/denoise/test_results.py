"""What is left of a denoised image: its mean, its file, its metrics and its picture; and noises by their names."""

import nibabel
import numpy as np
import pytest
import torch
from skimage.io import imread

from medkit.denoise import (
    KeepSignd,
    NonLocalMeans,
    RandDoseNoise,
    RandMagnitudeNoise,
    RandNoised,
    RandOneNoise,
    RandWhiteNoise,
    RandWindowedNoise,
    RestoreMeand,
    SameNoised,
    SaveDenoised,
    TileInferer,
    named_noise,
    restored_mean,
)
from medkit.denoise.engine import image_metrics
from medkit.denoise.figures import draw_denoised
from medkit.denoise.result_files import write_picture
from tests.denoise.small_denoisers import image


@pytest.mark.parametrize("shape", [(1, 30, 41), (2, 17, 20, 3)])
def test_means_of_slices_are_restored_and_edges_stay(shape):
    noisy, denoised = image(*shape), image(*shape, seed=1) + 0.3
    result = restored_mean(denoised, noisy, radius=4)
    axes = (1, 2)
    torch.testing.assert_close(result.mean(axes), noisy.mean(axes), atol=1e-5, rtol=0)
    assert torch.equal(restored_mean(noisy, noisy), noisy)
    shifted = restored_mean(noisy + 0.5, noisy)
    torch.testing.assert_close(shifted, noisy, atol=1e-5, rtol=0)


def test_noise_that_comes_back_is_a_small_share():
    noise = torch.randn(1, 256, 256, generator=torch.Generator().manual_seed(0))
    back = restored_mean(torch.zeros_like(noise), noise, radius=8)
    assert float(back.std()) == pytest.approx(1 / (2 * np.sqrt(np.pi) * 8), rel=0.3)


def test_only_ct_by_default():
    sample = {"pred": image(1, 8, 8), "image": image(2, 8, 8, seed=1), "modality": "MR"}
    assert torch.equal(RestoreMeand()(sample)["pred"], sample["pred"])
    for changed in (RestoreMeand(use=True)(sample), RestoreMeand()({**sample, "modality": "CT"})):
        torch.testing.assert_close(changed["pred"].mean(), sample["image"][0].mean())


def test_magnitudes_stay_positive_and_hu_negative():
    pred = torch.tensor([[[-0.2, 0.3]]])
    mr = {"pred": pred, "image": torch.tensor([[[0.0, 1.0]], [[-5.0, 0.0]]]), "window": torch.tensor([0.0, 300.0])}
    assert KeepSignd()(mr)["pred"].tolist() == [[[0.0, pytest.approx(0.3)]]]
    ct = {"pred": pred, "image": torch.tensor([[[0.0, 1.0]]]), "window": torch.tensor([-1024.0, 1024.0])}
    assert torch.equal(KeepSignd()(ct)["pred"], pred)
    shifted = {"pred": pred, "image": torch.tensor([[[0.6, 1.0]]]), "window": torch.tensor([-100.0, 100.0])}
    assert KeepSignd()(shifted)["pred"].tolist() == [[[0.5, 0.5]]]


@pytest.mark.parametrize("shape", [(1, 33, 47), (1, 20, 26, 3), (3, 24, 30)])
def test_non_local_means_lower_the_error_of_images_that_are_not_square(shape):
    clean = torch.zeros(shape)
    clean[:, 5:15, 8:20] = 1
    noisy = clean + 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for sigma in (0.1, 0.0):
        error = (NonLocalMeans()(noisy, sigma) - clean).square().mean()
        assert error < 0.3 * (noisy - clean).square().mean()


def test_metrics_are_those_of_their_definitions():
    clean = image(1, 20, 24)
    noisy = clean + 0.1
    assert image_metrics(noisy, clean)["psnr"] == pytest.approx(20, abs=1e-4)
    assert image_metrics(clean, clean)["ssim"] == pytest.approx(1)
    ct = image_metrics(noisy, clean, hu_per_unit=2048)
    assert ct["rmse_hu"] == pytest.approx(204.8, rel=1e-4)
    assert ct["bias_hu"] == pytest.approx(204.8, rel=1e-4)
    assert np.isnan(image_metrics(noisy[:, :5], clean[:, :5])["ssim"])


@pytest.mark.parametrize("shape", [(12, 9), (3, 12, 9)])
@pytest.mark.parametrize("with_reference", [True, False])
def test_pictures_are_drawn(shape, with_reference, tmp_path):
    reference = image(*shape) if with_reference else None
    draw_denoised(tmp_path / "a.png", image(*shape, seed=1), {"b": image(*shape, seed=2)}, reference, title="$x")
    assert imread(tmp_path / "a.png").std() > 5
    with pytest.raises(ValueError, match="of one shape"):
        draw_denoised(tmp_path / "b.png", image(4, 4), {"b": image(4, 5)})
    assert not (tmp_path / "b.png").exists()


def test_files_of_8_bits_are_cut_and_rounded(tmp_path):
    write_picture(tmp_path / "a.png", torch.tensor([[[-3.0, 1.6], [254.4, 300.0]]]), np.dtype(np.uint8))
    assert imread(tmp_path / "a.png").tolist() == [[0, 2], [254, 255]]


def test_volumes_of_a_flat_network_are_tiled_slice_by_slice():
    net = torch.nn.AvgPool2d(3, 1, padding=1)
    net.tile_grid, net.halo = 1, 1
    volume = image(1, 1, 20, 14, 3)
    result = TileInferer(tile=8, spatial_dims=2)(volume, net)
    for i in range(3):
        torch.testing.assert_close(result[..., i], net(volume[..., i]))


def test_one_of_several_noises_is_drawn_and_its_field_tells_which():
    kinds = set()
    noise = named_noise(["rician", "gaussian"], sigma=0.1)
    noised, quieter = RandNoised(noise), SameNoised(noise, ratio=0.5)
    noised.set_random_state(0)
    clean = torch.full((1, 16, 16), 0.2)
    for _ in range(12):
        sample = quieter(noised({"image": clean, "label": clean}))
        kind = RandMagnitudeNoise if len(sample["unit_noise"]) == 2 else RandWhiteNoise
        kinds.add(kind)
        torch.testing.assert_close(sample["image"], kind(0.1).apply(clean, 0.1, sample["unit_noise"]))
        torch.testing.assert_close(sample["quieter"], kind(0.1).apply(clean, 0.05, sample["unit_noise"]))
    assert kinds == {RandWhiteNoise, RandMagnitudeNoise}


def test_noise_by_name_is_the_same_for_a_case_and_differs_between_cases_and_slices():
    noised = RandNoised(RandWhiteNoise((0.0, 0.2)), seed_key="case", seed=3)
    samples = [{"image": torch.zeros(1, 8, 8), "case": "a"}, {"image": torch.zeros(1, 8, 8), "case": "b"}]
    samples.append({**samples[0], "i_slice": 4})
    first, again = ([noised(sample) for sample in samples] for _ in range(2))
    assert all(torch.equal(x["image"], y["image"]) for x, y in zip(first, again, strict=True))
    assert len({float(x["sigma"]) for x in first}) == 3


def test_dose_in_a_window_is_the_dose_in_hu():
    hu = torch.full((1, 32, 32), -1000.0)
    hu[:, 8:24, 8:24] = 40
    inner = RandDoseNoise(0.2, n_views=30)
    outer = RandWindowedNoise(RandDoseNoise(0.2, n_views=30), window=(-1024, 1024))
    wanted = inner.set_random_state(0)(hu)
    outer.set_random_state(0)
    sample = RandNoised(outer)({"image": (hu + 1024) / 2048})
    torch.testing.assert_close(sample["image"] * 2048 - 1024, wanted, atol=0.01, rtol=0)
    assert float(sample["dose"]) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: named_noise("rice"), "'kind' must be of"),
        (lambda: named_noise(["rician", "rician"]), "each once"),
        (lambda: named_noise(["poisson", "rician"]), "name it alone"),
        (lambda: named_noise("gaussian", sigma=25), "'sigma' must be 0 to 1"),
        (lambda: named_noise("gaussian", sigma=[0.2, 0.1]), "'sigma' must be 0 to 1"),
        (lambda: RandOneNoise([]), "'noises' must be"),
        (lambda: RandWindowedNoise(RandDoseNoise(0.2), None), "'window' must be"),
        (lambda: restored_mean(image(1, 4, 4), image(1, 4, 5)), "of one shape"),
        (lambda: restored_mean(image(1, 4, 4), image(1, 4, 4), radius=0), "'radius' must be"),
        (lambda: NonLocalMeans(strength=0), "must be positive"),
        (lambda: SaveDenoised("x", method="noisy"), "'method' must be"),
        (lambda: TileInferer(spatial_dims=4), "'spatial_dims' must be"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_nibabel_reads_what_is_written(tmp_path):
    from medkit.denoise.result_files import result_path, write_result

    source = tmp_path / "head.nii.gz"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), np.diag([1.0, 2, 3, 1])), source)
    volume = image(1, 5, 6, 4)  # slices along the first axis of the file
    affine = np.diag([1.0, 2, 3, 1])[:, [1, 2, 0, 3]]
    path = result_path(tmp_path / "out", "head", "mdrn", source)
    write_result(path, volume, source, affine, 1, None, "mdrn", slice_axis=0)
    result = nibabel.load(path)
    np.testing.assert_allclose(result.get_fdata(), np.moveaxis(volume[0].numpy(), -1, 0), atol=1e-6)
    np.testing.assert_allclose(result.affine, np.diag([1.0, 2, 3, 1]))
