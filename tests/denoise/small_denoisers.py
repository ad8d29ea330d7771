"""What the tests of the denoisers share: random weights that hide nothing, gates held still, and images."""

import torch
from torch import nn

from medkit.denoise import MDRN


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(a - b).detach() / torch.linalg.vector_norm(b).detach())


def scaled_up(module: nn.Module, gain: float = 0.7, seed: int = 0) -> nn.Module:
    """Give random weights that keep signals near 1 through all layers: small ones hide errors."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        fan_in = max(parameter[0].numel(), 1) if parameter.ndim > 1 else 4
        parameter.data = torch.randn(parameter.shape, generator=generator) * gain / fan_in**0.5
    return module


def with_frozen_gates(net: MDRN) -> MDRN:
    """Make each channel gate the constant of its bias, so that the network sees no further than its convolutions."""
    for group in net.groups:
        nn.init.zeros_(group.gates.excite.weight)
    return net


def image(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))
