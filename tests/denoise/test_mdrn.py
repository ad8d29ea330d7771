"""MDRN by its laws: size, residual form, shift, reach, small images, batches, precision, exports."""

import numpy as np
import pytest
import torch
from torch import nn

from medkit.denoise import MDRN
from medkit.export import to_onnx, to_torchscript
from tests.denoise.small_denoisers import image, relative, scaled_up, with_frozen_gates

SIZES = {
    2: {"XT": 100_773, "T": 399_685, "B": 896_741, "M": 1_591_941, "L": 2_478_213, "XL": 5_569_733},
    3: {"XT": 280_549, "T": 629_141, "B": 1_116_613},
}


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize(("dim", "preset"), [(dim, preset) for dim in SIZES for preset in SIZES[dim]])
def test_parameters_are_as_published_with_the_presets(dim, preset):
    with torch.device("meta"):
        assert count(MDRN(preset, spatial_dims=dim)) == SIZES[dim][preset]


def test_parameters_follow_the_arguments():
    assert count(MDRN()) == SIZES[2]["B"]
    with torch.device("meta"):
        assert count(MDRN("B", channels=96, n_blocks=2)) == SIZES[2]["XL"]
    for channels in (16, 48):
        net = MDRN(channels=channels)
        assert count(net.groups[0]) == 93.5 * channels**2 + 21.25 * channels + 1
        assert count(MDRN(channels=channels, noise_map=True)) - count(net) == 9 * channels
        assert count(MDRN(channels=channels, in_channels=3)) - count(net) == 2 * (18 * channels + 1)
    assert count(MDRN("XT", spatial_dims=3, noise_map=True)) - SIZES[3]["XT"] == 27 * 16


@pytest.mark.parametrize("options", [{}, {"attention_pool": "local", "pool_window": 8}])
@pytest.mark.parametrize(("dim", "size"), [(2, (37, 53)), (2, (1, 2)), (2, (3, 1)), (3, (5, 1, 9)), (3, (2, 3, 4))])
def test_every_size_keeps_its_size_and_is_padded_by_reflection(dim, size, options):
    net = scaled_up(MDRN(channels=4, spatial_dims=dim, **options)).eval()
    x = image(1, 1, *size)
    out = net(x)
    assert out.shape == x.shape
    assert relative(out, x) > 0.01
    padded = x.numpy()
    for axis, n in enumerate(size, start=2):
        width = [(0, 0)] * x.ndim
        width[axis] = (0, -n % 4)
        padded = np.pad(padded, width, "reflect" if n > 1 else "edge")
    whole = net(torch.from_numpy(padded))
    assert relative(out, whole[(..., *(slice(n) for n in size))]) < 1e-5


@pytest.mark.parametrize("options", [{}, {"noise_map": True, "in_channels": 2}, {"spatial_dims": 3}])
def test_without_a_tail_the_output_is_the_input(options):
    net = scaled_up(MDRN(channels=4, **options))
    x = image(1, net.head.in_channels, *(9,) * net.spatial_dims)
    assert relative(net(x), x[:, : net.in_channels]) > 0.01
    nn.init.zeros_(net.tail.weight)
    nn.init.zeros_(net.tail.bias)
    assert torch.equal(net(x), x[:, : net.in_channels])


def test_noise_map_changes_the_result():
    net = scaled_up(MDRN(channels=4, noise_map=True))
    x = image(1, 2, 12, 12)
    louder = torch.cat([x[:, :1], x[:, 1:] + 0.5], 1)
    assert relative(net(louder), net(x)) > 1e-3


@torch.no_grad()
def test_a_shift_by_four_pixels_shifts_the_result():
    net = with_frozen_gates(scaled_up(MDRN(channels=4))).eval()
    x = image(1, 1, 232, 12)
    a, b = net(x[:, :, :228])[:, :, 104:124], net(x[:, :, 4:])[:, :, 100:120]
    assert float((a - b).abs().max()) < 1e-4
    c = net(x[:, :, 2:230])[:, :, 102:122]
    assert float((a - c).abs().max()) > 1e-3


def test_one_pixel_sees_198_pixels():
    # 170 if the quarter resolution pooled what was not yet convolved.
    net = with_frozen_gates(MDRN(channels=4)).double()
    for parameter in net.parameters():  # positive, so that no ReLU cuts a path
        nn.init.constant_(parameter, 0.02)
    with_frozen_gates(net)
    seen = []
    for i in range(100, 104):
        x = torch.ones(1, 1, 204, 4, dtype=torch.float64, requires_grad=True)
        net(x)[0, 0, i, 1].backward()
        rows = torch.where(x.grad[0, 0].abs().sum(1) > 0)[0]
        seen.append(len(rows))
        assert int(rows.min()) >= 100 - net.halo
        assert int(rows.max()) <= 103 + net.halo
    assert max(seen) == 198
    assert net.halo == 100


@pytest.mark.parametrize("options", [{}, {"attention_pool": "local", "pool_window": 8}])
def test_no_statistics_of_the_batch(options):
    net = scaled_up(MDRN(channels=4, **options))
    x = image(2, 1, 20, 12)
    together = net.train()(x)
    assert torch.equal(together, net.eval()(x))
    assert relative(torch.cat([net(x[:1]), net(x[1:])]), together) < 1e-6


