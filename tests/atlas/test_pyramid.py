"""Coarser grids: one box, constants stay, smooth images stay where they are."""

import pytest
import torch

from medkit.atlas import Grid, downsampled
from medkit.ops import identity_points


def test_a_coarser_grid_covers_the_same_box() -> None:
    grid = Grid((160, 191, 9), (1.0, 0.9, 3.0))
    for factor in (1, 2, 3.5, 4):
        coarse = grid.coarser(factor)
        for n, h, m, k in zip(grid.size, grid.spacing, coarse.size, coarse.spacing, strict=True):
            assert n * h == pytest.approx(m * k)
        assert coarse.size[2] >= 8
    assert grid.coarser(1) == grid
    assert Grid((4, 100), (1.0, 1.0)).coarser(4).size == (4, 25)


@pytest.mark.parametrize("size", [(20, 24), (13, 16, 10)])
def test_constants_stay_up_to_the_border(size: tuple[int, ...]) -> None:
    small = tuple(n // 2 for n in size)
    out = downsampled(torch.full((2, 1, *size), 0.7), small)
    torch.testing.assert_close(out, torch.full((2, 1, *small), 0.7), rtol=0, atol=1e-6)


def test_a_ramp_keeps_its_place_in_space() -> None:
    size, new = (32, 24, 30), (16, 24, 10)
    ramps = identity_points(size)
    out = downsampled(ramps, new)
    for k, (n, m) in enumerate(zip(size, new, strict=True)):
        centres = (torch.arange(m) + 0.5) * n / m - 0.5
        got = out[0, k].movedim(k, 0).flatten(1).mean(1)
        torch.testing.assert_close(got[2:-2], centres[2:-2], rtol=0, atol=1e-3)


def test_the_same_grid_gives_the_image_itself_and_detail_goes_away() -> None:
    image = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(downsampled(image, (16, 16)), image)
    checks = ((identity_points((16, 16)).sum(1, keepdim=True)) % 2).float()
    assert (downsampled(checks, (8, 8)) - 0.5).abs().max() < 0.05


def test_wrong_input_is_refused_in_a_sentence() -> None:
    with pytest.raises(ValueError, match="'size' must be 2 or 3"):
        Grid((4,), (1.0,))
    with pytest.raises(ValueError, match="'spacing' must be 2 positive"):
        Grid((4, 4), (1.0, -1.0))
    with pytest.raises(ValueError, match="'factor' must be at least 1"):
        Grid((4, 4), (1.0, 1.0)).coarser(0.5)
    with pytest.raises(ValueError, match="at most that of the image"):
        downsampled(torch.zeros(1, 1, 4, 4), (8, 4))
