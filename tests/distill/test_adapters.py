"""Adapters lead from the student's shape to the teacher's, by the rules that they state."""

import pytest
import torch
from torch import nn

from medkit.distill import ConvRegression3, ResizingAdapter, build_adapter
from medkit.distill.adapters import resized

SHAPES = [
    ((2, 3), (2, 7)),
    ((2, 3, 8, 8), (2, 7, 4, 4)),
    ((2, 3, 5, 4), (2, 7, 9, 9)),
    ((2, 3, 6, 4), (2, 7, 3, 9)),
    ((2, 3, 8, 6, 4), (2, 7, 4, 3, 2)),
    ((2, 3, 3, 3, 2), (2, 7, 5, 6, 2)),
    ((2, 3, 4, 4, 4), (2, 7, 1, 1, 1)),
]


@pytest.mark.parametrize(("student", "teacher"), SHAPES)
@pytest.mark.parametrize("norm", ["auto", "batch", "instance", None])
def test_shape_and_gradient(student, teacher, norm):
    torch.manual_seed(0)
    adapter = build_adapter("conv1", student, teacher, norm=norm)
    x = torch.randn(student, requires_grad=True)
    out = adapter(x)
    assert out.shape == teacher
    (out * torch.randn(teacher)).sum().backward()
    assert float(x.grad.abs().max()) > 0


@pytest.mark.parametrize(
    ("own", "other", "layer", "kernel"),
    [
        ((8, 8), (4, 4), nn.Conv2d, (3, 3)),
        ((4, 4), (8, 8), nn.ConvTranspose2d, (4, 4)),
        ((8, 8), (8, 8), nn.Conv2d, (1, 1)),
        ((9, 7), (6, 6), nn.Conv2d, (4, 2)),
    ],
)
def test_rules_of_convreg3(own, other, layer, kernel):
    adapter = build_adapter("convreg3", (2, 3, *own), (2, 5, *other))
    first = adapter.layers[0]
    assert type(first) is layer
    assert first.kernel_size == kernel
    assert [type(m) for m in adapter.layers[1:]] == [nn.BatchNorm2d, nn.ReLU] + 2 * [
        nn.Conv2d,
        nn.BatchNorm2d,
        nn.ReLU,
    ]
    assert adapter(torch.rand(2, 3, *own)).shape == (2, 5, *other)


def test_resizing_keeps_constants_and_means():
    assert torch.allclose(resized(torch.full((1, 1, 5, 4), 3.0), (9, 2)), torch.tensor(3.0))
    x = torch.rand(1, 2, 8, 6, 4)
    assert torch.allclose(resized(x, (4, 3, 2)).mean((2, 3, 4)), x.mean((2, 3, 4)), atol=1e-6)
    assert resized(x, (8, 6, 4)) is x


def test_a_student_that_is_one_convolution_away_is_learned_exactly():
    torch.manual_seed(0)
    adapter = build_adapter("conv1", (1, 3, 4, 4), (1, 2, 2, 2), norm=None, use_activation=False)
    x = torch.rand(5, 3, 4, 4)
    target = torch.einsum("oc,bchw->bohw", torch.randn(2, 3), nn.functional.avg_pool2d(x, 2)) + 1
    with torch.no_grad():
        rows = nn.functional.avg_pool2d(x, 2).movedim(1, -1).reshape(-1, 3)
        solved = torch.linalg.lstsq(
            torch.cat([rows, torch.ones(len(rows), 1)], 1), target.movedim(1, -1).reshape(-1, 2)
        )
        adapter.layers[0].weight.copy_(solved.solution[:3].T[:, :, None, None])
        adapter.layers[0].bias.copy_(solved.solution[3])
    assert torch.allclose(adapter(x), target, atol=1e-4)


def test_identity_wants_equal_shapes():
    x = torch.rand(2, 3, 4, 4)
    assert build_adapter("none", (1, 3, 4, 4), (7, 3, 4, 4))(x) is x
    with pytest.raises(ValueError, match="'none' wants equal shapes"):
        build_adapter("none", (1, 3, 4, 4), (1, 4, 4, 4))


def test_errors():
    with pytest.raises(ValueError, match="'kind' must be one of"):
        build_adapter("conv3", (1, 3, 4, 4), (1, 3, 4, 4))
    with pytest.raises(ValueError, match="shapes must both be"):
        build_adapter("conv1", (1, 3, 4, 4), (1, 3))
    with pytest.raises(ValueError, match="no rule leads from the grid"):
        ConvRegression3((1, 3, 4, 4), (1, 3, 7, 7))
    with pytest.raises(ValueError, match="use 'conv1'"):
        ConvRegression3((1, 3, 4, 4, 4), (1, 3, 4, 4, 4))
    with pytest.raises(ValueError, match="'norm' must be"):
        ResizingAdapter(2, 3, 4, (4, 4), norm="layer")
    with pytest.raises(ValueError, match="'spatial_dims'"):
        ResizingAdapter(2, 3, 4, (4,))
