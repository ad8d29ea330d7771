"""DnCNN: number of parameters, residual form, reach, statistics, script, errors."""

import pytest
import torch

from medkit.denoise import DnCNN
from medkit.export import to_torchscript
from tests.denoise.small_denoisers import image, relative, scaled_up


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


def test_parameters_are_as_published():
    assert count(DnCNN()) == 556_096 == (9 * 64 + 64) + 15 * (9 * 64 * 64 + 2 * 64) + 9 * 64
    assert count(DnCNN(n_layers=20)) - count(DnCNN()) == 3 * (9 * 64 * 64 + 2 * 64)
    assert count(DnCNN(3, 8, spatial_dims=3)) == (27 * 8 + 8) + (27 * 64 + 16) + 27 * 8


@pytest.mark.parametrize("dim", [2, 3])
def test_without_a_last_layer_the_output_is_the_input(dim):
    net = scaled_up(DnCNN(3, 4, spatial_dims=dim)).eval()
    x = image(2, 1, *(7, 5, 6)[:dim])
    assert relative(net(x), x) > 0.01
    torch.nn.init.zeros_(net.layers[-1].weight)
    assert torch.equal(net(x), x)


def test_one_pixel_sees_35_pixels():
    net = DnCNN(channels=2).eval()
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.2)
    x = torch.ones(1, 1, 41, 41, requires_grad=True)
    net(x)[0, 0, 20, 20].backward()
    rows = torch.where(x.grad[0, 0].abs().sum(1) > 0)[0]
    assert (int(rows.min()), int(rows.max())) == (3, 37)
    assert net.halo == 17


def test_images_of_a_batch_do_not_mix_in_evaluation():
    net = scaled_up(DnCNN(4, 4)).eval()
    x = image(3, 1, 8, 8)
    assert relative(torch.cat([net(x[i : i + 1]) for i in range(3)]), net(x)) < 1e-6


def test_script_agrees(tmp_path):
    net = scaled_up(DnCNN(4, 4)).eval()
    report = to_torchscript(net, tmp_path / "net.ts", [image(1, 1, 8, 9), image(2, 1, 5, 5)])
    assert max(report.errors.values()) < 1e-5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: DnCNN(2), "'n_layers' must be at least 3, got 2"),
        (lambda: DnCNN(channels=0), "'channels' must be at least 1"),
        (lambda: DnCNN(spatial_dims=4), "'spatial_dims' must be 2 or 3"),
        (lambda: DnCNN(3, 4)(torch.ones(1, 3, 8, 8)), r"'image' must be \(B, 1, H, W\), got \(1, 3, 8, 8\)"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
