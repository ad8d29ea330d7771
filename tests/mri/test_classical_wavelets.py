"""Daubechies wavelets: the filters and transforms that their definition asks for, and those of PyWavelets."""

import numpy as np
import pytest
import torch

from medkit.mri import daubechies_filter, wavelet_adjoint, wavelet_forward
from tests.laws import assert_adjoint, assert_linear, assert_unitary, random_like


@pytest.mark.parametrize("order", range(1, 11))
def test_filters_are_orthonormal_with_vanishing_moments(order):
    low = np.array(daubechies_filter(order))
    assert low.size == 2 * order
    for shift in range(order):
        assert np.dot(low[2 * shift :], low[: low.size - 2 * shift]) == pytest.approx(float(shift == 0), abs=1e-7)
    high = low[::-1] * (-1.0) ** np.arange(low.size)
    for power in range(order):
        moment = np.sum(high * (np.arange(low.size) / low.size) ** power)
        assert moment == pytest.approx(0, abs=1e-7)
    # The energy comes first: of all filters with these properties the one of minimal phase.
    assert np.sum(low[:order] ** 2) >= 0.5 - 1e-9


@pytest.mark.parametrize(
    ("size", "order", "n_levels"), [((16, 24), 4, 3), ((8, 4), 4, 2), ((2, 6), 1, 1), ((5, 7), 4, 0)]
)
def test_transform_is_orthogonal_and_linear(size, order, n_levels):
    x = torch.zeros(2, 3, *size)

    def forward(x):
        return wavelet_forward(x, order, n_levels)

    def adjoint(y):
        return wavelet_adjoint(y, order, n_levels)

    assert_unitary(forward, adjoint, x)
    assert_adjoint(forward, adjoint, x, x)
    assert_linear(forward, x)


def test_polynomials_have_no_details_away_from_the_edge():
    row = torch.linspace(-1, 1, 64, dtype=torch.float64)
    image = row[:, None] ** 3 + row**2
    details = wavelet_forward(image, order=4, n_levels=1)[32:60, 32:60]
    assert float(details.abs().max()) < 1e-10
    assert float(wavelet_forward(image, order=2, n_levels=1)[32:60, :32].abs().max()) > 1e-5


def test_haar_of_a_square_is_its_mean():
    assert torch.equal(
        wavelet_forward(torch.ones(4, 4), 1, 2).round(decimals=5), 4.0 * torch.eye(4)[:1].T * torch.eye(4)[:1]
    )


def test_coefficients_are_those_of_pywavelets_up_to_a_shift():
    pywt = pytest.importorskip("pywt", reason="comes with sigpy, in the extra 'peers'")
    for order in (1, 2, 4, 7):
        low = daubechies_filter(order)
        np.testing.assert_allclose(np.array(low)[::-1], pywt.Wavelet(f"db{order}").dec_lo, atol=1e-7)
    x = random_like(torch.zeros(16, 24, dtype=torch.float64))
    approximation, details = pywt.dwt2(x.numpy(), "db4", mode="periodization")
    theirs = np.abs(np.block([[approximation, details[1]], [details[0], details[2]]]))
    # Their first sample is another one: one shift of the image makes all four parts equal, up to signs.
    shifted = [wavelet_forward(x.roll((i, j), (0, 1)), 4, 1).abs().numpy() for i in range(16) for j in range(24)]
    assert min(np.abs(ours - theirs).max() for ours in shifted) < 1e-7


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: daubechies_filter(0), "'order' must be 1 to 10"),
        (lambda: daubechies_filter(11), "'order' must be 1 to 10"),
        (lambda: wavelet_forward(torch.ones(8, 12), 4, 3), r"2\^3 divides, got torch.float32 \(8, 12\)"),
        (lambda: wavelet_adjoint(torch.ones(8, 8), 4, -1), r"2\^-1 divides"),
        (lambda: wavelet_forward(torch.ones(8, 8, dtype=torch.complex64)), "must be real"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
