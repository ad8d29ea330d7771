"""What the tests of CLGNet share: sizes, random weights that hide nothing, and measured images."""

import torch

from medkit.mri.channel_consistency import normal_channels

MODES = ("crelu", "modrelu")
SIZES = ((8, 8), (9, 7), (8, 13), (1, 6), (5, 1))


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b).detach() / torch.linalg.vector_norm(b).detach())


def scaled_up(module: torch.nn.Module, gain: float = 1.0, seed: int = 0) -> torch.nn.Module:
    """Give random weights that keep signals near 1 through all layers: the zeros of initialisation hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 1
        parameter.data = torch.randn(parameter.shape, generator=generator) * gain / fan_in**0.5
    return module


def sample(size=(12, 14), n_coils=0, batch=2, seed=0, rate=0.4):
    """A measured image: reference, zero-filled, mask, maps; maps of unit sum of squares."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, 2, *size, generator=generator)
    mask = (torch.rand(batch, 1, *size, generator=generator) < rate).float()
    mask[..., 0, 0] = 1
    maps = None
    if n_coils:
        maps = torch.randn(batch, 2 * n_coils, *size, generator=generator)
        maps = maps / maps.square().sum(1, keepdim=True).sqrt()
    return x, normal_channels(x, mask, maps, False, "fft"), mask, maps
