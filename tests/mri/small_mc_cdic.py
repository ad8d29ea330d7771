"""What the tests of MC-CDic share: tiny networks, weights that hide nothing, codes as one vector, images."""

import copy
import math

import torch
from torch import Tensor, nn

from medkit.mri import MCCDic, MultiScaleDictionary
from medkit.mri.mc_cdic.proximal import ChannelAttention
from tests.mri.small_clgnet import scaled_up as with_large_weights

WIDTHS = (8, 6, 4)


def network(large: bool = False, seed: int = 0, learns: bool = False, **options) -> MCCDic:
    """A tiny network, as it is born or, with ``large``, with weights that make every part of it count."""
    torch.manual_seed(seed)
    net = MCCDic(**{"widths": WIDTHS, "n_blocks": (1, 1, 1), "n_stages": 2, **options})
    return (scaled_up(net, seed) if large else net).requires_grad_(learns)


def scaled_up(net: MCCDic, seed: int = 0) -> MCCDic:
    """Weights that keep signals near 1, with dictionaries that differ and steps that do not explode."""
    with_large_weights(net, seed=seed)
    for branch in (net.target, net.reference, net.common):
        largest = max(branch.dictionary.largest_eigenvalue(), branch.analysis.largest_eigenvalue())
        branch.log_step.data = -math.log(largest) + 0.1 * torch.arange(float(len(branch.log_step)))
        branch.threshold.data = 0.05 * branch.threshold.data.abs()
    for module in net.modules():
        if isinstance(module, ChannelAttention):
            module.gate[0].bias.data.abs_().add_(1.0)  # no dead ReLU
    if net.data_term.log_step is not None:
        net.data_term.log_step.data.fill_(math.log(0.5))
    return net


def images(size=(16, 12), batch=2, channels=1, seed=0, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, channels, *size, generator=generator, dtype=dtype) for _ in range(2))


def random_codes(size, widths=WIDTHS, batch=1, seed=0, density=1.0, dtype=torch.float64) -> list[Tensor]:
    """Codes for features of ``size``: standard normal, or with a density below 1 sparse and not negative."""
    generator = torch.Generator().manual_seed(seed)
    codes = []
    for i, width in enumerate(widths):
        shape = (batch, width, size[0] >> (2 - i), size[1] >> (2 - i))
        code = torch.randn(shape, generator=generator, dtype=dtype)
        if density < 1:
            code = code.abs() * (torch.rand(shape, generator=generator) < density)
        codes.append(code)
    return codes


def flat(codes: list[Tensor]) -> Tensor:
    return torch.cat([code.flatten() for code in codes])


def unflat(vector: Tensor, like: list[Tensor]) -> list[Tensor]:
    parts = vector.split([code.numel() for code in like])
    return [part.view_as(code) for part, code in zip(parts, like, strict=True)]


def without_prior(net: MCCDic) -> MCCDic:
    """The proximal networks replaced by the identity, so that the iteration is what theory speaks of."""
    for branch in (net.target, net.reference, net.common):
        branch.proximal = nn.Identity()
    return net


def tied(dictionary: MultiScaleDictionary) -> MultiScaleDictionary:
    return copy.deepcopy(dictionary)
