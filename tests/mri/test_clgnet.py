"""CLGNet by its laws: data consistency, both back ends, precision, learning."""

import pytest
import torch

from medkit.mri import CLGNet, PackedReconstructor, SpatialFourierLayer, SpatialFourierResidualBlock
from medkit.mri.channel_consistency import ChannelDataConsistency, normal_channels, symmetrised
from tests.laws import assert_adjoint, assert_contraction, assert_deterministic, inner
from tests.mri.small_clgnet import MODES, relative, sample, scaled_up

# Data consistency


@pytest.mark.parametrize("n_coils", [0, 3])
def test_operator_is_self_adjoint_and_a_contraction(n_coils):
    x, _, mask, maps = sample(n_coils=n_coils)

    def normal(z):
        return normal_channels(z, mask, maps, False, "fft")

    assert_adjoint(normal, normal, x, x)
    assert_contraction(normal, x)
    assert inner(x, normal(x)) > 0


@pytest.mark.parametrize("n_coils", [0, 3])
@pytest.mark.parametrize("dc", ["hard", "soft", "cg"])
def test_everything_sampled_returns_the_reference(n_coils, dc):
    net = CLGNet(preset="small", dc=dc)
    x, _, mask, maps = sample(n_coils=n_coils)
    everything = torch.ones_like(mask)
    assert relative(net(x, everything, maps), x) < 1e-5
    if dc == "hard":  # exact whatever the weights; the others weigh the network's opinion
        assert relative(scaled_up(net)(x, everything, maps), x) < 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_hard_consistency_keeps_every_measured_sample(mode):
    net = scaled_up(CLGNet(preset="small", dc="hard", fourier_mode=mode))
    _, x0, mask, _ = sample()
    out = net(x0, mask)
    assert relative(normal_channels(out, mask, None, False, "fft"), x0) < 1e-5
    assert relative(out, x0) > 0.1
    loose = scaled_up(CLGNet(preset="small", dc="none", fourier_mode=mode))(x0, mask)
    assert relative(normal_channels(loose, mask, None, False, "fft"), x0) > 0.1


@pytest.mark.parametrize("dc", ["hard", "soft", "cg", "none"])
def test_untrained_network_returns_its_input(dc):
    _, x0, mask, _ = sample()
    assert torch.allclose(CLGNet(preset="small", dc=dc)(x0, mask), x0, atol=1e-5)


def test_soft_consistency_has_a_finite_gradient_of_its_weight():
    consistency = ChannelDataConsistency("soft", 0.3)
    x, x0, mask, maps = sample(n_coils=2)
    consistency(x + 1, x0, mask, maps, "fft").square().sum().backward()
    gradient = consistency.raw_weight.grad
    assert torch.isfinite(gradient)
    assert gradient != 0


@pytest.mark.parametrize("n_coils", [0, 3])
def test_conjugate_gradients_solve_their_equation(n_coils):
    _, x0, mask, maps = sample(n_coils=n_coils)
    prior = torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    out = ChannelDataConsistency("cg", 0.5, n_iterations=15)(prior, x0, mask, maps, "fft")
    left = normal_channels(out, mask, maps, False, "fft") + 0.5 * out
    assert relative(left, x0 + 0.5 * prior) < 1e-4


@pytest.mark.parametrize("kind", ["soft", "hard", "cg"])
@pytest.mark.parametrize("n_coils", [0, 2])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_consistency_agrees_with_the_centred_complex_one(kind, n_coils, size):
    from medkit.mri.channels import channels_to_complex
    from medkit.mri.data_consistency import conjugate_gradient_data_consistency, soft_data_consistency

    _, x0, mask, maps = sample(size, n_coils)
    x = torch.randn(x0.shape, generator=torch.Generator().manual_seed(2))
    ours = ChannelDataConsistency(kind, 0.2, n_iterations=3)(x, x0, mask, maps, "fft")
    centred = torch.fft.fftshift(mask, dim=(2, 3)) > 0.5
    z, z0, s = (None if t is None else channels_to_complex(t) for t in (x, x0, maps))
    if kind == "cg":
        theirs = conjugate_gradient_data_consistency(z, z0, centred, s, weight=0.2, n_iterations=3)
    else:
        theirs = soft_data_consistency(z, z0, centred, s, noise_weight=0.2 if kind == "soft" else 0.0)
    assert torch.allclose(channels_to_complex(ours), theirs, atol=1e-4)


