"""GuidedImageRefiner: the input plus what the network finds beside the references, sampled k-space weighed in."""

import pytest
import torch
from torch import nn

from medkit.mri import GuidedImageRefiner, PackedMultiContrast
from tests.laws import random_like


def refiner(ref_channels=1):
    torch.manual_seed(0)
    return GuidedImageRefiner(nn.Conv2d(2 + ref_channels, 2, 3, padding=1), ref_channels)


def given(ref_channels=1, size=(8, 6)):
    x = random_like(torch.empty(2, 2, *size))
    return x, random_like(torch.empty(2, ref_channels, *size), seed=1), torch.zeros(2, 1, *size)


@pytest.mark.parametrize("ref_channels", [1, 2])
def test_nothing_sampled_leaves_the_network_alone(ref_channels):
    _, y, mask = given(ref_channels)
    x = torch.zeros(2, 2, 8, 6)  # what nothing sampled gives
    net = refiner(ref_channels)
    restored, reference, unique, common, *others = net.decompose(x, y, mask)
    missing = net.network(torch.cat([x, y], 1))
    torch.testing.assert_close(restored, x + missing)
    torch.testing.assert_close(unique, missing)
    assert torch.equal(reference, y)
    assert not common.any()
    assert not any(other.any() for other in others)


def test_sampled_kspace_pulls_the_result_towards_it():
    x, y, mask = given()
    restored, _, missing, *_ = refiner().decompose(x, y, torch.ones_like(mask))
    assert 0 < (restored - x).norm() < 0.9 * missing.norm()


def test_the_reference_counts():
    x, y, mask = given()
    y.requires_grad_()
    refiner().decompose(x, y, mask)[0].square().sum().backward()
    assert y.grad.abs().min() > 0


@pytest.mark.parametrize("n_coils", [0, 2])
def test_packed_form_scripts(n_coils):
    image = random_like(torch.empty(1, 4 + 2 * n_coils, 8, 6))
    image[:, 2] = (image[:, 2] > 0).float()
    network = PackedMultiContrast(refiner())
    assert network(image).shape == (1, 9, 8, 6)
    torch.testing.assert_close(torch.jit.script(network)(image), network(image))


@pytest.mark.parametrize("network", [nn.Conv2d(3, 1, 1), nn.Conv2d(3, 2, 2)])
def test_network_that_changes_the_shape_is_refused(network):
    with pytest.raises(ValueError, match=r"GuidedImageRefiner: 'network' must give the shape \[2, 2, 8, 6\]"):
        GuidedImageRefiner(network).decompose(*given())


@pytest.mark.parametrize(("options", "words"), [({"ref_channels": 0}, "at least 1"), ({"fft_backend": "x"}, "matmul")])
def test_arguments_out_of_range_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        GuidedImageRefiner(nn.Identity(), **options)
