"""Twice the voxels by slices: the values and derivatives of torch's interpolation, and its adjoint."""

import pytest
import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from medkit.ops import resize_field
from medkit.ops.doubling import doubled
from tests.laws import assert_adjoint, random_like

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@pytest.mark.parametrize("size", [(5, 8), (1, 4), (6, 5, 7), (2, 1, 3), (1, 1, 1)])
def test_values_and_derivatives_are_those_of_interpolation(size: tuple[int, ...]) -> None:
    x = random_like(torch.empty(2, 3, *size)).requires_grad_()
    expected = F.interpolate(x, scale_factor=2, mode=MODES[len(size)], align_corners=False)
    torch.testing.assert_close(doubled(x), expected, atol=1e-6, rtol=0)
    weight = random_like(expected, 1)
    (slope,) = torch.autograd.grad((doubled(x) * weight).sum(), x)
    (wanted,) = torch.autograd.grad((expected * weight).sum(), x)
    torch.testing.assert_close(slope, wanted, atol=1e-5, rtol=0)


def test_the_derivative_is_the_adjoint_and_has_derivatives_itself() -> None:
    x = torch.empty(1, 2, 3, 4, 5, dtype=torch.float64)
    y = torch.empty(1, 2, 6, 8, 10, dtype=torch.float64)

    def adjoint(values: torch.Tensor) -> torch.Tensor:
        free = torch.zeros_like(x).requires_grad_()
        return torch.autograd.grad(doubled(free), free, values)[0]

    assert_adjoint(doubled, adjoint, x, y, tolerance=1e-12)
    small = random_like(torch.empty(1, 2, 2, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(doubled, small)
    assert torch.autograd.gradgradcheck(lambda z: doubled(z).square(), small)


@pytest.mark.parametrize("new", [(12, 16, 10), (11, 16, 10), (12, 8, 10)])
def test_a_field_on_twice_the_grid_is_that_of_the_general_way(new: tuple[int, ...]) -> None:
    old = (6, 8, 5)
    field = random_like(torch.empty(1, 3, *old))
    factors = torch.tensor([b / a for a, b in zip(old, new, strict=True)]).reshape(1, 3, 1, 1, 1)
    expected = F.interpolate(field, new, mode="trilinear", align_corners=False) * factors
    torch.testing.assert_close(resize_field(field, new, corners=False), expected, atol=2e-6, rtol=0)


def test_it_can_be_exported() -> None:
    class Finer(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return resize_field(x, (8, 10), corners=False)

    x = random_like(torch.empty(1, 2, 4, 5))
    program = torch.export.export(Finer(), (x,))
    torch.testing.assert_close(program.module()(2 * x), resize_field(2 * x, (8, 10), corners=False))


def test_tensors_of_monai_are_doubled_too():
    x = torch.rand(1, 2, 3, 4, requires_grad=True)
    found = doubled(MetaTensor(x))
    assert torch.equal(found, doubled(x))
    found.sum().backward()
    assert x.grad is not None
