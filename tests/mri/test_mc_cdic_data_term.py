"""The data terms of MC-CDic: what was sampled is honoured, for reconstruction, coils and super-resolution."""

import math

import pytest
import torch

from medkit.mri import KspaceCropOperator, channels_to_complex, complex_to_channels
from medkit.mri.channel_consistency import ChannelDataConsistency, normal_channels, symmetrised
from tests.mri.small_clgnet import relative, sample
from tests.mri.small_mc_cdic import images, network

BOTH = pytest.mark.parametrize("large", [False, True])
KINDS = ("hard", "soft", "grad")


@BOTH
@pytest.mark.parametrize("size", [(12, 14), (9, 7)])
def test_hard_term_keeps_every_sample(size, large):
    x, x0, mask, _ = sample(size)
    y = images(size, channels=2)[0]
    out = network(large, in_channels=2, data_term="hard")(x0, y, mask)[0]
    kspace = torch.fft.fft2(channels_to_complex(x), norm="ortho") * mask
    ours = torch.fft.fft2(channels_to_complex(out), norm="ortho") * mask
    assert float((ours - kspace).abs().max()) < 1e-5 * float(kspace.abs().max())
    assert relative(out, x0) > 1e-2
    loose = network(large, in_channels=2)(x0, y, mask)[0]
    assert relative(normal_channels(loose, mask, None, False, "fft"), x0) > 1e-2


@BOTH
@pytest.mark.parametrize("size", [(12, 14), (9, 7)])
def test_hard_term_of_real_images_keeps_the_mirrored_samples_as_well(size, large):
    x, y = images(size)
    mask = sample(size, rate=0.3)[2]
    kspace = torch.fft.fft2(x, norm="ortho")
    x0 = torch.fft.ifft2(kspace * mask, norm="ortho").real
    both = symmetrised(x0, mask, "fft")[1]
    assert both.sum() > mask.sum()
    out = network(large, data_term="hard")(x0, y, mask)[0]
    ours = torch.fft.fft2(out, norm="ortho")
    assert float(((ours - kspace) * both).abs().max()) < 1e-5 * float(kspace.abs().max())


def test_images_of_a_reader_that_keeps_half_the_kspace_take_the_mirrored_mask():
    # irfft2 reads the columns of frequencies 0 and above, so that it sampled those and their mirror images.
    x, _ = images((12, 16))
    columns = (torch.rand(16, generator=torch.Generator().manual_seed(3)) < 0.4).float()
    columns[0] = 1
    half = columns[:9]
    x0 = torch.fft.irfft2(torch.fft.rfft2(x) * half, s=(12, 16))
    effective = torch.cat([half, half[1:-1].flip(0)]).expand(2, 1, 12, 16)
    assert not torch.equal(effective[0, 0, 0], columns)
    same, mask = symmetrised(x0, effective, "fft")
    assert torch.equal(mask, effective)
    assert relative(same, x0) < 1e-6
    out = network(True, data_term="hard")(x0, x, effective)[0]
    assert relative(torch.fft.irfft2(torch.fft.rfft2(out) * half, s=(12, 16)), x0) < 1e-5


@BOTH
@pytest.mark.parametrize("stage", [False, True])
@pytest.mark.parametrize("in_channels", [1, 2])
def test_everything_sampled_returns_the_image_whatever_the_weights(in_channels, stage, large):
    x, y = images((12, 15), channels=in_channels)
    everything = torch.ones(2, 1, 12, 15)
    net = network(large, in_channels=in_channels, data_term="hard", stage_data_term=stage)
    assert relative(net(x, y, everything)[0], x) < 1e-5