@pytest.mark.parametrize("size", [(8, 10), (9, 7)])
def test_real_images_use_that_their_kspace_is_hermitian(size):
    x = torch.randn(2, 1, *size)
    _, _, mask, _ = sample(size, rate=0.3)
    kspace = torch.fft.fft2(x, norm="ortho") * mask
    mirror = [torch.arange(n).neg() % n for n in size]
    mirrored = mask[:, :, mirror[0]][..., mirror[1]]
    known = torch.where(mask > 0, kspace, kspace[:, :, mirror[0]][..., mirror[1]].conj())
    x0, both = symmetrised(torch.fft.ifft2(kspace, norm="ortho").real, mask, "fft")
    assert torch.equal(both, torch.maximum(mask, mirrored))
    assert torch.allclose(x0, torch.fft.ifft2(known, norm="ortho").real, atol=1e-5)
    net = scaled_up(CLGNet(preset="small", in_channels=1, dc="hard"))
    out = net(torch.fft.ifft2(kspace, norm="ortho").real, mask)
    assert relative(torch.fft.fft2(out, norm="ortho") * mask, kspace) < 1e-4


# The network as a whole


@pytest.mark.parametrize(
    "options", [{}, {"fourier_mode": "modrelu", "dc": "cg"}, {"fourier_mode": "none"}, {"in_channels": 1}]
)
@pytest.mark.parametrize("size", [(16, 12), (15, 9)])
def test_both_back_ends_and_the_script_agree(options, size):
    net = PackedReconstructor(scaled_up(CLGNet(preset="small", **options))).eval()
    scripted = torch.jit.script(net)
    for n_coils in (0,) if "in_channels" in options else (0, 2):
        _, x0, mask, maps = sample(size, n_coils)
        image = torch.cat([x0, mask] if maps is None else [x0, mask, maps], 1)
        net.network.fft_backend = "fft"
        pred = net(image)
        assert pred.shape == (2, 2, *size)
        assert relative(scripted(image), pred) < 1e-6
        net.network.fft_backend = "matmul"
        assert relative(net(image), pred) < 1e-4


def test_without_fourier_branch_it_is_as_large_but_sees_only_near():
    def reach(mode):
        block = SpatialFourierResidualBlock(8, mode)
        z = torch.randn(1, 8, 24, 24, requires_grad=True)
        block(z)[..., 12, 12].sum().backward()
        return z.grad.abs().sum((0, 1)) > 0

    rows, columns = torch.where(reach("none"))
    assert (rows - 12).abs().max() == 4
    assert (columns - 12).abs().max() == 4
    assert reach("crelu").float().mean() > 0.9
    near, both = (sum(p.numel() for p in CLGNet(fourier_mode=m).parameters()) for m in ("none", "crelu"))
    assert abs(near / both - 1) < 0.05


def test_parameters_do_not_depend_on_the_back_end():
    fft, matmul = CLGNet(preset="small"), CLGNet(preset="small", fft_backend="matmul")
    assert list(fft.state_dict()) == list(matmul.state_dict())
    matmul.load_state_dict(fft.state_dict())


@pytest.mark.parametrize("n_coils", [0, 2])
def test_every_parameter_learns(n_coils):
    net = scaled_up(CLGNet(preset="small", n_blocks=5))
    _, x0, mask, maps = sample(n_coils=n_coils)
    net(x0, mask, maps).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_samples_do_not_mix():
    net = scaled_up(CLGNet(preset="small")).eval()
    _, x0, mask, maps = sample(n_coils=2, batch=3)
    together = net(x0, mask, maps)
    alone = torch.cat([net(x0[i : i + 1], mask[i : i + 1], maps[i : i + 1]) for i in range(3)])
    assert relative(together, alone) < 1e-4
    assert_deterministic(lambda: net(x0, mask, maps))


def test_empty_coils_change_nothing():
    # Maps are padded with zero coils to a fixed number; they must not matter.
    net = scaled_up(CLGNet(preset="small")).eval()
    _, x0, mask, maps = sample(n_coils=2)
    padded = torch.cat([maps, torch.zeros_like(maps)], 1)
    assert relative(net(x0, mask, padded), net(x0, mask, maps)) < 1e-5


@pytest.mark.parametrize("mode", MODES)
def test_bfloat16_autocast_keeps_the_transforms_in_float32(mode):
    net = scaled_up(CLGNet(preset="small", fourier_mode=mode), gain=0.5).eval()
    _, x0, mask, _ = sample((368, 320), batch=1)
    with torch.no_grad():
        exact = net(x0, mask)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = net(x0, mask)
    assert mixed.dtype == torch.float32
    assert 0 < relative(mixed, exact) < 1e-2


def test_bfloat16_autocast_does_not_blur_the_measurement():
    net = scaled_up(CLGNet(preset="small", dc="hard", fft_backend="matmul")).eval()
    _, x0, mask, _ = sample()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = net(x0, mask)
    assert relative(normal_channels(out, mask, None, False, "fft"), x0) < 1e-5


