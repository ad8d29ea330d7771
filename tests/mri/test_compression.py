"""Coil compression: nothing is lost of what fewer coils can say, noise stays white, missing lines stay missing."""

import pytest
import torch

from medkit.mri import CompressCoilsd, coil_compression_matrix, compress_coils, root_sum_of_squares
from medkit.ops import centered_fft, centered_ifft
from tests.laws import inner
from tests.mri.small_exams import random_kspace
from tests.mri.small_scans import make_scan, read_eight_coils, read_sixteen_coils


def lost(kspace, matrix):
    """Part of the energy that compression loses."""
    return 1 - float(compress_coils(kspace, matrix).norm() / kspace.norm()) ** 2


def mixed(n_virtual, per_row, n_coils=6, size=(20, 18)):
    """K-space of coils that are mixtures of a few: the same in all rows, or others in each."""
    few = random_kspace(1, n_virtual, *size)
    if not per_row:
        return torch.einsum("cv,bvhw->bchw", random_kspace(n_coils, n_virtual, seed=1), few)
    images = torch.einsum("hcv,bvhw->bchw", random_kspace(size[0], n_coils, n_virtual, seed=1), centered_ifft(few))
    return centered_fft(images)


@pytest.mark.parametrize("mode", ["svd", "geometric"])
def test_mixtures_are_orthonormal_so_that_white_noise_stays_white(mode):
    matrix = coil_compression_matrix(random_kspace(2, 5, 16, 12), 3, mode=mode)
    assert matrix.shape == ((2, 3, 5) if mode == "svd" else (2, 16, 3, 5))
    identity = torch.eye(3, dtype=matrix.dtype).expand(*matrix.shape[:-2], 3, 3)
    torch.testing.assert_close(matrix @ matrix.mH, identity, atol=1e-5, rtol=0)


def test_coils_that_are_mixtures_of_few_lose_nothing():
    same, other = mixed(2, per_row=False), mixed(2, per_row=True)
    assert lost(same, coil_compression_matrix(same, 2)) < 1e-5
    assert lost(other, coil_compression_matrix(other, 2, mode="geometric")) < 1e-5
    assert lost(other, coil_compression_matrix(other, 2)) > 0.1


def test_all_coils_are_kept_as_they_are_up_to_a_turn():
    kspace = random_kspace(1, 4, 12, 12)
    for mode in ("svd", "geometric"):
        full = compress_coils(kspace, coil_compression_matrix(kspace, 4, mode=mode))
        rss = [root_sum_of_squares(centered_ifft(x)) for x in (kspace, full)]
        torch.testing.assert_close(rss[1], rss[0], atol=1e-4, rtol=1e-4)


def test_no_other_mixture_of_the_calibration_region_is_stronger():
    kspace, _, _ = make_scan(n_coils=5)
    matrix = coil_compression_matrix(kspace, 2, n_calibration=16)
    block = kspace[..., 16:32, 12:28]
    best = float(inner(compress_coils(block, matrix), compress_coils(block, matrix)).real)
    for seed in range(5):
        other = torch.linalg.qr(random_kspace(5, 2, seed=seed)).Q.mH[None]
        assert float(inner(compress_coils(block, other), compress_coils(block, other)).real) < best


def test_neighbouring_rows_get_nearly_the_same_mixture():
    kspace, _, image = make_scan(n_coils=6)
    matrix = coil_compression_matrix(kspace, 3, mode="geometric")[0]
    rows = image[0, 0].abs().amax(1) > 0.5
    step = (matrix[1:] - matrix[:-1])[rows[1:] & rows[:-1]].norm(dim=(1, 2))
    assert float(step.max()) < 0.3
    # Eigenvectors as they come have arbitrary phases: they would jump.
    energy = centered_ifft(compress_coils(kspace, matrix[None])).abs()
    assert float((energy[..., 1:, :] - energy[..., :-1, :]).abs().max()) < 0.5 * float(energy.max())


@pytest.mark.parametrize("mode", ["svd", "geometric"])
def test_missing_lines_stay_missing_and_the_centre_alone_decides(mode):
    kspace, _, _ = make_scan()
    mask = torch.zeros(1, 1, 1, 40, dtype=torch.bool)
    mask[..., 13:27] = True
    mask[..., ::4] = True
    matrix = coil_compression_matrix(kspace * mask, 2, mask, mode=mode)
    broken = torch.where(mask, kspace, 5)
    torch.testing.assert_close(coil_compression_matrix(broken, 2, mask, mode=mode), matrix)
    small = compress_coils(kspace, matrix)
    torch.testing.assert_close(compress_coils(kspace * mask, matrix), small * mask, atol=1e-5, rtol=1e-4)


def test_the_transform_mixes_measured_and_full_kspace_alike_for_slices_and_volumes():
    kspace = make_scan()[0][0]
    mask = torch.zeros(1, 1, 40, dtype=torch.bool)
    mask[..., 13:27] = True
    one = CompressCoilsd(2)({"kspace": kspace, "measured": kspace * mask, "mask": mask})
    assert one["kspace"].shape == (2, 48, 40)
    torch.testing.assert_close(one["kspace"] * mask, one["measured"])
    volume = torch.stack([kspace, 2 * kspace], -1)
    both = CompressCoilsd(2)({"kspace": volume, "measured": volume * mask[..., None], "mask": mask[..., None]})
    torch.testing.assert_close(both["measured"][..., 0], one["measured"])
    assert CompressCoilsd(3, n_calibration=None)({"kspace": kspace})["kspace"].shape == (3, 48, 40)
    assert torch.equal(CompressCoilsd(4)({"kspace": kspace})["kspace"], kspace)


KSPACE = torch.ones(1, 3, 8, 8, dtype=torch.complex64)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: coil_compression_matrix(KSPACE, 4), "'n_coils' must be 1 to the number of coils 3"),
        (lambda: coil_compression_matrix(KSPACE, 2, mode="pca"), "'mode' must be 'svd' or 'geometric'"),
        (lambda: coil_compression_matrix(KSPACE * torch.nan, 2), "'kspace' must be finite"),
        (lambda: coil_compression_matrix(KSPACE, 2, torch.zeros(1, 1, 1, 8)), "sample 0 has none"),
        (
            lambda: coil_compression_matrix(KSPACE, 2, (torch.arange(8) > 1).reshape(1, 1, 8, 1), mode="geometric"),
            "whole lines along H",
        ),
        (lambda: compress_coils(KSPACE, KSPACE[:, :, :2, 0]), "'matrix' must be complex"),
        (lambda: compress_coils(KSPACE, torch.ones(1, 7, 2, 3, dtype=torch.complex64)), "'matrix' must be complex"),
        (lambda: CompressCoilsd(0), "'n_coils' must be at least 1"),
        (lambda: CompressCoilsd(2, "pca"), "'mode' must be"),
        (lambda: CompressCoilsd(2)({"kspace": KSPACE[0], "sens_maps": KSPACE[0]}), "put SensitivityMapsd after it"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.real
@pytest.mark.parametrize(("read", "most"), [(read_eight_coils, 0.05), (read_sixteen_coils, 0.25)])
def test_raw_data_keeps_its_energy_in_few_virtual_coils_and_geometric_ones_keep_more(read, most, real_data):
    kspace = read(real_data)
    svd, geometric = (lost(kspace, coil_compression_matrix(kspace, 4, mode=m)) for m in ("svd", "geometric"))
    assert geometric < 0.01 < svd < most
