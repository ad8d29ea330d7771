"""Fourier transforms: unitary, adjoint, centred, equal in both back ends, right on closed forms."""

import math

import pytest
import torch

from medkit.ops import centered_fft, centered_ifft, fft_real, ifft_real, irfft2_real, rfft2_real
from tests import laws

SIZES = [(8, 8), (6, 10), (7, 9), (6, 5), (1, 1), (1, 4), (230, 18)]


@pytest.mark.parametrize("backend", ["fft", "matmul"])
@pytest.mark.parametrize("size", [*SIZES, (4, 6, 10), (3, 4, 5)])
def test_centered_fft_is_unitary_with_its_inverse_as_adjoint(size, backend):
    example = torch.empty(2, *size, dtype=torch.complex64)
    n_dims = len(size)
    laws.assert_unitary(
        lambda x: centered_fft(x, n_dims, backend), lambda y: centered_ifft(y, n_dims, backend), example
    )
    laws.assert_adjoint(
        lambda x: centered_fft(x, n_dims, backend), lambda y: centered_ifft(y, n_dims, backend), example, example
    )


@pytest.mark.parametrize("size", [*SIZES, (4, 6, 10), (3, 4, 5)])
def test_centered_fft_equals_shifted_fft(size):
    x = torch.randn(3, *size, dtype=torch.complex64)
    dims = tuple(range(-len(size), 0))
    shifted = torch.fft.fftn(torch.fft.ifftshift(x, dim=dims), dim=dims, norm="ortho")
    expected = torch.fft.fftshift(shifted, dim=dims)
    for backend in ("fft", "matmul"):
        torch.testing.assert_close(centered_fft(x, len(size), backend), expected, atol=2e-6, rtol=1e-5)
    back = torch.fft.ifftn(torch.fft.ifftshift(x, dim=dims), dim=dims, norm="ortho")
    expected = torch.fft.fftshift(back, dim=dims)
    for backend in ("fft", "matmul"):
        torch.testing.assert_close(centered_ifft(x, len(size), backend), expected, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 9)])
def test_point_becomes_plane_wave(height, width):
    x = torch.zeros(height, width, dtype=torch.complex64)
    x[height // 2 + 1, width // 2 - 2] = 1
    k = torch.arange(height)[:, None] - height // 2
    m = torch.arange(width)[None, :] - width // 2
    expected = torch.exp(-2j * math.pi * (k / height - 2 * m / width)) / math.sqrt(height * width)
    torch.testing.assert_close(centered_fft(x), expected, atol=1e-6, rtol=1e-5)


def test_centered_fft_leaves_its_input_alone_and_has_a_gradient():
    x = torch.randn(2, 6, 8, dtype=torch.complex64)
    kept = x.clone()
    centered_fft(x)
    assert torch.equal(x, kept)
    x = torch.randn(1, 4, 6, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(centered_fft, (x,))
    assert torch.autograd.gradcheck(centered_ifft, (x,))


def test_centered_fft_takes_views_and_conjugates():
    x = torch.randn(6, 4, 2, dtype=torch.complex64)
    view = x.permute(2, 0, 1).conj()
    torch.testing.assert_close(centered_fft(view), centered_fft(view.clone().contiguous()))


def test_centered_fft_after_inference_mode_still_trains():
    with torch.inference_mode():
        centered_fft(torch.randn(4, 14, dtype=torch.complex64))
    x = torch.randn(4, 14, dtype=torch.complex64, requires_grad=True)
    centered_fft(x).abs().sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("size", [*SIZES, (3, 4, 5)])
def test_real_pair_transforms_agree_with_complex_ones(size):
    n_dims = len(size)
    z = torch.randn(2, *size, dtype=torch.complex64)
    dims = tuple(range(-n_dims, 0))
    for ours, theirs in ((fft_real, torch.fft.fftn), (ifft_real, torch.fft.ifftn)):
        expected = theirs(z, dim=dims, norm="ortho")
        for backend in ("fft", "matmul"):
            re, im = ours(z.real, z.imag, n_dims, backend)
            torch.testing.assert_close(torch.complex(re, im), expected, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", ["fft", "matmul"])
@pytest.mark.parametrize("size", SIZES)
def test_half_spectrum_round_trip_and_parseval(size, backend):
    x = torch.randn(2, 3, *size)
    re, im = rfft2_real(x, backend)
    assert re.shape == (2, 3, size[0], size[1] // 2 + 1)
    torch.testing.assert_close(irfft2_real(re, im, *size, backend), x, atol=3e-6, rtol=1e-5)
    mirrored = torch.tensor([1.0 if (2 * k) % size[1] == 0 else 2.0 for k in range(size[1] // 2 + 1)])
    energy = ((re**2 + im**2) * mirrored).sum()
    torch.testing.assert_close(energy, (x**2).sum(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("size", SIZES)
def test_half_spectrum_back_ends_agree_on_spectra_no_real_image_has(size):
    shape = (2, size[0], size[1] // 2 + 1)
    re, im = torch.randn(shape), torch.randn(shape)
    torch.testing.assert_close(
        irfft2_real(re, im, *size, "matmul"), irfft2_real(re, im, *size, "fft"), atol=3e-6, rtol=1e-5
    )


def test_matmul_back_end_makes_no_complex_tensor():
    class Refuse(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor):
                assert not result.is_complex(), f"{func} made a complex tensor"
            return result

    x = torch.randn(1, 2, 6, 5)
    with Refuse():
        irfft2_real(*rfft2_real(x, "matmul"), 6, 5, "matmul")
        ifft_real(*fft_real(x, x, 2, "matmul"), 2, "matmul")


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: centered_fft(torch.ones(4, 4, 2)), "must be complex"),
        (lambda: centered_ifft(torch.ones(4, dtype=torch.complex64)), "at least 2 axes"),
        (lambda: centered_fft(torch.ones(4, 4, dtype=torch.complex64), 4), "must be 1, 2 or 3"),
        (lambda: centered_fft(torch.ones(4, 4, dtype=torch.complex64), 2, "dft"), "'fft' or 'matmul'"),
    ],
)
def test_wrong_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
