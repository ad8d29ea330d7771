"""Reading by gathers: the numbers of torch's own kernel, values and slopes, wherever the points are."""

import math

import pytest
import torch
import torch.nn.functional as F

from medkit.ops import sample, trilinear, warp
from medkit.ops.trilinear import read_by_gathers, reads_by_gathers

SIZE = (7, 9, 8)


def torchs(image, points):
    unit = torch.stack([2 * points[0, k] / (image.shape[2 + k] - 1) - 1 for k in (2, 1, 0)], -1)
    return F.grid_sample(image, unit[None], padding_mode="border", align_corners=True)


def made(n_channels=1, shape=(6, 5, 4), dtype=torch.float64, spread=14.0):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(1, n_channels, *SIZE, generator=generator, dtype=dtype)
    points = spread * torch.rand(1, 3, *shape, generator=generator, dtype=dtype) - 3
    return image, points.requires_grad_()


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n_channels", [1, 2])
@pytest.mark.parametrize("piece", [7, 49152])
def test_values_and_slopes_are_those_of_torch(monkeypatch, n_threads, n_channels, piece):
    monkeypatch.setattr(trilinear, "PIECE", piece)
    image, points = made(n_channels)
    factors = torch.rand(1, n_channels, 6, 5, 4, dtype=torch.float64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        found = read_by_gathers(image, points)
        (slope,) = torch.autograd.grad((found * factors).sum(), points)
    finally:
        torch.set_num_threads(before)
    expected = torchs(image, points)
    (wanted,) = torch.autograd.grad((expected * factors).sum(), points)
    torch.testing.assert_close(found, expected, atol=1e-13, rtol=0)
    torch.testing.assert_close(slope, wanted, atol=1e-12, rtol=0)


def test_the_slope_is_that_of_the_values():
    image, points = made(shape=(3, 3, 3))
    assert torch.autograd.gradcheck(lambda p: read_by_gathers(image, p), points, eps=1e-7, atol=1e-6)


def test_on_the_grid_values_are_exact_and_the_border_has_no_slope_across():
    image, _ = made(dtype=torch.float32)
    points = torch.stack(torch.meshgrid(*[torch.arange(float(n)) for n in SIZE], indexing="ij"))[None].requires_grad_()
    found = read_by_gathers(image, points)
    assert torch.equal(found.detach(), image)
    (slope,) = torch.autograd.grad(found.sum(), points)
    assert not slope[0, 0, [0, -1]].any()
    assert not slope[0, 1, :, [0, -1]].any()
    assert not slope[0, 2, :, :, [0, -1]].any()
    torch.testing.assert_close(slope[0, 0, 1:-1], (image[0, 0, 2:] - image[0, 0, 1:-1]))


def test_what_is_not_a_number_stays_so_and_harms_no_other_point():
    image, points = made()
    broken = points.detach().clone()
    broken[0, 1, 2, 3, 1] = math.nan
    broken[0, 0, 0, 0, 0] = math.inf
    found = read_by_gathers(image, broken.requires_grad_())
    assert found[0, 0, 2, 3, 1].isnan()
    assert found.isnan().sum() == 1
    nearest = broken.detach().clone()
    nearest[0, 0, 0, 0, 0] = SIZE[0] - 1
    torch.testing.assert_close(found[0, 0, 0, 0, 0], read_by_gathers(image, nearest.requires_grad_())[0, 0, 0, 0, 0])


def test_it_serves_where_it_can_and_nowhere_else():
    image, points = made()
    assert reads_by_gathers(image, points, "linear", "border")
    assert not reads_by_gathers(image, points, "nearest", "border")
    assert not reads_by_gathers(image, points, "linear", "zeros")
    assert not reads_by_gathers(image, points.detach(), "linear", "border")
    assert not reads_by_gathers(image.clone().requires_grad_(), points, "linear", "border")
    assert not reads_by_gathers(image[..., :1], points, "linear", "border")
    assert not reads_by_gathers(image.expand(2, -1, -1, -1, -1), points, "linear", "border")
    with torch.no_grad():
        assert not reads_by_gathers(image, points, "linear", "border")


def test_it_is_what_warping_differentiates(monkeypatch):
    image, points = made(shape=SIZE, dtype=torch.float32, spread=1.0)
    called = []
    monkeypatch.setattr("medkit.ops.warping.read_by_gathers", lambda *a: called.append(1) or read_by_gathers(*a))
    warp(image, points).sum().backward()
    assert called
    with torch.no_grad():
        plain = sample(image, points)
    torch.testing.assert_close(sample(image, points).detach(), plain, atol=1e-6, rtol=0)
