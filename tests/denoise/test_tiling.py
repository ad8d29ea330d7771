"""Tiles: exact where the halo covers what the network sees, a measured seam where it does not, bounded size."""

import pytest
import torch

from medkit.denoise import MDRN, DnCNN, TileInferer
from tests.denoise.small_denoisers import image, relative, scaled_up, with_frozen_gates


class Recorder(torch.nn.Module):
    """A network, with the sizes that it was given."""

    def __init__(self, network):
        super().__init__()
        self.network, self.sizes = network, []
        self.halo, self.tile_grid = network.halo, network.tile_grid

    def forward(self, x):
        self.sizes.append(tuple(x.shape[2:]))
        return self.network(x)


@torch.no_grad()
def seam(net, x, **options):
    """Largest difference to the whole image, as a share of the largest correction."""
    whole = net(x)
    return float((TileInferer(**options)(x, net) - whole).abs().max() / (whole - x).abs().max())


def ramp(*shape):
    """An image whose mean differs from tile to tile."""
    return image(*shape) * torch.linspace(0, 1, shape[2]).reshape(-1, *[1] * (len(shape) - 3))


def test_local_gates_make_tiles_exact_with_a_halo_of_100_pixels():
    net = scaled_up(MDRN(channels=8, attention_pool="local"), gain=1.0).eval()
    x = ramp(1, 1, 410, 16)
    # 100 pixels become 120, whole windows of 24. Measured: 6e-7, which is rounding; 2.6e-3 with a halo of one window.
    assert seam(net, x, tile=48, halo=100) < 5e-6
    assert seam(net, x, tile=48, halo=24) > 1e-3


def test_frozen_gates_make_tiles_exact_and_global_ones_do_not():
    net = scaled_up(MDRN(channels=8), gain=1.0).eval()
    x = ramp(1, 1, 410, 16)
    # Measured: 3.6e-3 with global gates; frozen 6e-7 with the full halo and 4.6e-5 with 32 pixels.
    assert 1e-3 < seam(net, x, tile=80) < 1e-2
    frozen = with_frozen_gates(net)
    assert seam(frozen, x, tile=80, halo=100) < 5e-6
    assert seam(frozen, x, tile=80, halo=32) > 1e-5


def test_volumes_with_local_gates_need_less_than_the_whole_halo():
    net = scaled_up(MDRN(channels=4, spatial_dims=3, attention_pool="local", pool_window=8), gain=1.0).eval()
    x = ramp(1, 1, 232, 4, 4)
    assert seam(net, x, tile=(24, 8, 8)) < 5e-6
    assert seam(net, x, tile=(24, 8, 8), halo=(48, 8, 8)) < 1e-3
    assert seam(net, x, tile=(24, 8, 8), halo=0) > 1e-2


@pytest.mark.parametrize(("window", "blocks"), [(8, 1), (24, 1), (16, 2)])
def test_the_halo_of_local_gates_covers_all_that_a_tile_sees_and_no_window_more(window, blocks):
    net = MDRN(channels=4, n_blocks=blocks, attention_pool="local", pool_window=window).double()
    for parameter in net.parameters():  # positive: no ReLU cuts a path, no gate saturates
        torch.nn.init.constant_(parameter, 0.02)
    n = 2 * net.halo + window
    x = torch.ones(1, 1, n, 4, dtype=torch.float64, requires_grad=True)
    net(x)[:, :, net.halo : net.halo + window].sum().backward()
    rows = torch.where(x.grad[0, 0].abs().sum(1) > 0)[0]
    margin = max(net.halo - int(rows.min()), int(rows.max()) + 1 - net.halo - window)
    assert net.halo - window < margin <= net.halo


def test_without_gates_any_tile_is_exact():
    net = scaled_up(DnCNN(4, 4)).eval()
    x = image(2, 1, 23, 31)
    for tile in (1, 8, (5, 40)):
        assert relative(TileInferer(tile=tile)(x, net), net(x)) < 1e-6
    assert relative(TileInferer(tile=8, halo=2)(x, net), net(x)) > 1e-4


def test_the_network_never_sees_more_than_a_tile_with_its_halo():
    net = Recorder(scaled_up(DnCNN(4, 4)).eval())
    x = image(1, 1, 50, 61)
    TileInferer(tile=(16, 20))(x, net)
    assert len(net.sizes) == 4 * 4
    assert max(h for h, _ in net.sizes) == 16 + 2 * 4
    assert max(w for _, w in net.sizes) == 20 + 2 * 4


def test_tiles_and_halos_are_rounded_up_to_the_grid():
    net = Recorder(MDRN(channels=4, attention_pool="local", pool_window=8).eval())
    TileInferer(tile=9, halo=1)(image(1, 1, 70, 8), net)
    assert {h for h, _ in net.sizes} == {24, 32, 30, 14}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: TileInferer(tile=0), "'tile' must be at least 1, got 0"),
        (lambda: TileInferer(halo=(4, -1)), r"'halo' must be at least 0, got \(4, -1\)"),
        (lambda: TileInferer(tile=(8, 8, 8))(image(1, 1, 9, 9), DnCNN(3, 4)), "'tile' must be a number or one for"),
        (lambda: TileInferer()(image(1, 1, 9, 9), torch.nn.Identity()), "'grid' must be given for a network without"),
        (lambda: TileInferer(8, 0, 1)(image(1, 1, 9, 9), torch.nn.Conv2d(1, 1, 3)), "must keep the size of a tile"),
        (lambda: TileInferer()(image(1, 1, 0, 9), DnCNN(3, 4)), "'inputs' must have at least one pixel"),
    ],
)
def test_errors_say_what_was_wanted(call, words):
    with pytest.raises(ValueError, match=words):
        call()
