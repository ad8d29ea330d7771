"""Data consistency: exact where it says so, stable, differentiable, with weights that stay positive."""

import pytest
import torch

from medkit.mri import (
    CartesianOperator,
    ConjugateGradientDataConsistency,
    HardDataConsistency,
    SoftDataConsistency,
    conjugate_gradient_data_consistency,
    hard_data_consistency,
    soft_data_consistency,
)
from medkit.ops import centered_fft
from tests import laws


def make_problem(size=(8, 7), n_coils=None, dtype=torch.complex64, seed=0):
    """Operator, true image, its zero-filled image, and some other estimate."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(2, 1, 1, size[-1], generator=generator) < 0.5
    mask[..., size[-1] // 2] = True
    maps = None
    if n_coils:
        maps = torch.randn(2, n_coils, *size, dtype=dtype, generator=generator)
        maps = maps / torch.linalg.vector_norm(maps, dim=1, keepdim=True)
    operator = CartesianOperator(mask, maps)
    truth = torch.randn(2, 1, *size, dtype=dtype, generator=generator)
    estimate = torch.randn(2, 1, *size, dtype=dtype, generator=generator)
    return operator, truth, operator.adjoint(operator.forward(truth)), estimate


@pytest.mark.parametrize("size", [(8, 7), (1, 1), (5, 4)])
def test_hard_puts_back_what_was_measured_and_keeps_the_rest(size):
    operator, truth, zero_filled, estimate = make_problem(size)
    result = centered_fft(hard_data_consistency(estimate, zero_filled, operator.mask))
    expected = torch.where(operator.mask, centered_fft(truth), centered_fft(estimate))
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("noise_weight", [0.0, 0.3, 4.0])
def test_soft_is_the_weighted_mean_at_sampled_points(noise_weight):
    operator, truth, zero_filled, estimate = make_problem()
    result = centered_fft(soft_data_consistency(estimate, zero_filled, operator.mask, None, noise_weight))
    y, now = centered_fft(truth), centered_fft(estimate)
    expected = torch.where(operator.mask, (y + noise_weight * now) / (1 + noise_weight), now)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("n_coils", [None, 3])
def test_truth_is_a_fixed_point_of_every_layer(n_coils):
    operator, truth, zero_filled, _ = make_problem(n_coils=n_coils)
    for layer in (HardDataConsistency(), SoftDataConsistency(), ConjugateGradientDataConsistency()):
        out = layer(truth, zero_filled, operator.mask, operator.sens_maps)
        torch.testing.assert_close(out, truth, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_coils", [None, 3])
def test_everything_sampled_gives_the_truth_whatever_the_estimate(n_coils):
    operator, truth, _, estimate = make_problem(n_coils=n_coils)
    everything = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    torch.testing.assert_close(
        hard_data_consistency(estimate, truth, everything, operator.sens_maps), truth, atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("n_coils", [2, 4])
def test_repeated_multi_coil_steps_never_move_away_from_the_data(n_coils):
    operator, truth, zero_filled, x = make_problem(n_coils=n_coils)
    measured = operator.forward(truth)
    last = torch.inf
    for _ in range(5):
        x = hard_data_consistency(x, zero_filled, operator.mask, operator.sens_maps)
        misfit = float(torch.linalg.vector_norm(operator.forward(x) - measured))
        assert misfit <= last * (1 + 1e-6)
        last = misfit


@pytest.mark.parametrize("n_coils", [None, 3])
def test_conjugate_gradients_solve_the_normal_equation(n_coils):
    operator, _, zero_filled, estimate = make_problem(n_coils=n_coils, dtype=torch.complex128)
    weight = 0.2
    x = conjugate_gradient_data_consistency(
        estimate, zero_filled, operator.mask, operator.sens_maps, weight, n_iterations=60
    )
    torch.testing.assert_close(operator.normal(x) + weight * x, zero_filled + weight * estimate, atol=1e-9, rtol=1e-7)


def test_conjugate_gradients_match_a_dense_solver():
    operator, _, zero_filled, estimate = make_problem((3, 4), 2, torch.complex128)
    identity = torch.eye(12, dtype=torch.complex128).reshape(12, 1, 1, 3, 4)
    x = conjugate_gradient_data_consistency(estimate, zero_filled, operator.mask, operator.sens_maps, 0.1, 40)
    for i in range(2):
        single = CartesianOperator(operator.mask[i : i + 1], operator.sens_maps[i : i + 1])
        matrix = torch.stack([single.normal(column).flatten() for column in identity], dim=1)
        matrix = matrix + 0.1 * torch.eye(12)
        expected = torch.linalg.solve(matrix, (zero_filled[i] + 0.1 * estimate[i]).flatten())
        torch.testing.assert_close(x[i].flatten(), expected, atol=1e-9, rtol=1e-7)


def test_conjugate_gradients_stand_still_when_they_have_converged():
    operator, truth, zero_filled, _ = make_problem()
    x = truth.clone().requires_grad_()
    out = conjugate_gradient_data_consistency(x, zero_filled, operator.mask, n_iterations=100)
    assert bool(torch.isfinite(torch.view_as_real(out)).all())
    nothing = torch.zeros_like(zero_filled, requires_grad=True)
    out = conjugate_gradient_data_consistency(nothing, torch.zeros_like(zero_filled), operator.mask)
    out.abs().square().sum().backward()
    assert bool((out == 0).all())
    assert bool(torch.isfinite(torch.view_as_real(nothing.grad)).all())


@pytest.mark.parametrize("layer", [SoftDataConsistency(0.3), ConjugateGradientDataConsistency(4, 0.3)])
def test_gradients_are_right_and_the_weight_stays_positive(layer):
    operator, _, zero_filled, estimate = make_problem((3, 4), 2, torch.complex128)
    layer = layer.double()
    raw = layer.raw_weight
    x = estimate.requires_grad_()

    def run(x, raw):
        return torch.func.functional_call(
            layer, {"raw_weight": raw}, (x, zero_filled, operator.mask, operator.sens_maps)
        )

    assert torch.autograd.gradcheck(run, (x, raw))
    optimizer = torch.optim.SGD(layer.parameters(), lr=50.0)
    for _ in range(20):
        optimizer.zero_grad()
        loss = layer(x.detach(), zero_filled, operator.mask, operator.sens_maps).abs().square().mean()
        loss.backward()
        optimizer.step()
        weight = layer.noise_weight if isinstance(layer, SoftDataConsistency) else layer.weight
        assert weight.detach() >= 0


@pytest.mark.parametrize("initial", [1e-3, 0.1, 1.0, 30.0])
def test_weights_start_where_asked(initial):
    assert SoftDataConsistency(initial).noise_weight.item() == pytest.approx(initial, rel=1e-4)
    assert ConjugateGradientDataConsistency(weight=initial).weight.item() == pytest.approx(initial, rel=1e-4)
    assert not list(HardDataConsistency().parameters())
    assert not SoftDataConsistency(initial, learned=False).raw_weight.requires_grad


def test_volumes_in_three_dimensions():
    mask = torch.rand(1, 1, 1, 4, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    operator = CartesianOperator(mask, None, 3)
    truth = laws.random_like(torch.empty(1, 1, 3, 4, 5, dtype=torch.complex64))
    zero_filled = operator.adjoint(operator.forward(truth))
    x = HardDataConsistency(spatial_dims=3)(torch.zeros_like(truth), zero_filled, mask)
    torch.testing.assert_close(operator.forward(x), operator.forward(truth), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, m: hard_data_consistency(x, x[..., :3], m), "must be complex and of one shape"),
        (lambda x, m: hard_data_consistency(x.real, x.real, m), "must be complex and of one shape"),
        (lambda x, m: soft_data_consistency(x, x, m, None, -1.0), "'noise_weight' must be at least 0"),
        (lambda x, m: soft_data_consistency(x, x, m[..., :3]), "'mask' must be real and broadcast"),
        (lambda x, m: conjugate_gradient_data_consistency(x, x, m, n_iterations=0), "'n_iterations' must be"),
        (lambda x, m: conjugate_gradient_data_consistency(x, x, m, weight=-1.0), "'weight' must be at least 0"),
        (lambda x, m: SoftDataConsistency(0.0), "'noise_weight' must be positive"),
        (lambda x, m: ConjugateGradientDataConsistency(weight=-1.0), "'weight' must be positive"),
        (lambda x, m: ConjugateGradientDataConsistency(n_iterations=0), "'n_iterations' must be"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.zeros(1, 1, 4, 5, dtype=torch.complex64), torch.ones(1, 1, 1, 5, dtype=torch.bool))
