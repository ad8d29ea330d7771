"""Registration of a pair: finds the map, falls in energy, and no prior can spoil it."""

import pytest
import torch

from medkit.atlas import (
    Grid,
    IdentityPrior,
    PairEnergy,
    PriorSpec,
    RegistrationModel,
    register_pair,
    velocity_step,
)
from medkit.ops import compose, exponential, folding, resize_field, warp
from tests.atlas.phantom import cohort, correlation
from tests.laws import random_like

SIZE = (48, 40)
FACTORS, STEPS = (2, 1), (30, 15)


@pytest.fixture(scope="module")
def pair() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    template, subjects, v = cohort(SIZE, n=2, amplitude=2.5, width=6.0)
    return template, subjects[:1], v[:1]


class Says:
    def __init__(self, answer):
        self.spec, self.answer = PriorSpec("svf", 2, divisor=1, antisymmetric=False), answer

    def predict(self, template, subjects, *, spacing=None, attributes=None):
        return self.answer(subjects)


def run(pair, **options):
    return register_pair(pair[0], pair[1], factors=FACTORS, n_steps=STEPS, **options)


@pytest.mark.parametrize("path", ["svf", "lddmm"])
def test_a_pair_comes_together(pair, path: str) -> None:
    fixed, moving, v = pair
    found = run(pair, model=RegistrationModel(path=path, n_modes=16))
    assert correlation(found.warped, fixed) > 0.99 > correlation(moving, fixed)
    assert correlation(warp(fixed, found.inverse), moving) > 0.985
    assert folding(found.forward).n_folded == 0
    assert compose(found.forward, found.inverse).norm(dim=1).mean() < 0.05
    edge = (warp(fixed, torch.zeros(1, 2, *SIZE)) > 0.1) & (fixed < 0.8)
    error = (found.forward - exponential(v)).norm(dim=1, keepdim=True)[edge]
    assert error.mean() < 0.6 * exponential(v).norm(dim=1, keepdim=True)[edge].mean()


def test_the_energy_falls_within_each_level(pair) -> None:
    for energies in run(pair).energies:
        assert list(energies) == sorted(energies, reverse=True)
        assert len(energies) > 3


def test_equal_images_stay_exactly_where_they_are(pair) -> None:
    found = register_pair(pair[0], pair[0], factors=FACTORS, n_steps=STEPS)
    assert not found.velocity.any()
    assert torch.equal(found.forward, torch.zeros(1, 2, *SIZE))


def test_repeats_are_equal_bit_for_bit(pair) -> None:
    assert torch.equal(run(pair).velocity, run(pair).velocity)


@pytest.mark.parametrize("answer", [torch.nan, 1e9, "shape", "error"])
def test_a_broken_prior_changes_nothing_bit_for_bit(pair, answer) -> None:
    def broken(subjects):
        if answer == "error":
            raise RuntimeError("out of memory")
        if answer == "shape":
            return subjects
        return torch.full((1, 2, *subjects.shape[2:]), answer)

    assert torch.equal(run(pair, prior=Says(broken)).velocity, run(pair).velocity)


@pytest.mark.parametrize("scale", [-1.0, 0.0, "noise"])
def test_a_useless_prior_is_refused_at_the_start_and_forgotten_at_the_end(pair, scale) -> None:
    def useless(subjects):
        if scale == "noise":
            return 2 * random_like(torch.empty(1, 2, *subjects.shape[2:]))
        return scale * resize_field(pair[2], subjects.shape[2:], corners=False)

    plain, other = run(pair), run(pair, prior=Says(useless))
    assert other.energies[0][0] <= plain.energies[0][0]
    assert other.energies[-1][-1] <= 1.02 * plain.energies[-1][-1]


def test_a_good_prior_starts_lower(pair) -> None:
    good = Says(lambda subjects: resize_field(pair[2], subjects.shape[2:], corners=False))
    assert run(pair, prior=good).energies[0][0] < 0.5 * run(pair).energies[0][0]
    assert run(pair, prior=IdentityPrior(2)).energies == run(pair).energies


def test_a_weight_on_the_prior_keeps_it_near_and_a_bad_one_does_not_count(pair) -> None:
    template, subject, v = pair
    grid = Grid(SIZE, (1.0, 1.0))
    problem = PairEnergy(RegistrationModel(), grid, template, subject)
    guess = resize_field(v, problem.metric.size, corners=False)
    zero = torch.zeros_like(guess)
    free, start = velocity_step(problem, zero, 30, prediction=guess)
    kept = velocity_step(problem, zero, 30, prediction=guess, prior_weight=10.0)[0]
    assert start == "prior"
    far, near = (float(problem.metric.inner(x.velocity - guess, x.velocity - guess)) for x in (free, kept))
    assert near < far
    bad = velocity_step(problem, zero, 30, prediction=-guess, prior_weight=10.0)[0]
    assert torch.equal(bad.velocity, velocity_step(problem, zero, 30)[0].velocity)


def test_what_is_masked_out_does_not_count(pair) -> None:
    fixed, moving, _ = pair
    weight = torch.ones_like(moving)
    weight[..., 10:22, 12:24] = 0
    wrong = torch.where(weight == 0, torch.tensor(5.0), moving)
    model = RegistrationModel()
    results = [register_pair(fixed, x, 1.0, weight, model, (1,), (10,)).velocity for x in (moving, wrong)]
    assert torch.equal(results[0], results[1])


def test_voxels_of_another_size_are_registered_alike_in_mm(pair) -> None:
    """Twice the voxel with twice the smoothing in mm is the same problem, but for the unit of the energy."""
    small = register_pair(*pair[:2], 1.0, factors=(1,), n_steps=(10,), model=RegistrationModel(alpha=3.0, sigma=0.03))
    # Energy of data grows with h^2, that of velocities with h^4 (mm twice): sigma is scaled by 1/2.
    large = register_pair(*pair[:2], 2.0, factors=(1,), n_steps=(10,), model=RegistrationModel(alpha=12.0, sigma=0.015))
    torch.testing.assert_close(small.velocity, large.velocity, rtol=1e-3, atol=1e-4)


def test_wrong_input_is_refused_in_a_sentence(pair) -> None:
    fixed, moving, _ = pair
    with pytest.raises(ValueError, match="on one grid"):
        register_pair(fixed, moving[..., 1:])
    with pytest.raises(ValueError, match="one finite image each"):
        register_pair(fixed, moving * torch.nan)
    with pytest.raises(ValueError, match="must fall to 1"):
        register_pair(fixed, moving, factors=(1, 2), n_steps=(1, 1))
    with pytest.raises(ValueError, match="'path' must be one of"):
        RegistrationModel(path="ddf")
    with pytest.raises(ValueError, match="'sigma' must be a number above 0, got -1"):
        RegistrationModel(sigma=-1)
    with pytest.raises(ValueError, match="must lie on the grid"):
        PairEnergy(RegistrationModel(), Grid((8, 8), (1.0, 1.0)), fixed, moving)
