"""Images and sensitivity maps that lie beside k-space are not taken for k-space."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medkit.data import coil_maps
from medkit.mri import LoadAcquisitiond, RandomMask, SimulateKspaced, Undersampled, open_acquisition
from medkit.mri.readers.domain import looks_like_image
from medkit.ops import centered_ifft
from tests.mri.small_exams import magnitude


def exam_of(n_coils, noise=0.03, size=(128, 96), seed="a"):
    acquire = SimulateKspaced(n_coils=(n_coils,), noise=(noise, noise), seed_key="case")
    return acquire({"magnitude": magnitude(size), "case": seed})["kspace"]


@pytest.mark.parametrize("n_coils", [1, 8])
@pytest.mark.parametrize("acceleration", [1, 8])
def test_kspace_is_no_image(n_coils, acceleration):
    for seed in "abc":
        kspace = exam_of(n_coils, seed=seed)
        if acceleration > 1:
            kspace = Undersampled("kspace", RandomMask(0.04, acceleration))({"kspace": kspace})["measured"]
        assert looks_like_image(kspace) is False
        assert looks_like_image(torch.fft.ifftshift(kspace)) is False, "the zero frequency in the corner"
        kspace[:, : kspace.shape[1] // 3] = 0
        assert looks_like_image(kspace) is False, "a partial echo"


@pytest.mark.parametrize("n_coils", [1, 8])
def test_images_and_maps_are_no_kspace(n_coils):
    for seed in range(3):
        image = centered_ifft(exam_of(n_coils, seed=str(seed)))
        maps = coil_maps(n_coils, (128, 96), torch.Generator().manual_seed(seed))
        body = magnitude((128, 96)) > 0
        assert looks_like_image(image)
        assert looks_like_image(image[:, 40:60, 30:50]), "a part of an image, without air"
        assert looks_like_image(maps)
        assert looks_like_image(maps * body), "maps that were cut out at the edge of the body"


def test_noise_nothing_and_few_samples_tell_nothing():
    noise = torch.randn(4, 64, 64, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    assert looks_like_image(noise) is None
    assert looks_like_image(torch.zeros_like(noise)) is None
    assert looks_like_image(torch.ones(1, 15, 64, dtype=torch.complex64)) is None
    large = exam_of(4) * 1e25
    assert looks_like_image(large) is False, "energies overflow in single precision"


def test_images_are_refused_unless_the_user_says_what_they_are(tmp_path):
    kspace = exam_of(4)
    image = centered_ifft(kspace)
    air = 1e-3 * torch.randn(image.shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "img.npy", torch.stack([air, image]).numpy())
    np.save(tmp_path / "ksp.npy", torch.stack([air, kspace]).numpy())
    with pytest.raises(ValueError, match=r"^open_acquisition: .*img.npy must hold k-space, but looks like .*domain="):
        LoadAcquisitiond()({"path": tmp_path / "img.npy"})
    exam = open_acquisition(tmp_path / "img.npy")
    exam.read_slice(0)  # noise tells nothing
    with pytest.raises(ValueError, match="looks like images or sensitivity maps"):
        exam.read_slice(1)
    as_kspace = open_acquisition(tmp_path / "img.npy", domain="kspace").read_slice(1)
    torch.testing.assert_close(as_kspace, image, rtol=0, atol=0)
    as_image = open_acquisition(tmp_path / "img.npy", domain="image", axes="slice,coil,H,W").read_slice(1)
    torch.testing.assert_close(as_image, kspace, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(open_acquisition(tmp_path / "ksp.npy").read_slice(1), kspace, rtol=0, atol=0)
