"""Exams from scanners open, and their reconstructions are heads in the middle of dark air."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medkit.mri import LoadAcquisitiond, acquisition_list, estimate_sens_maps, open_acquisition
from medkit.mri.readers.domain import looks_like_image
from medkit.ops import centered_ifft

pytestmark = pytest.mark.real

RECON = "mri_recon"
EXAMS = {
    f"{RECON}/sidward__espirit-python/full.cfl": ((230, 180), 1, 8),
    f"{RECON}/mchiew__SENSE-tutorial/raw_data.mat": ((96, 96), 1, 16),
    f"{RECON}/mikgroup__sigpy-mri-tutorial/cartesian_ksp.npy": ((230, 180), 1, 8),
    f"{RECON}/derived/siat_t2_complex64.npz": ((270, 256), 12, 1),
}


@pytest.mark.parametrize("name", EXAMS)
def test_raw_exams_become_heads(real_data, name):
    exam = open_acquisition(real_data / name)
    assert (exam.shape, exam.n_slices, exam.n_coils) == EXAMS[name]
    image = centered_ifft(exam.read_slice(exam.n_slices // 2)).abs().square().sum(0).sqrt()
    height, width = exam.shape
    inside = image[height // 4 : -height // 4, width // 4 : -width // 4].mean()
    corner = torch.stack([part[..., :8].mean() for part in (image[:8], image[-8:], image[:8].flip(1))]).mean()
    assert inside > 5 * corner
    if "mikgroup" in name:
        assert exam.file_mask.shape == (1, *exam.shape)
        assert 0.1 < exam.file_mask.float().mean() < 0.15
    else:
        assert exam.file_mask is None


@pytest.mark.parametrize("name", EXAMS)
def test_images_and_maps_are_told_from_kspace(real_data, name):
    exam = open_acquisition(real_data / name)
    for i_slice in range(exam.n_slices):
        kspace = exam.read_slice(i_slice)
        lines = torch.ones(1, 1, 1, kspace.shape[-1], dtype=torch.bool)
        assert looks_like_image(kspace) is False
        assert looks_like_image(torch.fft.ifftshift(kspace)) is False, "the zero frequency in the corner"
        assert looks_like_image(centered_ifft(kspace))
        assert looks_like_image(estimate_sens_maps(kspace[None], lines)[0])


def test_matlab_and_its_transpose_agree_with_numpy(real_data):
    import h5py

    path = real_data / f"{RECON}/mchiew__SENSE-tutorial/raw_data.mat"
    with h5py.File(path) as file:
        stored = file["raw"][()]
    truth = (stored["real"] + 1j * stored["imag"])[:, 0].transpose(0, 2, 1)
    np.testing.assert_allclose(open_acquisition(path).read_slice(0).numpy(), truth, rtol=1e-6)


def test_glioma_volumes_keep_values_and_place(real_data):
    import nibabel

    path = real_data / "mri_multicontrast/BrainLesion__tutorials/BraTS-GLI-00001-000-t2w.nii.gz"
    image = nibabel.load(path)
    truth = np.asarray(image.dataobj)
    for axis in range(3):
        d = LoadAcquisitiond(slice_axis=axis)({"path": path, "i_slice": 70})
        np.testing.assert_array_equal(d["magnitude"][0].numpy(), truth.take(70, axis))
        where = image.affine @ [*np.insert([10, 20], axis, 70), 1]
        np.testing.assert_allclose(d["affine"].numpy() @ [10, 20, 0, 1], where)


def test_contrasts_of_a_patient_are_listed_together(real_data, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDKIT_CACHE", str(tmp_path))
    folder = real_data / "mri_multicontrast/BrainLesion__tutorials"
    assert len(acquisition_list(folder, per="volume")) == 8
    slices = acquisition_list(folder, pattern="BraTS*-t2w.nii.gz", min_signal=0.2)
    kept = [entry["i_slice"] for entry in slices]
    assert kept == list(range(kept[0], kept[-1] + 1))
    assert 90 < len(kept) < 150, "the empty slices below and above the head are left out"
