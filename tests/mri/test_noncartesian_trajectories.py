"""Spokes and spirals go where they say, and their weights are areas."""

import math

import pytest
import torch

from medkit.data import head_phantom
from medkit.mri import pipe_menon_weights, radial_trajectory, radial_weights, spiral_trajectory
from tests.laws import assert_deterministic
from tests.mri.small_trajectories import grid, scattered


@pytest.mark.parametrize("order", ["uniform", "golden"])
@pytest.mark.parametrize("size", [(16, 12), (9, 9), (8, 6, 10)])
def test_spokes_run_from_edge_to_edge_through_the_centre(size, order):
    spokes = radial_trajectory(7, size, n_readout=10, order=order).reshape(7, 10, len(size))
    radius = (spokes * 2 / torch.tensor(size)).norm(dim=-1)
    torch.testing.assert_close(radius, ((torch.arange(10) - 5) / 5).abs().expand(7, 10), atol=1e-6, rtol=0)
    assert bool((spokes[:, 5] == 0).all())
    steps = spokes.diff(dim=1)
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), atol=1e-5, rtol=0)


def test_angles_are_those_that_were_asked_for():
    for order, step in [("uniform", 180 / 8), ("golden", 111.246118)]:
        tips = -radial_trajectory(8, (64, 64), order=order).reshape(8, 128, 2)[:, 0].double()
        angles = torch.rad2deg(torch.atan2(tips[:, 1], tips[:, 0])) - step * torch.arange(8)
        assert bool((((angles + 1) % 360) - 1).abs().max() < 1e-3)


@pytest.mark.parametrize("order", ["uniform", "golden"])
def test_spokes_of_a_volume_spread_over_the_sphere(order):
    tips = radial_trajectory(300, (2, 2, 2), n_readout=2, order=order).reshape(300, 2, 3)[:, 0].double()
    # Of points equally spread over a sphere each coordinate has the mean square 1/3, and products have none.
    torch.testing.assert_close(tips.T @ tips / 300, torch.eye(3).double() / 3, atol=0.02, rtol=0)


@pytest.mark.parametrize(
    ("n_interleaves", "size", "n_turns"), [(1, (32, 32), None), (4, (32, 24), 5.0), (6, (9, 9), 0.5)]
)
def test_spiral_is_archimedean_and_its_steps_are_equal(n_interleaves, size, n_turns):
    arms = spiral_trajectory(n_interleaves, size, 400, n_turns).reshape(n_interleaves, 400, 2).double()
    arms = arms * 2 / torch.tensor(size)
    radius = arms.norm(dim=-1)
    assert float(radius[:, 0].max()) == 0
    torch.testing.assert_close(radius[:, -1], torch.ones(n_interleaves).double())
    angle = torch.atan2(arms[..., 1], arms[..., 0])
    turns = max(size) / 2 / n_interleaves if n_turns is None else n_turns
    start = 2 * math.pi * torch.arange(n_interleaves)[:, None] / n_interleaves
    off = (angle - start - 2 * math.pi * turns * radius)[:, 1:]
    assert float(((off + math.pi) % (2 * math.pi) - math.pi).abs().max()) < 1e-3
    steps = arms.diff(dim=1).norm(dim=-1)
    # A chord is shorter than its arc, by less than 2 % here but for the tight bend in the middle.
    assert float(steps[:, 20:].min()) > 0.98 * float(steps.max())


def test_default_spiral_leaves_one_unit_between_arms_and_half_a_unit_between_samples():
    arms = spiral_trajectory(4, (32, 32)).reshape(4, -1, 2)
    assert float(arms.diff(dim=1).norm(dim=-1).max()) == pytest.approx(0.5, abs=0.02)
    inside = grid((26, 26))
    inside = inside[inside.norm(dim=-1) < 13]
    assert float(torch.cdist(inside, arms.flatten(0, 1)).amin(1).max()) < 0.57


