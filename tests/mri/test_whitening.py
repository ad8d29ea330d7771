"""Prewhitening: known covariances become the identity, and noise scans that cannot be used are refused."""

import pytest
import torch

from medkit.mri import PrewhitenKspaced, noise_covariance, prewhiten
from tests.laws import assert_linear
from tests.mri.small_exams import random_kspace

MIXTURE = torch.tensor([[2.0, 0, 0], [1j, 1, 0], [0.5, -0.5j, 3]], dtype=torch.complex64)


def coloured(n_samples, seed=0):
    return MIXTURE @ random_kspace(3, n_samples, seed=seed)


def test_covariance_of_known_noise_is_known():
    expected = (MIXTURE @ MIXTURE.mH).to(torch.complex128)
    torch.testing.assert_close(noise_covariance(coloured(200_000)), expected, atol=0.1, rtol=0)
    whole = noise_covariance(coloured(1000).reshape(3, 10, 100))
    assert torch.equal(whole, noise_covariance(coloured(1000)))


def test_noise_of_the_given_covariance_becomes_white_exactly():
    noise = coloured(500)
    white = prewhiten(noise[None], noise_covariance(noise))[0]
    torch.testing.assert_close(noise_covariance(white), torch.eye(3, dtype=torch.complex128), atol=1e-5, rtol=0)


def test_it_is_linear_and_does_not_depend_on_the_unit():
    covariance = noise_covariance(coloured(500))
    kspace = random_kspace(2, 3, 8, 6)
    assert_linear(lambda x: prewhiten(x, covariance), kspace)
    torch.testing.assert_close(prewhiten(1e-6 * kspace, 1e-12 * covariance), prewhiten(kspace, covariance))


def test_each_coil_is_mixed_with_earlier_ones_alone_so_that_few_coils_stay_themselves():
    kspace = torch.zeros(1, 3, 2, 2, dtype=torch.complex64)
    kspace[:, 2] = 1
    white = prewhiten(kspace, noise_covariance(coloured(500)))
    assert not white[:, :2].any()


def test_the_transform_takes_the_noise_that_comes_with_an_exam():
    noise, kspace = coloured(500), random_kspace(3, 8, 6, 2)
    out = PrewhitenKspaced()({"kspace": kspace, "noise": noise})["kspace"]
    torch.testing.assert_close(out[..., 1], prewhiten(kspace[None, ..., 1], noise_covariance(noise))[0])


def copied(noise):
    return torch.cat([noise, noise[:1] * 1j])


KSPACE = random_kspace(1, 3, 4, 4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: noise_covariance(torch.ones(3, 10)), "'noise' must be complex"),
        (lambda: noise_covariance(coloured(3)), "more samples than coils, got 3 of 3"),
        (lambda: noise_covariance(coloured(50) * torch.nan), "'noise' must be finite"),
        (lambda: prewhiten(KSPACE, torch.eye(2)), r"'covariance' must be \(coil, coil\)"),
        (lambda: prewhiten(KSPACE, torch.eye(3) * torch.inf), "'covariance' must be finite"),
        (lambda: prewhiten(KSPACE, torch.diag(torch.tensor([1.0, 0, 1]))), r"coils \[1\] have none"),
        (lambda: prewhiten(KSPACE, torch.eye(3) + torch.ones(3, 3).triu()), "must be Hermitian"),
        (lambda: prewhiten(random_kspace(1, 4, 2, 2), noise_covariance(copied(coloured(50)))), "must not be singular"),
        (lambda: PrewhitenKspaced()({"kspace": KSPACE[0]}), "'noise_key' must be a key of the sample"),
        (lambda: PrewhitenKspaced()({"kspace": KSPACE[0].real, "noise": coloured(50)}), "'kspace' must be complex"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