def ellipse(height: int, width: int, numbers: torch.Tensor) -> torch.Tensor:
    """Constant ellipse with a linear phase, (1, 2, H, W); ``numbers`` in 0 to 1 say where, how large and how bright."""
    row, column = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    a = numbers.tolist()
    inside = (row / (0.6 + 0.3 * a[0])) ** 2 + ((column - 0.2 * a[1]) / (0.6 + 0.3 * a[2])) ** 2 < 1
    phase = 6 * a[3] + a[4] * row
    return (0.6 + 0.4 * a[5]) * inside * torch.stack([phase.cos(), phase.sin()])[None]


def third_line_mask(height: int, width: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., ::3] = 1
    mask[..., : width // 16] = mask[..., -(width // 16) :] = 1
    return mask


def test_trained_on_one_size_it_keeps_the_level_on_another():
    torch.manual_seed(0)
    net, mask = CLGNet(preset="small"), third_line_mask(32, 32)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for _ in range(150):
        x = torch.cat([ellipse(32, 32, torch.rand(6)) for _ in range(2)])
        optimizer.zero_grad()
        (net(normal_channels(x, mask, None, False, "fft"), mask) - x).abs().mean().backward()
        optimizer.step()
    x, mask = ellipse(64, 37, torch.tensor([0.5, 0.0, 0.5, 0.0, 0.0, 1.0])), third_line_mask(64, 37)
    x0 = normal_channels(x, mask, None, False, "fft")
    with torch.no_grad():
        out = net(x0, mask)
    assert float(out[0, 0, 20:44, 12:25].mean()) == pytest.approx(1, abs=0.05)
    assert relative(out, x) < 0.95 * relative(x0, x)


@pytest.mark.parametrize("mode", MODES)
def test_learns_one_image_by_heart(mode):
    torch.manual_seed(0)
    row, column = torch.meshgrid(torch.linspace(-1, 1, 32), torch.linspace(-1, 1, 32), indexing="ij")
    phantom = (row**2 + (1.3 * column) ** 2 < 0.7).float() - 0.5 * ((row - 0.2) ** 2 + column**2 < 0.08).float()
    phase = 0.8 * row + 0.5 * column
    x = torch.stack([phantom * phase.cos(), phantom * phase.sin()])[None]
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., ::4] = 1
    mask[..., :2] = mask[..., -2:] = 1
    x0 = normal_channels(x, mask, None, False, "fft")
    net = CLGNet(preset="small", fourier_mode=mode)
    optimizer = torch.optim.AdamW(net.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=300)
    for _ in range(300):
        optimizer.zero_grad()
        loss = (net(x0, mask) - x).abs().mean()
        loss.backward()
        optimizer.step()
        schedule.step()

    def psnr(image):
        return -10 * torch.log10((image - x).square().mean())

    with torch.no_grad():
        assert psnr(net(x0, mask)) >= psnr(x0) + 8


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: CLGNet(preset="huge"), "'preset' must be one of"),
        (lambda: CLGNet(n_cascades=0), "'n_cascades' must be at least 1, got 0"),
        (lambda: CLGNet(in_channels=3), "'in_channels' must be 2"),
        (lambda: CLGNet(preset="small", dc="best"), "'kind' must be one of"),
        (lambda: CLGNet(preset="small", cg_iterations=0), "'n_iterations' must be at least 1"),
        (lambda: CLGNet(preset="small", fft_backend="fftw"), "'fft_backend' must be"),
        (lambda: CLGNet(preset="small", fourier_mode="relu"), "'fourier_mode' must be one of"),
        (lambda: SpatialFourierLayer(0), "'channels' must be at least 1"),
        (lambda: ChannelDataConsistency(noise_weight=0), "'noise_weight' must be positive"),
        (lambda: CLGNet("small")(torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)), r"'zero_filled' must be \(B, 2"),
        (lambda: CLGNet("small")(torch.ones(1, 2, 8, 8), torch.ones(1, 1, 8, 1)), r"'mask' must be \(B, 1, H, W\)"),
        (
            lambda: CLGNet("small")(torch.ones(1, 2, 8, 8), torch.ones(1, 1, 8, 8), torch.ones(1, 3, 8, 8)),
            r"'sens_maps' must be \(B, 2 coil",
        ),
        (
            lambda: CLGNet("small", in_channels=1)(*[torch.ones(1, 1, 8, 8)] * 2, torch.ones(1, 2, 8, 8)),
            "'sens_maps' must be None",
        ),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
