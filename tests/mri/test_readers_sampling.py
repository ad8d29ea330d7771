"""The sampling mask told from zeros: missing lines and points are found, padding and chance zeros are not."""

from __future__ import annotations

import pytest
import torch

from medkit.mri import find_mask


def full(height=32, width=40, coils=2):
    return torch.randn(coils, height, width, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def test_full_kspace_has_no_mask():
    assert find_mask(full()) is None
    assert find_mask(full(1, 1, 1)) is None


@pytest.mark.parametrize("seed", range(3))
def test_missing_columns_are_a_mask_of_columns(seed):
    lines = torch.rand(40, generator=torch.Generator().manual_seed(seed)) < 0.3
    lines[18:22] = True
    mask = find_mask(full() * lines)
    assert mask.dtype == torch.bool
    assert mask.equal(lines[None, None])


def test_missing_rows_are_a_mask_of_points():
    rows = torch.rand(32, generator=torch.Generator().manual_seed(0)) < 0.3
    rows[14:18] = True
    assert find_mask(full() * rows[:, None]).equal(rows[None, :, None].expand(1, 32, 40))


def test_missing_points_are_a_mask_of_points():
    points = torch.rand(32, 40, generator=torch.Generator().manual_seed(0)) < 0.2
    points[14:18, 18:22] = True
    assert find_mask(full() * points).equal(points[None])


@pytest.mark.parametrize(("top", "bottom", "left", "right"), [(0, 0, 5, 6), (4, 3, 0, 0), (4, 4, 5, 5), (0, 0, 15, 0)])
def test_zero_padding_and_partial_fourier_are_no_undersampling(top, bottom, left, right):
    kspace = full()
    kspace[:, :top], kspace[:, 32 - bottom :] = 0, 0
    kspace[..., :left], kspace[..., 40 - right :] = 0, 0
    assert find_mask(kspace) is None


def test_cut_corners_are_no_undersampling():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 40), indexing="ij")
    ellipse = y**2 + x**2 <= 1
    assert find_mask(full() * ellipse) is None
    points = ellipse & (torch.rand(32, 40, generator=torch.Generator().manual_seed(0)) < 0.5)
    assert find_mask(full() * points).equal(points[None])


def test_padding_is_false_in_the_mask_of_an_undersampled_exam():
    lines = torch.ones(40, dtype=torch.bool)
    lines[5:35:3] = False
    lines[:4] = False
    kspace = full() * lines
    kspace[:, :3] = 0
    assert find_mask(kspace).equal(lines[None, None])


def test_one_missing_line_counts_and_chance_zeros_do_not():
    kspace = full(400, 500, 1)
    kspace[0, 3, 7] = kspace[0, 300, 400] = 0
    assert find_mask(kspace) is None
    kspace[..., 123] = 0
    mask = find_mask(kspace)
    assert mask.shape == (1, 1, 500)
    assert (~mask).nonzero().tolist() == [[0, 0, 123]]


def test_a_zero_in_one_coil_is_a_sample():
    kspace = full()
    kspace[0, :, ::2] = 0
    assert find_mask(kspace) is None


def test_nothing_measured_tells_nothing():
    assert find_mask(torch.zeros(2, 8, 8, dtype=torch.complex64)) is None


@pytest.mark.parametrize("wrong", [torch.zeros(2, 8, 8), torch.zeros(8, 8, dtype=torch.complex64)])
def test_other_input_is_refused(wrong):
    with pytest.raises(ValueError, match=r"find_mask: 'kspace' must be complex \(coil, H, W\), got"):
        find_mask(wrong)
