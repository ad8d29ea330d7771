"""The layers of CLGNet by their laws: transforms, reach, equivariance, energy, numbers of parameters."""

import pytest
import torch
from torch.nn.functional import conv2d

from medkit.mri import CLGNet, SpatialFourierLayer, SpatialFourierResidualBlock
from medkit.mri.clgnet.spectrum import fourier_matrices, from_spectrum, to_spectrum
from tests.laws import assert_adjoint
from tests.mri.small_clgnet import MODES, SIZES, relative, scaled_up


@pytest.mark.parametrize("size", SIZES)
def test_fourier_branch_of_identities_is_the_identity(size, monkeypatch):
    layer = SpatialFourierLayer(4)
    layer.fourier.first.data = layer.fourier.second.data = torch.eye(8)
    monkeypatch.setattr(layer.fourier, "activate", lambda spectrum: spectrum)
    z = torch.randn(2, 4, *size)
    assert torch.allclose(layer.far(z, torch.eye(4)), z, atol=1e-5)
    assert torch.allclose(layer.far(z, torch.eye(4), fourier_matrices(*size, z)), z, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scale", [False, True])
def test_layer_equals_its_formula(mode, size, scale):
    # The layer multiplies the fusing convolution into its branches; here the formula is followed step by step.
    layer = scaled_up(SpatialFourierLayer(3, mode))
    z, gamma = torch.randn(2, 3, *size), torch.randn(3)
    near = conv2d(z, layer.near_weight, layer.near_bias, padding=1)
    spectrum = torch.fft.rfft2(z, norm="ortho")
    if mode == "crelu":
        stacked = torch.view_as_real(spectrum).movedim(4, 2).flatten(1, 2)
        stacked = torch.einsum("ij,bjhw->bihw", layer.fourier.first, stacked)
        stacked = torch.where(stacked > 0, stacked, 0.1 * stacked)
        stacked = torch.einsum("ij,bjhw->bihw", layer.fourier.second, stacked)
        spectrum = torch.complex(stacked[:, 0::2], stacked[:, 1::2])
    else:
        first, second = torch.complex(*layer.fourier.first), torch.complex(*layer.fourier.second)
        spectrum = torch.einsum("ij,bjhw->bihw", first, spectrum)
        gate = (spectrum.abs() - layer.fourier.threshold.abs()[:, None, None]).relu()
        spectrum = torch.polar(gate, spectrum.angle())
        spectrum = torch.einsum("ij,bjhw->bihw", second, spectrum)
    far = torch.fft.irfft2(spectrum, s=size, norm="ortho")
    fused = conv2d(torch.cat([near, far], 1), layer.fuse_weight[:, :, None, None], layer.fuse_bias)
    if scale:
        fused = fused * gamma[:, None, None]
    assert torch.allclose(layer(z, scale=gamma if scale else None), fused, atol=2e-5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_gradients_equal_those_of_the_plain_transform(mode, size):
    # Our derivative of the transform is written out; the matmul back end is differentiated by autograd.
    layer = scaled_up(SpatialFourierLayer(3, mode))
    z, weight = torch.randn(2, 3, *size, requires_grad=True), torch.randn(2, 3, *size)
    inputs = [z, *layer.parameters()]
    fast = torch.autograd.grad((layer(z) * weight).sum(), inputs)
    slow = torch.autograd.grad((layer(z, fourier_matrices(*size, z)) * weight).sum(), inputs)
    for a, b in zip(fast, slow, strict=True):
        assert torch.allclose(a, b, atol=1e-4 * max(1, float(b.abs().max())))


@pytest.mark.parametrize("mode", MODES)
def test_one_layer_sees_the_whole_image_by_its_nonlinearity_alone(mode, monkeypatch):
    torch.manual_seed(0)
    layer = SpatialFourierLayer(4, mode).double()

    def seen() -> int:
        z = torch.randn(1, 4, 30, 44, dtype=torch.float64, requires_grad=True)
        far = layer._far(z, torch.eye(4, dtype=torch.float64), None)
        far[0, 0, 11, 20].backward()
        return int((z.grad.abs().sum(1) > 1e-9).sum())

    assert seen() == 30 * 44
    monkeypatch.setattr(layer.fourier, "activate", lambda spectrum: spectrum)
    assert seen() < 30 * 44 / 10


def shift_error(mode: str, width: int = 15) -> float:
    layer = scaled_up(SpatialFourierLayer(4, mode), gain=2)
    z = torch.randn(2, 4, 12, width)
    shifted = layer.far(torch.roll(z, (3, 5), (2, 3)), torch.eye(4))
    return relative(shifted, torch.roll(layer.far(z, torch.eye(4)), (3, 5), (2, 3)))


@pytest.mark.parametrize("width", [15, 14])
def test_modrelu_commutes_with_circular_shifts(width):
    assert shift_error("modrelu", width) < 1e-5


def test_crelu_does_not_commute_with_circular_shifts():
    assert shift_error("crelu") > 0.1


@pytest.mark.parametrize("size", SIZES)
def test_half_spectrum_keeps_the_energy(size):
    z = torch.randn(2, 3, *size)
    weight = torch.tensor([1.0] + [2.0] * (size[1] // 2))
    if size[1] % 2 == 0:
        weight[-1] = 1
    for matrices in (None, fourier_matrices(*size, z)):
        assert torch.isclose((to_spectrum(z, matrices) ** 2 * weight).sum(), (z**2).sum(), rtol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_derivatives_of_the_transforms_are_their_adjoints(size):
    # The derivative is written by hand; a linear map is its own derivative, so its transpose must be its adjoint.
    z = torch.randn(1, 2, *size)
    spectrum = torch.randn(to_spectrum(z).shape)

    def derivative(function, at, direction):
        at = at.clone().requires_grad_()
        return torch.autograd.grad(function(at), at, direction)[0]

    assert_adjoint(to_spectrum, lambda g: derivative(to_spectrum, z, g), z, spectrum)
    assert_adjoint(
        lambda s: from_spectrum(s, size[1]),
        lambda g: derivative(lambda s: from_spectrum(s, size[1]), spectrum, g),
        spectrum,
        z,
    )


def test_layer_without_biases_is_positively_homogeneous():
    layer = scaled_up(SpatialFourierLayer(4))
    layer.near_bias.data.zero_()
    layer.fuse_bias.data.zero_()
    z = torch.randn(1, 4, 9, 8)
    assert relative(layer(7.5 * z), 7.5 * layer(z)) < 1e-5
    assert relative(layer(-z), -layer(z)) > 0.01


def test_block_is_its_formula():
    block = scaled_up(SpatialFourierResidualBlock(4))
    z = torch.randn(2, 4, 8, 9)
    inner_features = block.first(z)
    inner_features = torch.where(inner_features > 0, inner_features, 0.1 * inner_features)
    expected = z + block.scale[:, None, None] * block.second(inner_features)
    assert torch.allclose(block(z), expected, atol=1e-5)


def test_numbers_of_parameters():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(SpatialFourierLayer(64)) == 77_952
    assert count(CLGNet()) == count(CLGNet(preset="paper")) == count(CLGNet(channels=64, n_cascades=5, n_blocks=4))
    assert count(CLGNet()) == 5 * (4 * (2 * 77_952 + 64) + 64 * 64 * 9 + 64 + 2 * 2 * 64 * 9 + 64 + 2 + 1)
    assert count(CLGNet(preset="small")) < count(CLGNet(preset="base")) < count(CLGNet())
