"""Exponential, logarithm, inverse, Jacobian, change of grid: laws and closed forms."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from monai.networks.blocks import DVF2DDF

from medkit.ops import (
    compose,
    displaced,
    exponential,
    folding,
    identity_points,
    invert,
    jacobian_determinant,
    logarithm,
    resize_field,
    sample,
)
from medkit.ops.diffeomorphisms import count_squarings
from tests.laws import random_like


def smooth_velocity(*size: int, amplitude: float = 3.0, seed: int = 0, dtype: torch.dtype = torch.float32):
    """A few waves, zero at the border, with a given largest component."""
    coarse = random_like(torch.empty(1, len(size), *(5,) * len(size), dtype=dtype), seed)
    mode = {2: "bicubic", 3: "trilinear"}[len(size)]
    v = F.interpolate(coarse, size, mode=mode, align_corners=True)
    taper = torch.ones((), dtype=dtype)
    for k, n in enumerate(size):
        window = torch.sin(math.pi * torch.arange(n, dtype=dtype) / (n - 1)).square()
        taper = taper * window.reshape([n if axis == k else 1 for axis in range(len(size))])
    v = v * taper
    return v * amplitude / v.abs().amax()


@pytest.mark.parametrize("n_axes", [2, 3])
def test_a_constant_velocity_moves_everything_by_itself_up_to_the_border(n_axes: int) -> None:
    v = torch.full((1, n_axes, *(8,) * n_axes), 4.0)
    torch.testing.assert_close(exponential(v), v, atol=1e-6, rtol=0)


def test_zero_velocity_is_the_identity_exactly() -> None:
    assert torch.equal(exponential(torch.zeros(1, 3, 4, 5, 6)), torch.zeros(1, 3, 4, 5, 6))


def test_linear_velocities_have_the_matrix_exponential() -> None:
    matrix = 0.3 * torch.tensor([[0.2, -1.0], [0.8, -0.3]], dtype=torch.float64)
    points = identity_points((65, 65), torch.empty(0, dtype=torch.float64)) - 32
    v = torch.einsum("ij,bjhw->bihw", matrix, points)
    expected = torch.einsum("ij,bjhw->bihw", torch.matrix_exp(matrix), points)
    got = displaced(exponential(v, n_squarings=14)) - 32
    near = (slice(None), slice(None), slice(20, 45), slice(20, 45))
    torch.testing.assert_close(got[near], expected[near], atol=2e-3, rtol=0)


def test_one_more_squaring_halves_the_error() -> None:
    v = smooth_velocity(40, 36, amplitude=6.0, dtype=torch.float64)
    exact = exponential(v, n_squarings=13)
    errors = [float((exponential(v, n_squarings=s) - exact).abs().max()) for s in (4, 5, 6, 7)]
    for coarse, fine in itertools.pairwise(errors):
        assert 1.8 < coarse / fine < 2.2


@pytest.mark.parametrize("size", [(48, 40), (32, 30, 28)])
def test_flowing_back_undoes_flowing_forth(size: tuple[int, ...]) -> None:
    v = smooth_velocity(*size, amplitude=4.0)
    left = compose(exponential(v, inverse=True), exponential(v)).norm(dim=1)
    assert left.mean() < 0.02
    assert left.max() < 0.3
    assert torch.equal(exponential(v, inverse=True), exponential(-v))


@pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp")
def test_border_padding_agrees_with_monai_where_it_is_told_so() -> None:
    v = smooth_velocity(20, 18, 16)
    torch.testing.assert_close(exponential(v, 7), DVF2DDF(num_steps=7, padding_mode="border")(v), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("size", "amplitude", "bound"),
    [
        ((48, 44), a, bound)
        for a, bound in ((0.1, 1e-3), (0.5, 1e-3), (1.0, 2e-3), (2.0, 0.01), (4.0, 0.03), (8.0, 0.03))
    ]
    + [((40, 36, 38), 2.0, 0.01), ((40, 36, 38), 6.0, 0.03)],
)
def test_by_default_few_squarings_are_as_good_as_twelve(size: tuple[int, ...], amplitude: float, bound: float) -> None:
    v = smooth_velocity(*size, amplitude=amplitude)
    exact = exponential(v, n_squarings=12)
    error = float((exponential(v) - exact).norm(dim=1).max())
    assert error < bound
    assert error < 1.2 * float((exponential(v, n_squarings=6) - exact).norm(dim=1).max())


@pytest.mark.parametrize(("largest", "n"), [(0.0, 2), (1.0, 2), (4.0, 2), (4.01, 3), (8.0, 3), (100.0, 7)])
def test_the_first_step_is_at_most_a_voxel(largest: float, n: int) -> None:
    assert count_squarings(torch.full((1, 2, 4, 4), -largest)) == n


def test_an_axis_of_one_voxel_flows_along_with_the_others() -> None:
    v = smooth_velocity(20, 18, amplitude=2.0)
    thick = torch.cat([v[:, :, None], torch.full((1, 1, 1, 20, 18), 0.7)], 1)[:, [2, 0, 1]]
    u = exponential(thick)
    torch.testing.assert_close(u[:, 1:, 0], exponential(v), atol=1e-5, rtol=0)
    torch.testing.assert_close(u[:, 0], torch.full((1, 1, 20, 18), 0.7), atol=1e-6, rtol=0)


def test_squarings_grow_with_the_velocity() -> None:
    with pytest.raises(ValueError, match="must be finite"):
        exponential(torch.full((1, 2, 4, 4), math.nan))
    v = torch.full((1, 2, 4, 4), 300.0)
    torch.testing.assert_close(exponential(v), v, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("size", "amplitude"), [((48, 44), 3.0), ((40, 36, 32), 3.0)])
def test_a_smooth_flow_folds_nowhere_and_changes_volume_as_it_should(size: tuple[int, ...], amplitude: float) -> None:
    """Catches a wrong cofactor, and a flow that is a single long step."""
    v = smooth_velocity(*size, amplitude=amplitude)
    u = exponential(v)
    found = folding(u)
    assert found.n_folded == 0
    assert 0 < found.minimum < 1 < found.maximum
    # Change of variables: the integral of f after the map, times the Jacobian, is that of f.
    centre = torch.tensor([n / 2 for n in size]).reshape(1, -1, *[1] * len(size))

    def bump(points: torch.Tensor) -> torch.Tensor:
        return torch.exp(-((points - centre) / (min(size) / 6)).square().sum(1, keepdim=True))

    after = bump(displaced(u)) * jacobian_determinant(u)
    assert abs(float(after.sum() / bump(identity_points(size)).sum()) - 1) < 1e-3
    # Twice as fast as what folds in one step: the flow still does not.
    fast = smooth_velocity(*size, amplitude=4 * amplitude)
    assert folding(fast).n_folded > 0
    assert folding(exponential(fast)).n_folded == 0


@pytest.mark.parametrize("n_axes", [2, 3])
def test_the_jacobian_of_a_linear_map_is_its_determinant(n_axes: int) -> None:
    matrix = torch.eye(n_axes) + 0.2 * random_like(torch.empty(n_axes, n_axes))
    points = identity_points((6, 7, 5)[:n_axes])
    u = torch.einsum("ij,bj...->bi...", matrix, points) - points
    torch.testing.assert_close(
        jacobian_determinant(u), torch.linalg.det(matrix).expand(1, 1, *u.shape[2:]), atol=1e-5, rtol=0
    )


def test_folds_are_counted_within_the_mask() -> None:
    u = torch.zeros(1, 2, 9, 9)
    for speed in (-2.0, -1.3, -1.0):  # a reflection of axis 0, one that shrinks, and a collapse
        u[:, 0] = speed * torch.arange(9.0).reshape(9, 1)
        assert folding(u).fraction == 1
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., :3, :3] = 1
    assert folding(u, mask).n_folded == 9
    assert math.isnan(folding(u).log_std)
    with pytest.raises(ValueError, match="at least one voxel"):
        folding(u, torch.zeros(1, 1, 9, 9))


def test_the_logarithm_starts_near_the_velocity_and_says_what_it_leaves() -> None:
    v = smooth_velocity(48, 40, amplitude=4.0)
    u = exponential(v)
    found, left = logarithm(u)
    assert (exponential(found) - u).norm(dim=1).max() < 0.6
    assert left.shape == (1,)
    assert left.item() < 0.6
    naive = compose(exponential(u, inverse=True), u).norm(dim=1).max()
    assert left.item() < 0.7 * naive
    assert (found - v).norm() < 0.1 * v.norm()


def test_the_logarithm_keeps_the_best_round_of_each_sample() -> None:
    wild = 3 * random_like(torch.empty(1, 2, 12, 12))
    both = torch.cat([torch.full((1, 2, 12, 12), 0.5), wild])
    found, left = logarithm(both)
    assert left[0] < 1e-5
    alone, left_alone = logarithm(wild)
    torch.testing.assert_close(found[1:], alone)
    assert left[1] == left_alone[0]
    torch.testing.assert_close(left[1], compose(exponential(-alone), wild).norm(dim=1).max())


def test_inverting_a_displacement() -> None:
    u = exponential(smooth_velocity(40, 44, amplitude=3.0))
    assert compose(u, invert(u)).norm(dim=1).max() < 1e-3
    assert compose(invert(u), u).norm(dim=1).max() < 0.1


@pytest.mark.parametrize("corners", [True, False])
def test_a_field_on_another_grid_moves_the_same_points(corners: bool) -> None:
    old, new = (24, 32, 40), (12, 17, 23)
    # The unit rule, seen by a point: a linear field moves the same place by the same distance on both grids.
    margin = 1 if corners else 0
    ratio = torch.tensor([(b - margin) / (a - margin) for a, b in zip(old, new, strict=True)]).reshape(1, 3, 1, 1, 1)
    v = smooth_velocity(*old, amplitude=2.0)
    coarse = resize_field(v, new, corners)
    offset = 0.0 if corners else 0.5
    places = (identity_points(new) + offset) / ratio - offset
    torch.testing.assert_close(coarse, sample(v, places) * ratio, atol=1e-4, rtol=0)
    assert resize_field(v, old, corners) is not None
    torch.testing.assert_close(resize_field(v, old, corners), v)


def test_half_a_grid_holds_a_smooth_velocity() -> None:
    v = smooth_velocity(64, 64, amplitude=4.0)
    half = resize_field(v, (32, 32))
    assert (resize_field(half, (64, 64)) - v).abs().max() < 0.2
    coarse = resize_field(exponential(half), (64, 64))
    assert (coarse - exponential(v)).norm(dim=1).max() < 0.5
    assert (coarse - exponential(v)).norm(dim=1).mean() < 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_only_the_moved_axis_changes_when_the_grid_does(axis: int) -> None:
    u = torch.zeros(1, 3, 24, 32, 40)
    u[:, axis] = 1.0
    out = resize_field(u, (12, 40, 40))
    factors = [11 / 23, 39 / 31, 1.0]
    for k in range(3):
        assert torch.allclose(out[:, k], torch.full_like(out[:, k], factors[k] if k == axis else 0.0), atol=1e-6)


def test_gradients_flow_through_the_exponential() -> None:
    # Nowhere 0: linear interpolation has kinks at the points of the grid.
    v = (0.5 * random_like(torch.empty(1, 2, 6, 7, dtype=torch.float64))).requires_grad_()
    direction = random_like(v, 3)
    (slope,) = torch.autograd.grad((exponential(v) * direction).sum(), v)
    step = 1e-8 * random_like(v, 4)
    change = ((exponential(v + step) - exponential(v - step)) * direction).sum() / 2
    torch.testing.assert_close((slope * step).sum(), change.detach(), rtol=1e-6, atol=1e-13)


def test_the_exponential_exports() -> None:
    v = smooth_velocity(8, 9, amplitude=1.0)

    class Flow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return exponential(x, 6)

    program = torch.export.export(Flow(), (v,))
    torch.testing.assert_close(program.module()(2 * v), exponential(2 * v, 6))


def test_wrong_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="exponential: 'velocity' must be real"):
        exponential(torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="'n_squarings' must be at least 0"):
        exponential(torch.zeros(1, 2, 4, 4), -1)
    with pytest.raises(ValueError, match="two voxels along each axis"):
        jacobian_determinant(torch.zeros(1, 2, 1, 4))
    with pytest.raises(ValueError, match="'size' must be 2 positive"):
        resize_field(torch.zeros(1, 2, 4, 4), (4,))
    with pytest.raises(ValueError, match="no corners to align"):
        resize_field(torch.zeros(1, 2, 1, 4), (2, 4))
    with pytest.raises(ValueError, match="'n_rounds' must be at least 1"):
        logarithm(torch.zeros(1, 2, 4, 4), 0)
    with pytest.raises(ValueError, match="'n_rounds' must be at least 1"):
        invert(torch.zeros(1, 2, 4, 4), 0)
    with pytest.raises(ValueError, match="'mask' must be"):
        folding(torch.zeros(1, 2, 4, 4), torch.ones(1, 1, 3, 3))
