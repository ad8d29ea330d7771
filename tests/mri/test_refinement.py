"""ImageRefiner: the input plus what the network finds missing, nothing else, in every form that it is used in."""

import pytest
import torch
from torch import nn

from medkit.mri import ImageRefiner, PackedReconstructor
from tests.laws import random_like


def convolution():
    torch.manual_seed(0)
    return nn.Conv2d(2, 2, 3, padding=1)


def test_adds_the_network_to_its_input():
    x, mask = random_like(torch.empty(2, 2, 9, 7)), torch.ones(2, 1, 9, 7)
    network = convolution()
    given = x.clone()
    torch.testing.assert_close(ImageRefiner(network)(x, mask), x + network(x))
    assert torch.equal(x, given)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    assert torch.equal(ImageRefiner(network)(x, mask), x)


def test_sees_neither_mask_nor_coils():
    packed = random_like(torch.empty(1, 7, 8, 8))
    other = torch.cat([packed[:, :2], random_like(packed[:, 2:], seed=1)], 1)
    network = PackedReconstructor(ImageRefiner(convolution()))
    assert torch.equal(network(packed), network(other))
    assert torch.equal(network(packed), network(packed[:, :3]))


def test_gradient_passes_around_the_network_and_through_it():
    x = random_like(torch.empty(1, 2, 6, 6)).requires_grad_()
    network = nn.Conv2d(2, 2, 1, bias=False)
    ImageRefiner(network)(x, x[:, :1]).sum().backward()
    expected = 1 + network.weight.detach().sum((0, 2, 3))
    torch.testing.assert_close(x.grad, expected[None, :, None, None].expand(x.shape))
    torch.testing.assert_close(network.weight.grad[:, :, 0, 0], x.detach().sum((0, 2, 3)).expand(2, 2))


def test_scripted_and_traced_are_the_same():
    x = random_like(torch.empty(1, 3, 8, 6))
    refiner = ImageRefiner(convolution())
    network = PackedReconstructor(refiner)
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))
    given = (x[:, :2], x[:, 2:])
    torch.testing.assert_close(torch.jit.trace(refiner, given)(*given), refiner(*given))


@pytest.mark.parametrize("network", [nn.Conv2d(2, 1, 1), nn.Conv2d(2, 2, 8), nn.Conv2d(2, 2, 2)])
def test_network_that_changes_the_shape_is_refused(network):
    # The first two would be broadcast in silence.
    x = torch.zeros(1, 2, 8, 8)
    with pytest.raises(ValueError, match=r"ImageRefiner: 'network' must keep the shape \[1, 2, 8, 8\]"):
        ImageRefiner(network)(x, x[:, :1])
