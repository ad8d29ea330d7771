"""MDRN learns: one smooth patch by heart, in the steps that were asked of it."""

import pytest
import torch

from medkit.denoise import MDRN


def psnr_after(network: MDRN, n_steps: int) -> float:
    """Return the PSNR of a noisy patch of 64², sigma 25 of 255, after steps of training on it alone."""
    axis = torch.linspace(-1, 1, 64)
    clean = (0.5 + 0.3 * torch.sin(4 * axis[:, None] + 2 * axis) * torch.cos(3 * axis))[None, None]
    noisy = clean + 25 / 255 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(n_steps):
        optimizer.zero_grad()
        torch.nn.functional.l1_loss(network(noisy), clean).backward()
        optimizer.step()
    with torch.no_grad():
        return float(-10 * (network(noisy) - clean).square().mean().log10())


def test_the_smallest_network_gains_8_decibels_in_100_steps():
    torch.manual_seed(0)
    assert psnr_after(MDRN("XT"), 100) > 20.2 + 8


@pytest.mark.slow
def test_32_channels_reach_36_decibels_in_300_steps():
    torch.manual_seed(0)
    assert psnr_after(MDRN("T"), 300) > 36
