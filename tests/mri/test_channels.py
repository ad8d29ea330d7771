"""Packing of complex data into real channels: round trips, order of the channels, shift of the mask, errors."""

import pytest
import torch
from torch import nn

from medkit.data import keys
from medkit.mri import (
    PackedReconstructor,
    channels_to_complex,
    channels_to_magnitude,
    complex_to_channels,
    pack_reconstruction,
    pack_target,
    unpack_reconstruction,
)
from medkit.mri.channel_consistency import normal_channels
from medkit.mri.physics import sense_normal


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(("shape", "dim"), [((2, 3, 5, 4), 1), ((3, 5, 4, 6), 0), ((1, 1, 1, 1), 1)])
def test_channels_and_back(shape, dim):
    x = noise(*shape)
    channels = complex_to_channels(x, dim)
    assert channels.shape[dim] == 2 * shape[dim]
    assert torch.equal(channels.select(dim, 0), x.select(dim, 0).real)
    assert torch.equal(channels.select(dim, 1), x.select(dim, 0).imag)
    assert torch.equal(channels_to_complex(channels, dim), x)


def test_half_precision_is_widened():
    assert channels_to_complex(torch.ones(1, 2, 2, 2, dtype=torch.float16)).dtype == torch.complex64


def test_magnitude():
    x = noise(2, 1, 5, 4)
    assert torch.allclose(channels_to_magnitude(complex_to_channels(x)), x.abs())
    zero = torch.zeros(1, 2, 1, 1, requires_grad=True)
    channels_to_magnitude(zero, epsilon=1e-12).sum().backward()
    assert torch.isfinite(zero.grad).all()


@pytest.mark.parametrize("size", [(6, 8), (5, 7), (6, 5, 3)])
@pytest.mark.parametrize("n_coils", [0, 1, 3])
@pytest.mark.parametrize("dim", [0, 1])
def test_pack_and_unpack(size, n_coils, dim):
    lead = (2,) * dim
    x, maps = noise(*lead, 1, *size), noise(*lead, n_coils, *size) if n_coils else None
    mask = torch.rand(*lead, 1, 1, size[1], *([1] * (len(size) - 2))) > 0.5
    packed = pack_reconstruction(x, mask, maps, channel_dim=dim)
    assert packed.dtype == torch.float32
    assert packed.shape == (*lead, 3 + 2 * n_coils, *size)
    x2, mask2, maps2 = unpack_reconstruction(packed, channel_dim=dim)
    assert torch.equal(x2, x)
    assert torch.equal(mask2, mask.expand_as(x))
    assert (maps2 is None) if maps is None else torch.equal(maps2, maps)


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
@pytest.mark.parametrize("n_coils", [0, 3])
def test_packed_mask_makes_the_plain_transform_measure_the_same(size, n_coils):
    # The heart of the packing: with the shifted mask, A^H A by un-centred transforms is that of centred ones.
    x, maps = noise(2, 1, *size), noise(2, n_coils, *size) if n_coils else None
    mask = torch.rand(2, 1, *size) > 0.5
    packed = pack_reconstruction(x, mask, maps)
    plain = normal_channels(packed[:, :2], packed[:, 2:3], packed[:, 3:] if n_coils else None, False, "fft")
    assert torch.allclose(channels_to_complex(plain), sense_normal(x, mask, maps), atol=1e-5)


def test_target():
    x, x0 = noise(1, 4, 4), noise(1, 4, 4) + 1
    target = pack_target(x, x0, channel_dim=0)
    assert torch.equal(channels_to_complex(target, 0), torch.cat([x, x0]))


class _Probe(nn.Module):
    """Returns what it was given, so that the order of the channels shows."""

    def __init__(self, in_channels: int = 2):
        super().__init__()
        self.in_channels = in_channels

    def forward(self, zero_filled, mask, sens_maps):
        out = zero_filled + 10 * mask
        return out if sens_maps is None else out + 100 * sens_maps[:, -1:]


@pytest.mark.parametrize("n_coils", [0, 2])
def test_packed_reconstructor_hands_over_the_right_channels(n_coils):
    image = torch.arange(3.0 + 2 * n_coils)[None, :, None, None].expand(1, -1, 4, 4)
    pred = PackedReconstructor(_Probe())(image)
    extra = 100.0 * (2 + 2 * n_coils) if n_coils else 0.0
    assert pred[0, :, 0, 0].tolist() == [20.0 + extra, 21.0 + extra]


def test_packed_reconstructor_of_real_images_returns_two_channels():
    pred = PackedReconstructor(_Probe(in_channels=1))(torch.ones(1, 3, 4, 4))
    assert pred[0, :, 0, 0].tolist() == [11.0, 0.0]


def test_keys_name_what_is_packed():
    assert keys.IMAGE == "image"
    assert keys.LABEL == "label"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: complex_to_channels(torch.ones(1, 2, 4, 4)), "complex_to_channels: 'x' must be complex"),
        (lambda: channels_to_complex(torch.ones(1, 3, 4, 4)), "even number of channels"),
        (lambda: channels_to_magnitude(torch.ones(1, 3, 4, 4)), "2 channels"),
        (lambda: pack_reconstruction(torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4)), "'zero_filled' must be complex"),
        (lambda: pack_reconstruction(noise(1, 2, 4, 4), torch.ones(1, 1, 4, 4)), "must have 1 channel"),
        (lambda: pack_reconstruction(noise(1, 1, 4, 4), torch.ones(1, 1, 3, 4)), "'mask' must be real and broadcast"),
        (lambda: pack_reconstruction(noise(1, 1, 4, 4), torch.ones(4, 4)), "'mask' must be real and broadcast"),
        (
            lambda: pack_reconstruction(noise(1, 1, 4, 4), torch.ones(1, 1, 4, 4), noise(1, 2, 4, 5)),
            "'sens_maps' must be of the size",
        ),
        (lambda: unpack_reconstruction(torch.ones(1, 4, 4, 4)), "3 \\+ 2 coil channels"),
        (lambda: pack_target(noise(1, 1, 4, 4), noise(1, 1, 4, 5)), "of one shape"),
        (lambda: PackedReconstructor(_Probe())(torch.ones(1, 4, 4, 4)), "3 \\+ 2 coil channels, got 4"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