@pytest.mark.parametrize("order", ["uniform", "golden"])
@pytest.mark.parametrize(("size", "n_spokes", "area"), [((32, 24), 13, math.pi * 16 * 12), ((16, 16), 1, math.pi * 64),
                                                        ((8, 6, 10), 50, 4 / 3 * math.pi * 4 * 3 * 5)])  # fmt: skip
def test_radial_weights_sum_to_the_area(size, n_spokes, area, order):
    weights = radial_weights(n_spokes, size, 200, order)
    assert weights.shape == (len(radial_trajectory(n_spokes, size, 200, order)),)
    assert float(weights.min()) >= 0
    assert float(weights.sum()) == pytest.approx(area, rel=1e-3)


@pytest.mark.parametrize("order", ["uniform", "golden"])
def test_radial_weights_integrate_the_phantom(order):
    # The integral over k-space is the value of the image in the middle.
    size = (48, 48)
    trajectory, weights = (f(120, size, order=order) for f in (radial_trajectory, radial_weights))
    value = (head_phantom().kspace_at(trajectory, size) * weights).sum().real / 48
    assert float(value) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("size", [(12, 10), (9, 7), (6, 5, 4)])
def test_grid_weighs_one(size):
    torch.testing.assert_close(pipe_menon_weights(grid(size), size), torch.ones(math.prod(size)), atol=1e-4, rtol=0)


def test_iterated_weights_are_those_of_the_formula_where_spokes_are_dense():
    size = (32, 32)
    trajectory, weights = radial_trajectory(70, size), radial_weights(70, size)
    radius = (trajectory / 16).norm(dim=-1)
    inside = (radius > 0.1) & (radius < 0.9)
    ratio = (pipe_menon_weights(trajectory, size) / weights)[inside]
    assert float(ratio.mean()) == pytest.approx(1, abs=0.02)
    assert float(ratio.std()) < 0.1


def test_iterated_weights_of_a_batch_are_those_of_each():
    trajectory = scattered((10, 8), n_batch=2)
    weights = pipe_menon_weights(trajectory, (10, 8), 5)
    assert weights.shape == (2, 40)
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights[1], pipe_menon_weights(trajectory[1], (10, 8), 5))
    assert float(weights.min()) > 0


def test_all_is_replayed():
    assert_deterministic(lambda: radial_trajectory(5, (8, 8), order="golden"))
    assert_deterministic(lambda: spiral_trajectory(3, (8, 8)))
    assert_deterministic(lambda: pipe_menon_weights(scattered((8, 8)), (8, 8), 3))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: radial_trajectory(0, (8, 8)), "radial_trajectory: 'n_spokes' must be at least 1"),
        (lambda: radial_trajectory(4, (8, 8), 0), "'n_readout' must be at least 1"),
        (lambda: radial_trajectory(4, (8,)), "'size' must be 2 or 3 positive"),
        (lambda: radial_trajectory(4, (8, 8), order="random"), "'order' must be 'uniform' or 'golden', got 'random'"),
        (lambda: radial_weights(4, (8, 8), order="random"), "radial_weights: 'order' must be"),
        (lambda: spiral_trajectory(0, (8, 8)), "'n_interleaves' must be at least 1"),
        (lambda: spiral_trajectory(4, (8, 8), 0), "'n_readout' must be at least 1"),
        (lambda: spiral_trajectory(4, (8, 8), n_turns=0), "'n_turns' must be above 0"),
        (lambda: spiral_trajectory(4, (8, 8, 8)), "'size' must be 2 positive"),
        (lambda: pipe_menon_weights(torch.zeros(3, 2), (8, 8), 0), "'n_iterations' must be at least 1"),
        (lambda: pipe_menon_weights(torch.full((3, 2), 5.0), (8, 8)), "must lie within -4 to 4"),
    ],
)
def test_wrong_arguments_are_refused_in_one_sentence(call, words):
    with pytest.raises(ValueError, match=words):
        call()
