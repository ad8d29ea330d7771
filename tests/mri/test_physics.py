"""The forward model: adjoint, at most the identity, exact on closed forms, clear about wrong shapes."""

import pytest
import torch

from medkit.mri import CartesianOperator, sense_adjoint, sense_forward, sense_normal
from medkit.ops import centered_fft
from tests import laws

SIZES = [(8, 8), (7, 9), (6, 5), (1, 1), (1, 4), (4, 6, 5)]


def make_case(size, n_coils, batch=2, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, 1, *size, generator=generator) < 0.5
    mask[(..., *(n // 2 for n in size))] = True
    if n_coils is None:
        return mask, None
    maps = torch.randn(batch, n_coils, *size, dtype=torch.complex64, generator=generator)
    return mask, maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)


@pytest.mark.parametrize("n_coils", [None, 1, 3])
@pytest.mark.parametrize("size", SIZES)
def test_forward_and_adjoint_are_adjoint_and_linear(size, n_coils):
    mask, maps = make_case(size, n_coils)
    operator = CartesianOperator(mask, maps, len(size))
    image = torch.empty(2, 1, *size, dtype=torch.complex64)
    kspace = torch.empty(2, n_coils or 1, *size, dtype=torch.complex64)
    laws.assert_adjoint(operator.forward, operator.adjoint, image, kspace)
    laws.assert_adjoint(operator.normal, operator.normal, image, image)
    laws.assert_linear(operator.forward, image)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("n_coils", [None, 3])
@pytest.mark.parametrize("size", SIZES)
def test_normal_is_adjoint_of_forward_and_at_most_the_identity(size, n_coils, soft):
    mask, maps = make_case(size, n_coils)
    if soft:
        mask = mask * torch.rand(mask.shape, generator=torch.Generator().manual_seed(1))
    operator = CartesianOperator(mask, maps, len(size))
    x = laws.random_like(torch.empty(2, 1, *size, dtype=torch.complex64))
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator.forward(x)), atol=1e-5, rtol=1e-4)
    laws.assert_contraction(operator.normal, x)


def test_everything_sampled_with_normalised_maps_is_the_identity():
    _, maps = make_case((6, 7), 4)
    x = laws.random_like(torch.empty(2, 1, 6, 7, dtype=torch.complex64))
    torch.testing.assert_close(sense_normal(x, None, maps), x, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(sense_adjoint(sense_forward(x, None, maps), None, maps), x, atol=1e-5, rtol=1e-4)


def test_forward_is_mask_times_fourier_times_coil():
    mask, maps = make_case((6, 5), 2, batch=1)
    x = laws.random_like(torch.empty(1, 1, 6, 5, dtype=torch.complex64))
    kspace = sense_forward(x, mask, maps)
    for i_coil in range(2):
        expected = centered_fft(x[0, 0] * maps[0, i_coil]) * mask[0, 0]
        torch.testing.assert_close(kspace[0, i_coil], expected)
    assert bool((kspace[~mask.expand_as(kspace)] == 0).all())


def test_each_sample_of_a_batch_has_its_own_mask_and_maps():
    mask, maps = make_case((5, 6), 3, batch=3)
    x = laws.random_like(torch.empty(3, 1, 5, 6, dtype=torch.complex64))
    together = sense_forward(x, mask, maps)
    for i in range(3):
        alone = sense_forward(x[i : i + 1], mask[i : i + 1], maps[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone)


def test_line_mask_and_shared_maps_broadcast():
    mask, maps = make_case((5, 6), 3, batch=1)
    lines = mask[:, :, :1]
    x = laws.random_like(torch.empty(2, 1, 5, 6, dtype=torch.complex64))
    expected = sense_forward(x, lines.expand(2, 1, 5, 6), maps.expand(2, 3, 5, 6))
    torch.testing.assert_close(sense_forward(x, lines, maps), expected)


def test_empty_mask_measures_nothing():
    x = laws.random_like(torch.empty(1, 1, 4, 4, dtype=torch.complex64))
    assert not sense_forward(x, torch.zeros(1, 1, 1, 4, dtype=torch.bool)).any()


def test_gradient_flows():
    mask, maps = make_case((4, 3), 2, batch=1)
    x = torch.randn(1, 1, 4, 3, dtype=torch.complex128, requires_grad=True)
    maps = maps.to(torch.complex128)
    assert torch.autograd.gradcheck(lambda x: sense_forward(x, mask, maps), (x,))
    assert torch.autograd.gradcheck(lambda x: sense_normal(x, mask, maps), (x,))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: sense_forward(x.real), "'image' must be complex"),
        (lambda x: sense_forward(x[0]), "'image' must be complex"),
        (lambda x: sense_forward(x.expand(2, 3, 4, 5)), "must have 1 on axis 1"),
        (lambda x: sense_forward(x, torch.ones(2, 1, 5, 4)), "'mask' must be real and broadcast"),
        (lambda x: sense_forward(x, torch.ones(4, 5)), "'mask' must be real and broadcast"),
        (lambda x: sense_forward(x, None, torch.ones(2, 3, 4, 5)), "'sens_maps' must be complex"),
        (lambda x: sense_forward(x, None, x.expand(2, 3, 4, 5)[..., :4]), "'sens_maps' must be complex"),
        (lambda x: sense_adjoint(x.expand(2, 3, 4, 5)), "several coils need 'sens_maps'"),
        (lambda x: sense_normal(x, spatial_dims=4), "'spatial_dims' must be"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(2, 1, 4, 5, dtype=torch.complex64))
