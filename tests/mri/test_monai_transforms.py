"""MONAI's masks, metrics and reader beside ours: what MONAI gets wrong, shown, and ours, right.

A first assertion that fails says that MONAI mended a defect.
"""

import h5py
import numpy as np
import pytest
import torch
from monai.apps.reconstruction.fastmri_reader import FastMRIReader
from monai.apps.reconstruction.transforms.array import EquispacedKspaceMask, RandomKspaceMask
from monai.apps.reconstruction.transforms.dictionary import RandomKspaceMaskd
from monai.metrics import PSNRMetric, SSIMMetric
from skimage.metrics import structural_similarity

from medkit.mri import EquispacedMask, RandomMask, Undersampled, open_acquisition, psnr, ssim
from tests.mri.small_exams import random_kspace


def test_two_contrasts_get_one_mask():
    kspace = random_kspace(1, 8, 64)
    pair = {"kspace": kspace, "t1_kspace": kspace}
    theirs = RandomKspaceMaskd(list(pair), center_fractions=[0.1], accelerations=[4])
    theirs.set_random_state(0)
    masked = theirs({key: torch.view_as_real(value) for key, value in pair.items()})
    sampled = [np.asarray(masked[f"{key}_masked"]) != 0 for key in pair]
    assert (sampled[0] != sampled[1]).any(), "MONAI's RandomKspaceMaskd shares the mask now"
    ours = Undersampled(list(pair), RandomMask(0.1, 4)).set_random_state(0)(pair)
    assert torch.equal(ours["measured"], ours["t1_measured"])
    assert torch.equal(ours["measured"], kspace * ours["mask"])


def test_the_rate_is_the_one_asked_for():
    kspace = torch.ones(1, 1, 320, 2)
    rates = {}
    for kind, rate in ((RandomKspaceMask, 8), (RandomMask, 8)):
        masker = kind(center_fractions=[0.04], accelerations=[rate])
        masker.set_random_state(0)
        rates[kind] = [320 / float(np.count_nonzero(np.asarray(masker(kspace)[0])[0, 0, :, 0])) for _ in range(40)]
    assert np.ptp(rates[RandomKspaceMask]) > 2, "MONAI's RandomKspaceMask counts lines now"
    assert rates[RandomMask] == pytest.approx([8] * 40, rel=0.02)


def test_a_centre_of_all_lines_that_are_allowed_is_legal():
    kspace = torch.ones(1, 1, 64, 2)
    with pytest.raises(ZeroDivisionError):
        EquispacedKspaceMask(center_fractions=[0.25], accelerations=[4])(kspace)
    masked, _ = EquispacedMask(center_fractions=[0.25], accelerations=[4])(kspace)
    assert int((masked[0, 0, :, 0] != 0).sum()) == 16


def test_metrics_have_the_range_of_each_volume_and_the_covariance_of_a_sample():
    rng = np.random.default_rng(0)
    truth = rng.random((2, 1, 24, 24)).astype(np.float32) * np.array([1, 5], np.float32)[:, None, None, None]
    image = truth + 0.1 * rng.standard_normal(truth.shape).astype(np.float32) * truth.max((1, 2, 3), keepdims=True)
    options = {"win_size": 7, "gaussian_weights": False}
    expected = [
        structural_similarity(t[0], i[0], data_range=t.max(), **options) for t, i in zip(truth, image, strict=True)
    ]
    theirs = SSIMMetric(2, data_range=float(truth.max()), kernel_type="uniform", win_size=7)
    values = theirs(torch.from_numpy(image), torch.from_numpy(truth)).flatten()
    assert abs(float(values[0]) - expected[0]) > 0.003, "MONAI's SSIM takes the range of each item now"
    # Where variances are as small as SSIM's constants, the number of degrees of freedom tells.
    flat = (0.8 + 0.05 * rng.standard_normal((2, 24, 24))).astype(np.float32)
    sample = structural_similarity(flat[0], flat[1], data_range=1.0, **options)
    theirs = SSIMMetric(2, data_range=1.0, kernel_type="uniform", win_size=7)
    population = float(theirs(*(torch.from_numpy(x)[None, None] for x in flat)))
    assert abs(population - sample) > 1e-3, "MONAI's SSIM takes sample covariances now"
    assert [ssim(i, t) for i, t in zip(image, truth, strict=True)] == pytest.approx(expected, abs=1e-6)
    peaks = PSNRMetric(max_val=float(truth.max()))(torch.from_numpy(image), torch.from_numpy(truth)).flatten()
    ours = [psnr(i, t) for i, t in zip(image, truth, strict=True)]
    assert float(peaks[1]) == pytest.approx(ours[1], abs=1e-3)
    assert float(peaks[0]) - ours[0] == pytest.approx(20 * np.log10(truth.max() / truth[0].max()), abs=1e-3)


def test_one_slice_of_a_file_is_read_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["kspace"] = np.random.default_rng(0).random((5, 2, 16, 12)).astype(np.complex64)
    exam = open_acquisition(path)
    read, get = [], h5py.Dataset.__getitem__

    def counted(self, *arguments):
        value = get(self, *arguments)
        read.append(np.size(value))
        return value

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    FastMRIReader().read(path)
    assert sum(read) == 5 * 2 * 16 * 12, "MONAI's FastMRIReader reads less than the file now"
    read.clear()
    assert exam.read_slice(3).shape == (2, 16, 12)
    assert sum(read) <= 2 * 16 * 12