@pytest.mark.parametrize("n_coils", [0, 3])
def test_soft_term_lies_between_the_hard_one_and_none(n_coils):
    _, x0, mask, maps = sample(n_coils=n_coils)
    x = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    hard = ChannelDataConsistency("hard")(x, x0, mask, maps, "fft")
    soft = ChannelDataConsistency("soft")
    soft.raw_weight.data.fill_(-20.0)
    assert relative(soft(x, x0, mask, maps, "fft"), hard) < 1e-5
    soft.raw_weight.data.fill_(1e6)
    assert relative(soft(x, x0, mask, maps, "fft"), x) < 1e-5
    assert torch.equal(ChannelDataConsistency("none")(x, x0, mask, maps, "fft"), x)
    soft.raw_weight.data.fill_(math.log(math.expm1(0.7)))
    expected = x + (hard - x) / 1.7
    assert relative(soft(x, x0, mask, maps, "fft"), expected) < 1e-5


@pytest.mark.parametrize("n_coils", [0, 3])
def test_gradient_term_is_a_step_down_the_misfit(n_coils):
    truth, x0, mask, maps = (None if t is None else t.double() for t in sample(n_coils=n_coils))
    x = torch.randn(x0.shape, dtype=torch.float64, requires_grad=True)
    s = torch.ones(1, 1, 1, 1) if maps is None else channels_to_complex(maps)

    def kspace(image):
        return torch.fft.fft2(s * channels_to_complex(image), norm="ortho") * mask

    (gradient,) = torch.autograd.grad(0.5 * (kspace(x) - kspace(truth)).abs().square().sum(), x)
    term = ChannelDataConsistency("grad").double()
    term.log_step.data.fill_(math.log(0.3))
    out = term(x, x0, mask, maps, "fft")
    assert relative(out, x - 0.3 * gradient) < 1e-6
    assert relative(out, x) > 1e-2


@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_super_resolution_uses_the_same_terms(kind, large):
    operator = KspaceCropOperator((12, 16), 2)
    x, y = (channels_to_complex(image) for image in images((12, 16), channels=2))
    small = operator.forward(x)
    x0 = operator.zero_filled(small)
    mask = operator.mask().expand(2, 1, 12, 16)
    net = network(large, in_channels=2, data_term=kind)
    misfits = []
    for net_term in (net, network(large, in_channels=2)):
        out = net_term(complex_to_channels(x0), complex_to_channels(y), mask)[0]
        misfits.append(relative(operator.forward(channels_to_complex(out)), small))
    assert misfits[0] < (1e-5 if kind == "hard" else 0.6 * misfits[1])
    assert misfits[1] > 1e-2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stage", [False, True])
@pytest.mark.parametrize(("in_channels", "n_coils"), [(1, 0), (2, 0), (2, 2)])
def test_every_parameter_learns_and_the_script_agrees(in_channels, n_coils, stage, kind):
    net = network(True, learns=True, in_channels=in_channels, data_term=kind, stage_data_term=stage)
    _, x0, mask, maps = sample((13, 10), n_coils=n_coils)
    x0, y = x0[:, :in_channels], images((13, 10), channels=in_channels)[0]
    out = net(x0, y, mask, maps)
    (out[0].square().sum() + out[1].square().sum()).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name
    net.fft_backend = "matmul"
    assert relative(net(x0, y, mask, maps)[0], out[0]) < 1e-4
    if kind == "soft" and stage:
        net.fft_backend = "fft"
        assert relative(torch.jit.script(net)(x0, y, mask, maps)[0], out[0]) < 1e-5


def test_stage_term_corrects_what_the_next_stage_sees():
    _, x0, mask, _ = sample()
    y = images((12, 14), channels=2)[0]
    once, between = (network(True, in_channels=2, data_term="hard", stage_data_term=stage) for stage in (False, True))
    assert relative(between(x0, y, mask)[0], once(x0, y, mask)[0]) > 1e-3


def test_autocast_does_not_blur_the_samples():
    _, x0, mask, _ = sample()
    y = images((12, 14), channels=2)[0]
    net = network(True, in_channels=2, data_term="hard", fft_backend="matmul")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = net(x0, y, mask)[0]
    assert out.dtype == torch.float32
    assert relative(normal_channels(out, mask, None, False, "fft"), x0) < 1e-5
