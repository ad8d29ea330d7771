"""CIFAR's residual networks have the sizes of the literature, and stages that can be tapped."""

from __future__ import annotations

import pytest
import torch

from medkit.distill import CIFARResNet, probe_taps

WIDE = (32, 64, 128, 256)
THIN = (16, 16, 32, 64)


@pytest.mark.parametrize(
    ("depth", "channels", "millions"),
    [(8, WIDE, 1.23), (32, WIDE, 7.43), (20, THIN, 0.28), (32, THIN, 0.47), (56, THIN, 0.86), (110, THIN, 1.74)],
)
def test_numbers_of_parameters_are_those_of_the_literature(depth, channels, millions):
    n = sum(parameter.numel() for parameter in CIFARResNet(depth, channels).parameters())
    assert n / 1e6 == pytest.approx(millions, abs=0.006)


def test_stages_halve_the_picture():
    shapes = probe_taps(CIFARResNet(8, WIDE), ["stem", "stage1", "stage2", "stage3"], torch.zeros(1, 3, 32, 32))
    assert [shape[1:] for shape in shapes.values()] == [(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8)]


def test_volumes_and_one_pixel():
    assert CIFARResNet(8, (4, 4, 8, 8), 1, 3, spatial_dims=3)(torch.zeros(2, 1, 8, 8, 8)).shape == (2, 3)
    assert CIFARResNet(8, (4, 4, 8, 8), 1, 3).eval()(torch.zeros(1, 1, 1, 1)).shape == (1, 3)


@pytest.mark.parametrize(("depth", "channels"), [(9, THIN), (2, THIN), (20, (16, 32, 64))])
def test_wrong_sizes_are_refused(depth, channels):
    with pytest.raises(ValueError, match="6 n"):
        CIFARResNet(depth, channels)
