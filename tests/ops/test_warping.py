"""Sampling and its adjoint: laws, the convention of MONAI's Warp, borders, axes, gradients, errors."""

import pytest
import torch
from monai.networks.blocks import Warp

from medkit.ops import compose, displaced, identity_points, sample, splat, warp, warp_adjoint
from tests.laws import assert_adjoint, assert_deterministic, assert_linear, random_like

SIZES = {2: (9, 12), 3: (7, 6, 8)}
TARGETS = {2: (5, 4), 3: (4, 3, 5)}


def field(*size: int, amplitude: float = 2.0, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return amplitude * random_like(torch.empty(1, len(size), *size, dtype=dtype), seed)


@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_splat_is_the_adjoint_of_sample_also_beyond_the_border(n_axes: int, padding: str) -> None:
    size, target = SIZES[n_axes], TARGETS[n_axes]
    points = 6.0 * torch.rand(2, n_axes, *target, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1
    assert ((points < 0) | (points > torch.tensor(size).reshape(1, -1, *[1] * n_axes) - 1)).any()
    assert_adjoint(
        lambda image: sample(image, points, padding=padding),
        lambda values: splat(values, points, size, padding=padding),
        torch.empty(2, 3, *size, dtype=torch.float64),
        torch.empty(2, 3, *target, dtype=torch.float64),
        tolerance=1e-12,
    )


@pytest.mark.parametrize("n_axes", [2, 3])
def test_warp_adjoint_is_the_adjoint_of_warp_and_both_are_linear(n_axes: int) -> None:
    u = field(*SIZES[n_axes], dtype=torch.float64)
    image = torch.empty(1, 2, *SIZES[n_axes], dtype=torch.float64)
    assert_adjoint(lambda x: warp(x, u), lambda y: warp_adjoint(y, u), image, image, tolerance=1e-12)
    assert_linear(lambda x: warp(x, u), image, 1e-12)
    assert_linear(lambda y: warp_adjoint(y, u), image, 1e-12)


@pytest.mark.filterwarnings("ignore:monai.networks.blocks.Warp")
@pytest.mark.parametrize("n_axes", [2, 3])
@pytest.mark.parametrize("padding", ["border", "zeros"])
def test_warp_agrees_with_monai(n_axes: int, padding: str) -> None:
    image, u = random_like(torch.empty(2, 2, *SIZES[n_axes])), field(*SIZES[n_axes]).expand(2, -1, *SIZES[n_axes])
    theirs = Warp(mode="bilinear", padding_mode=padding)(image, u)
    torch.testing.assert_close(warp(image, u, padding=padding), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channel_k_moves_along_axis_k_of_an_anisotropic_grid(axis: int) -> None:
    size = (6, 9, 5)
    image = identity_points(size)
    u = torch.zeros(1, 3, *size)
    u[:, axis] = 1.5
    expected = image.clone()
    expected[:, axis] = (image[:, axis] + 1.5).clamp(max=size[axis] - 1)
    torch.testing.assert_close(warp(image, u), expected, atol=1e-5, rtol=0)


def test_no_displacement_changes_nothing() -> None:
    for size in SIZES.values():
        image = random_like(torch.empty(1, 1, *size))
        torch.testing.assert_close(warp(image, torch.zeros(1, len(size), *size)), image, atol=5e-6, rtol=0)


def test_nearest_keeps_labels_and_reads_the_right_ones() -> None:
    labels = torch.arange(20.0).reshape(1, 1, 4, 5)
    u = torch.zeros(1, 2, 4, 5)
    u[:, 1] = 0.8
    assert warp(labels, u, mode="nearest")[0, 0, 1].tolist() == [6, 7, 8, 9, 9]


def test_an_axis_of_one_voxel_is_read_everywhere_alike() -> None:
    image = torch.arange(5.0).reshape(1, 1, 1, 5)
    u = torch.ones(1, 2, 1, 5)
    assert warp(image, u)[0, 0, 0].tolist() == [1, 2, 3, 4, 4]


def test_composition_is_associative_where_fields_are_linear_and_orders_as_documented() -> None:
    points = identity_points((16, 12), torch.empty(0, dtype=torch.float64))
    centre = torch.tensor([7.5, 5.5], dtype=torch.float64).reshape(1, 2, 1, 1)
    matrix = torch.tensor([[0.9, 0.1], [-0.2, 0.8]], dtype=torch.float64)
    shrink = torch.einsum("ij,bjhw->bihw", matrix, points - centre) + centre - points
    shift = torch.zeros_like(shrink)
    shift[:, 0] = 0.25
    # shift after shrink: M (x - c) + c + 0.25
    after = compose(shift, shrink)
    torch.testing.assert_close(displaced(after), displaced(shrink) + shift, atol=1e-12, rtol=0)
    image = points.prod(1, keepdim=True)
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))
    twice = warp(points, compose(shrink, shift))
    torch.testing.assert_close(warp(warp(points, shrink), shift)[inside], twice[inside], atol=1e-12, rtol=0)
    assert not torch.allclose(warp(image, compose(shrink, shift)), warp(image, after), atol=1e-2)


@pytest.mark.parametrize("n_axes", [2, 3])
def test_gradients_of_sample_and_splat(n_axes: int) -> None:
    size = (4, 5, 3)[:n_axes]
    generator = torch.Generator().manual_seed(1)
    # Away from grid points, where linear interpolation has kinks.
    points = 0.3 + 0.4 * torch.rand(1, n_axes, *(2,) * n_axes, generator=generator, dtype=torch.float64)
    points = (points + torch.randint(0, 2, points.shape, generator=generator)).requires_grad_()
    image = torch.randn(1, 2, *size, generator=generator, dtype=torch.float64, requires_grad=True)
    values = torch.randn(1, 2, *(2,) * n_axes, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sample, (image, points))
    assert torch.autograd.gradcheck(lambda v, p: splat(v, p, size), (values, points))


def test_batches_of_one_are_shared_and_halves_become_floats() -> None:
    image, u = random_like(torch.empty(1, 1, 6, 6)), field(6, 6)
    many = torch.cat([u, -u])
    out = warp(image, many)
    torch.testing.assert_close(out[1:], warp(image, -u))
    assert warp(image.half(), u.half()).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(warp(image, many), out)
    assert splat(out, displaced(u), (6, 6)).shape == (2, 1, 6, 6)


def test_repeats_are_equal_bit_for_bit() -> None:
    u = field(12, 11, 10)
    image = random_like(torch.empty(1, 1, 12, 11, 10))
    assert_deterministic(lambda: warp(image, u))
    assert_deterministic(lambda: warp_adjoint(image, u))


def test_threads_change_no_bit() -> None:
    image = random_like(torch.empty(1, 2, 5, 7, 8))
    u = field(6, 7, 8).requires_grad_()
    weight = random_like(torch.empty(1, 2, 6, 7, 8), 1)
    n_threads = torch.get_num_threads()
    found = []
    try:
        for n in (1, 2, 4):
            torch.set_num_threads(n)
            out = warp(image, u)
            found.append((out.detach(), torch.autograd.grad((out * weight).sum(), u)[0]))
    finally:
        torch.set_num_threads(n_threads)
    assert found[0][0].shape == (1, 2, 6, 7, 8)
    for out, slope in found[1:]:
        assert torch.equal(out, found[0][0])
        assert torch.equal(slope, found[0][1])


def test_mass_is_kept_by_pushing() -> None:
    values = torch.rand(1, 1, 7, 6, 8, generator=torch.Generator().manual_seed(0))
    assert torch.isclose(warp_adjoint(values, field(7, 6, 8)).sum(), values.sum(), rtol=1e-5)


def test_wrong_input_is_refused_in_a_sentence() -> None:
    image, u = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match=r"warp: 'displacement' must be real \(B, 2, H, W\)"):
        warp(image, torch.zeros(1, 3, 4, 4))
    with pytest.raises(ValueError, match="'image' must be real"):
        warp(torch.zeros(1, 4, 4), u)
    with pytest.raises(ValueError, match="one batch size"):
        warp(image.expand(2, 1, 4, 4), u.expand(3, 2, 4, 4))
    with pytest.raises(ValueError, match="'mode' must be one of linear, nearest, got 'cubic'"):
        warp(image, u, mode="cubic")
    with pytest.raises(ValueError, match="'padding' must be one of"):
        sample(image, u, padding="reflect")
    with pytest.raises(ValueError, match="must be as many"):
        splat(torch.zeros(1, 1, 3, 3), u, (4, 4))
    with pytest.raises(ValueError, match="'size' must be 2 positive"):
        splat(image, u, (4, 4, 4))
    with pytest.raises(ValueError, match="on one grid"):
        compose(u, torch.zeros(1, 2, 5, 4))
    with pytest.raises(ValueError, match="'size' must be 2 or 3"):
        identity_points((4,))
