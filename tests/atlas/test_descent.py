"""Descent of a velocity: monotone, exact gradient, limits, and what pulls it back to an anchor."""

import pytest
import torch

from medkit.atlas import (
    GeodesicShooting,
    SobolevMetric,
    StationaryVelocity,
    Transformation,
    data_term,
    descend,
    regulariser,
)
from medkit.ops import exponential, folding, resize_field, warp
from tests.atlas.phantom import cohort, correlation
from tests.laws import random_like


def misfit(template: torch.Tensor, subject: torch.Tensor, model: Transformation, volume: float = 1.0):
    return lambda v: data_term(template, subject, model.displacement(v, inverse=True), None, 0.03, volume)


@pytest.mark.parametrize("model", ["svf", "lddmm"])
def test_a_pair_is_registered_and_the_energy_only_falls(model: str) -> None:
    size = (40, 36)
    template, subjects, _ = cohort(size, n=2, amplitude=2.0, width=6.0)
    metric = SobolevMetric(size)
    flow: Transformation = StationaryVelocity() if model == "svf" else GeodesicShooting(metric)
    found = descend(misfit(template, subjects[:1], flow), metric, torch.zeros(1, 2, *size), 40)
    assert all(after < before for before, after in zip(found.energies[:-1], found.energies[1:], strict=True))
    assert found.energies[-1] < 0.3 * found.energies[0]
    there = flow.displacement(found.velocity)
    assert folding(there).n_folded == 0
    assert correlation(warp(subjects[:1], there), template) > 0.99 > correlation(subjects[:1], template)
    assert found.energy == pytest.approx(found.data + float(regulariser(metric, found.velocity)), rel=1e-5)


def test_the_direction_is_the_gradient_of_the_energy() -> None:
    size = (12, 10)
    template, subjects, _ = (x.double() for x in cohort(size, n=2, amplitude=1.0, width=3.0))
    metric = SobolevMetric(size, (1.0, 1.5))
    data = misfit(template, subjects[:1], StationaryVelocity(6), 1.5)
    v = (0.3 + 0.1 * random_like(torch.empty(1, 2, *size, dtype=torch.float64))).requires_grad_()
    anchor = random_like(v, 5)
    (slope,) = torch.autograd.grad(data(v).sum(), v)
    gradient = v + metric.gradient(slope) + 0.25 * (v - anchor)
    direction = metric.velocity(random_like(v, 6))
    step = 1e-6 * direction / direction.abs().max()

    def energy(x: torch.Tensor) -> torch.Tensor:
        return data(x) + regulariser(metric, x, anchor, 0.25)

    change = (energy(v + step) - energy(v - step)).detach() / 2
    torch.testing.assert_close(metric.inner(gradient, step).detach(), change, rtol=1e-6, atol=0)


def test_without_data_the_anchor_and_zero_share_the_velocity() -> None:
    metric = SobolevMetric((16, 16))
    anchor = metric.velocity(random_like(torch.empty(1, 2, 16, 16)))
    found = descend(lambda v: 0 * v.sum().reshape(1), metric, torch.zeros_like(anchor), 400, 0.5, anchor, 1.0)
    torch.testing.assert_close(found.velocity, 0.5 * anchor, rtol=0, atol=2e-2 * float(anchor.abs().max()))


def test_nothing_is_done_in_no_steps_and_at_the_minimum() -> None:
    metric = SobolevMetric((8, 8))
    still = torch.zeros(1, 2, 8, 8)
    none = descend(lambda v: v.square().sum().reshape(1), metric, still, 0)
    assert torch.equal(none.velocity, still)
    assert not none.has_converged
    there = descend(lambda v: v.square().sum().reshape(1), metric, still, 5)
    assert there.has_converged
    assert there.n_accepted == 0


def test_a_data_term_that_is_not_a_number_never_wins() -> None:
    metric = SobolevMetric((8, 8))
    found = descend(
        lambda v: (v - 1).square().sum().reshape(1) + (v.abs().max() > 0.2) * torch.nan,
        metric,
        torch.zeros(1, 2, 8, 8),
        30,
    )
    assert found.velocity.abs().max() <= 0.2
    assert found.energies == tuple(sorted(found.energies, reverse=True))


def test_gradients_are_computed_only_where_a_step_begins() -> None:
    forth, back = [], []

    class Counted(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x: torch.Tensor) -> torch.Tensor:
            forth.append(1)
            return x.clone()

        @staticmethod
        def backward(ctx, grad: torch.Tensor) -> torch.Tensor:
            back.append(1)
            return grad

    # A narrow valley: the last steps are too long and fail.
    found = descend(
        lambda v: 50 * (Counted.apply(v) - 0.3).square().flatten(1).sum(1),
        SobolevMetric((8, 8)),
        torch.zeros(1, 2, 8, 8),
        8,
    )
    assert len(forth) == 9
    assert 0 < found.n_accepted < 8
    assert len(back) <= found.n_accepted + 1


def test_what_is_judged_is_what_is_stored() -> None:
    """Catches velocities that are rounded after they were accepted."""
    size = (24, 20)
    template, subjects, _ = cohort(size, n=2, amplitude=2.0, width=4.0)
    metric, data = SobolevMetric(size), misfit(template, subjects[:1], StationaryVelocity())

    def rounded(v: torch.Tensor) -> torch.Tensor:
        return (8 * v).round() / 8  # far coarser than 16 bits, so that it is seen

    found = descend(data, metric, torch.full((1, 2, *size), 0.03), 12, rounded=rounded)
    assert found.n_accepted > 0
    assert torch.equal(found.velocity, rounded(found.velocity))
    assert found.energies[0] == pytest.approx(float(data(torch.zeros(1, 2, *size))), rel=1e-6)
    assert found.energy == pytest.approx(float(data(found.velocity) + regulariser(metric, found.velocity)), rel=1e-5)


def test_a_descent_can_be_continued() -> None:
    size = (24, 20)
    template, subjects, _ = cohort(size, n=2, amplitude=1.5, width=5.0)
    metric = SobolevMetric(size)
    data = misfit(template, subjects[:1], StationaryVelocity())
    whole = descend(data, metric, torch.zeros(1, 2, *size), 10)
    first = descend(data, metric, torch.zeros(1, 2, *size), 4)
    second = descend(data, metric, first.velocity, 6, first.step)
    assert torch.equal(second.velocity, whole.velocity)


def test_half_a_grid_of_velocities_registers_too() -> None:
    size, half = (40, 36), (20, 18)
    template, subjects, _ = cohort(size, n=2, amplitude=2.0, width=6.0)
    metric = SobolevMetric(half, tuple((n - 1) / (m - 1) for n, m in zip(size, half, strict=True)))

    def data(v: torch.Tensor) -> torch.Tensor:
        return data_term(template, subjects[:1], resize_field(exponential(v, inverse=True), size))

    found = descend(data, metric, torch.zeros(1, 2, *half), 40)
    there = resize_field(exponential(found.velocity), size)
    assert correlation(warp(subjects[:1], there), template) > 0.99


def test_wrong_input_is_refused_in_a_sentence() -> None:
    metric = SobolevMetric((4, 4))
    with pytest.raises(ValueError, match="one finite field"):
        descend(lambda v: v.sum().reshape(1), metric, torch.full((1, 2, 4, 4), torch.nan), 1)
    with pytest.raises(ValueError, match=r"'step' in 0 to 0\.5"):
        descend(lambda v: v.sum().reshape(1), metric, torch.zeros(1, 2, 4, 4), 1, step=2.0)
