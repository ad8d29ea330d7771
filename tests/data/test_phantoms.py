"""Phantoms: image and k-space of one formula agree, and obey the theorems of the Fourier transform."""

import math

import pytest
import torch

from medkit.data import Ellipsoid, EllipsoidPhantom, head_phantom
from medkit.ops import centered_fft, kspace_crop


@pytest.mark.parametrize(("dims", "fine", "coarse"), [(2, 1024, 64), (3, 120, 20)])
def test_kspace_is_the_limit_of_the_sampled_image(dims, fine, coarse):
    phantom = head_phantom(dims)
    sampled = kspace_crop(phantom.image((fine,) * dims).to(torch.complex64), (coarse,) * dims)
    exact = phantom.kspace((coarse,) * dims)
    error = torch.linalg.vector_norm(centered_fft(sampled, dims) - exact) / torch.linalg.vector_norm(exact)
    assert error < 0.02


def test_turned_and_moved_ellipse_agrees_in_both_spaces():
    phantom = EllipsoidPhantom([Ellipsoid((0.2, -0.3), (0.5, 0.15), 1.5 + 0.5j, 0.6)])
    sampled = kspace_crop(phantom.image((768, 1024)), (48, 64))
    error = torch.linalg.vector_norm(centered_fft(sampled) - phantom.kspace((48, 64)))
    assert error / torch.linalg.vector_norm(phantom.kspace((48, 64))) < 0.01


@pytest.mark.parametrize("size", [(12, 9), (6, 5, 4)])
def test_any_frequency_gets_what_the_grid_gets(size):
    phantom = head_phantom(len(size))
    index = torch.cartesian_prod(*[torch.arange(n) - n // 2 for n in size])
    at_points = phantom.kspace_at(index.reshape(*size, len(size)), size)
    torch.testing.assert_close(at_points, phantom.kspace(size))
    # An image of twice the size has twice the band, in the same cycles per field of view.
    wide = phantom.kspace_at(index, [2 * n for n in size]) / math.sqrt(2 ** len(size))
    torch.testing.assert_close(wide, at_points.flatten())


@pytest.mark.parametrize(("half_axes", "volume"), [((0.5, 0.25), math.pi / 8), ((0.5, 0.25, 0.4), math.pi / 15)])
def test_frequency_zero_is_the_integral(half_axes, volume):
    n = 8
    dims = len(half_axes)
    kspace = EllipsoidPhantom([Ellipsoid((0.1,) * dims, half_axes, 2.0)]).kspace((n,) * dims)
    expected = 2.0 * volume * (n / 2) ** dims / math.sqrt(n**dims)
    assert kspace[(n // 2,) * dims].real == pytest.approx(expected, rel=1e-5)


def test_moving_an_ellipse_only_turns_the_phase():
    here = EllipsoidPhantom([Ellipsoid((0.0, 0.0), (0.3, 0.2))]).kspace((17, 16))
    there = EllipsoidPhantom([Ellipsoid((0.25, -0.4), (0.3, 0.2))]).kspace((17, 16))
    torch.testing.assert_close(here.abs(), there.abs(), atol=1e-5, rtol=1e-4)
    assert not torch.allclose(here, there, atol=1e-3)


def test_middle_slice_of_the_head_volume_is_the_head():
    volume = head_phantom(3).image((32, 30, 9))
    torch.testing.assert_close(volume[:, :, 4], head_phantom(2).image((32, 30)))
    assert volume.min() > -1e-6
    assert volume.max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: Ellipsoid((0.0, 0.0), (0.1,)), "must both have 2 or 3"),
        (lambda: Ellipsoid((0.0, 0.0), (0.1, 0.0)), "must be positive"),
        (lambda: EllipsoidPhantom([]), "non-empty"),
        (lambda: EllipsoidPhantom([Ellipsoid((0.0,) * 2, (1.0,) * 2), Ellipsoid((0.0,) * 3, (1.0,) * 3)]), "all 2-D"),
        (lambda: head_phantom().image((4, 4, 4)), "2 positive numbers"),
        (lambda: head_phantom().kspace_at(torch.zeros(5, 2), (4, 4, 4)), "2 positive numbers"),
        (lambda: head_phantom().kspace_at(torch.zeros(5, 3), (4, 4)), "'trajectory' must be real"),
        (lambda: head_phantom(4), "must be 2 or 3"),
    ],
)
def test_wrong_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
