"""Crop and pad: adjoint to each other, centred for odd and even sizes, faithful to a band-limited image."""

import pytest
import torch

from medkit.ops import center_crop, center_pad, centered_fft, centered_ifft, kspace_crop, kspace_pad
from tests import laws


@pytest.mark.parametrize(("large", "small"), [((8, 9), (5, 4)), ((7, 8), (4, 8)), ((5, 5), (1, 1)), ((6, 7), (6, 7))])
def test_crop_and_pad_are_adjoint_and_keep_the_origin(large, small):
    laws.assert_adjoint(
        lambda x: center_crop(x, small), lambda y: center_pad(y, large), torch.empty(2, *large), torch.empty(2, *small)
    )
    x = torch.zeros(large)
    x[large[0] // 2, large[1] // 2] = 1
    assert center_crop(x, small)[small[0] // 2, small[1] // 2] == 1
    assert torch.equal(center_crop(center_pad(torch.ones(small), large), small), torch.ones(small))


@pytest.mark.parametrize(("small", "large"), [((8, 6), (16, 13)), ((7, 5), (8, 8))])
def test_kspace_crop_undoes_kspace_pad(small, large):
    x = torch.randn(2, *small, dtype=torch.complex64)
    torch.testing.assert_close(kspace_crop(kspace_pad(x, large), small), x, atol=1e-5, rtol=1e-5)


def test_kspace_pad_interpolates_a_plane_wave_exactly():
    def wave(n: int) -> torch.Tensor:
        position = (torch.arange(n) - n // 2) / n
        return torch.exp(2j * torch.pi * (2 * position[:, None] - position[None, :]))

    torch.testing.assert_close(kspace_pad(wave(8), (20, 20)), wave(20), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(kspace_crop(wave(20), (8, 8)), wave(8), atol=1e-5, rtol=1e-5)


def test_crop_in_one_space_is_blur_in_the_other():
    x = torch.randn(6, 6, dtype=torch.complex64)
    by_hand = centered_ifft(center_pad(center_crop(centered_fft(x), (4, 4)), (6, 6)))
    torch.testing.assert_close(centered_fft(by_hand)[0], torch.zeros(6, dtype=torch.complex64), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: center_crop(torch.ones(4, 4), (5, 4)), "from 1 to"),
        (lambda: center_pad(torch.ones(4, 4), (3, 4)), "at least"),
        (lambda: center_crop(torch.ones(4), (2, 2)), "1 to 1 trailing axes"),
        (lambda: center_crop(torch.ones(4), (0,)), "from 1 to"),
        (lambda: kspace_pad(torch.ones(4, 4), (8, 8)), "must be complex"),
    ],
)
def test_wrong_size_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