def test_local_gates_are_means_of_windows():
    whole, local = (MDRN(channels=4, attention_pool=pool, pool_window=8) for pool in ("global", "local"))
    scaled_up(whole)
    local.load_state_dict(whole.state_dict())
    gates, windowed = whole.groups[1].gates, local.groups[1].gates
    x = image(1, 4, 16, 20) - 0.5
    result = windowed(x)
    for rows, columns in ((slice(0, 8), slice(0, 8)), (slice(8, 16), slice(8, 16)), (slice(0, 8), slice(16, 20))):
        window = (..., rows, columns)  # the last one sticks out of the image
        assert relative(result[window], gates(x[window])) < 1e-5
        assert relative(result[window], gates(x)[window]) > 1e-3
    assert relative(local(x[:, :1, :8, :8]), whole(x[:, :1, :8, :8])) < 1e-6


def test_up_sampling_begins_without_a_checkerboard():
    for dim in (2, 3):
        up = MDRN(channels=4, spatial_dims=dim).groups[0].up4
        out = up(image(1, 4, *(3,) * dim))
        first = out[(..., *(slice(None, None, 2),) * dim)]
        for offset in range(2**dim):
            corner = tuple(slice((offset >> i) & 1, None, 2) for i in range(dim))
            assert torch.equal(out[(..., *corner)], first)
        assert float(first.detach().std()) > 0.01


def test_taps_of_the_groups_are_reached_by_path():
    net = MDRN(channels=4)
    seen = {}
    for k in (1, 2, 3):
        module = net.get_submodule(f"groups.{k}")
        module.register_forward_hook(lambda _, __, out, k=k: seen.__setitem__(k, out))
    net(image(1, 1, 8, 8))
    assert {k: tuple(v.shape) for k, v in seen.items()} == dict.fromkeys((1, 2, 3), (1, 4, 8, 8))


def test_every_parameter_learns():
    net = scaled_up(MDRN(channels=16, noise_map=True))
    net(image(2, 2, 12, 12)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_bfloat16_autocast_keeps_the_image_in_float32():
    net = scaled_up(MDRN(channels=4)).eval()
    x = image(1, 1, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = net(x)
    assert mixed.dtype == torch.float32
    assert 1e-5 < relative(mixed - x, net(x) - x) < 0.05
    nn.init.zeros_(net.tail.weight)
    nn.init.zeros_(net.tail.bias)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(x), x)


@pytest.mark.parametrize(
    "options",
    [{}, {"noise_map": True, "attention_pool": "local", "pool_window": 8}, {"spatial_dims": 3}],
)
def test_script_agrees(options, tmp_path):
    net = scaled_up(MDRN(channels=4, **options)).eval()
    sizes = ((16, 12), (13, 10), (1, 3)) if net.spatial_dims == 2 else ((8, 8, 12), (5, 6, 7))
    examples = [image(1, net.head.in_channels, *size) for size in sizes]
    report = to_torchscript(net, tmp_path / "net.ts", examples)
    assert max(report.errors.values()) < 1e-4


@pytest.mark.slow  # the exporter takes half a minute each
@pytest.mark.parametrize(
    "options",
    [{}, {"attention_pool": "local", "pool_window": 8}, {"spatial_dims": 3}],
)
def test_onnx_of_any_size_agrees(options, tmp_path):
    net = scaled_up(MDRN(channels=4, **options)).eval()
    sizes = ((16, 12), (13, 10), (3, 1)) if net.spatial_dims == 2 else ((8, 8, 12), (5, 6, 7))
    examples = [image(2 - i % 2, 1, *size) for i, size in enumerate(sizes)]
    report = to_onnx(net, tmp_path / "net.onnx", examples)
    assert max(report.errors.values()) < 1e-4


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MDRN("S"), "'preset' must be one of"),
        (lambda: MDRN("XL", spatial_dims=3), r"'preset' must be one of \('XT', 'T', 'B'\) in 3-D"),
        (lambda: MDRN(spatial_dims=1), "'spatial_dims' must be 2 or 3, got 1"),
        (lambda: MDRN(channels=6), "'channels' must be a positive multiple of 4, got 6"),
        (lambda: MDRN(n_blocks=0), "'n_blocks' must be at least 1"),
        (lambda: MDRN(attention_pool="window"), "'attention_pool' must be one of"),
        (lambda: MDRN(pool_window=6), "'pool_window' must be a positive multiple of 4, got 6"),
        (lambda: MDRN(channels=4)(torch.ones(1, 2, 8, 8)), r"'image' must be \(B, 1, H, W\), got"),
        (lambda: MDRN(channels=4)(torch.ones(1, 1, 0, 8)), r"'image' must be \(B, 1, H, W\), got"),
        (lambda: MDRN(channels=4, noise_map=True)(torch.ones(1, 1, 8, 8)), "the last one is the noise map"),
        (lambda: MDRN(channels=4, spatial_dims=3)(torch.ones(1, 1, 8, 8)), r"\(B, 1, H, W, S\)"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
