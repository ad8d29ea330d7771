"""Learned proximal maps: at each scale, residual blocks with channel attention in place of a formula."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

REDUCTION = 16  # the attention squeezes C channels to C / 16,
SQUEEZED = 4  # but not to fewer than these (64 / 16): one ReLU alone may be dead from the start
START = 0.3  # share of torch's own start that the convolutions get which lead away from the identity


class ChannelAttention(nn.Module):
    """Weigh each channel by a gate in 0..1 that hangs on the means of all channels.

    Args:
        channels: C.

    Example:
        >>> ChannelAttention(4)(torch.ones(1, 4, 8, 8)).shape
        torch.Size([1, 4, 8, 8])
    """

    def __init__(self, channels: int):
        super().__init__()
        squeezed = max(SQUEEZED, channels // REDUCTION)
        self.gate = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.ReLU(), nn.Conv2d(squeezed, channels, 1), nn.Sigmoid()
        )

    def forward(self, z: Tensor) -> Tensor:
        """Apply it to ``(B, C, H, W)``."""
        return z * self.gate(z.mean([2, 3], keepdim=True))


class ResidualChannelAttentionBlock(nn.Module):
    """Convolution, ReLU, convolution, channel attention, plus the input (RCAB).

    Args:
        channels: C.

    Example:
        >>> ResidualChannelAttentionBlock(4)(torch.ones(1, 4, 8, 8)).shape
        torch.Size([1, 4, 8, 8])
    """

    def __init__(self, channels: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), _convolution(channels))
        self.attention = ChannelAttention(channels)

    def forward(self, z: Tensor) -> Tensor:
        """Apply it to ``(B, C, H, W)``."""
        return z + self.attention(self.body(z))


class ProximalNetwork(nn.Module):
    """Stand-in for the proximal map of the prior of codes: blocks and a 3×3 convolution at each scale, apart.

    It starts near the identity, which is the proximal map of no prior: with torch's own start its biases drown the
    codes, and a training loses its first hundreds of steps.

    Args:
        widths: channels of the codes, coarse to fine.
        n_blocks: residual blocks at each scale.

    Raises:
        ValueError: if the two do not fit together.

    Example:
        >>> codes = [torch.ones(1, 4, 2, 2), torch.ones(1, 2, 4, 4)]
        >>> [tuple(code.shape) for code in ProximalNetwork((4, 2), (1, 1))(codes)]
        [(1, 4, 2, 2), (1, 2, 4, 4)]
    """

    def __init__(self, widths: Sequence[int] = (128, 96, 64), n_blocks: Sequence[int] = (1, 3, 5)):
        super().__init__()
        if len(widths) != len(n_blocks) or min(n_blocks) < 0:
            raise ValueError(
                f"ProximalNetwork: 'n_blocks' must be a number of blocks, 0 or more, for each of the widths "
                f"{tuple(widths)}, got {tuple(n_blocks)}"
            )
        self.scales = nn.ModuleList(
            nn.Sequential(*(ResidualChannelAttentionBlock(width) for _ in range(n)), _convolution(width, identity=True))
            for width, n in zip(widths, n_blocks, strict=True)
        )

    def forward(self, codes: list[Tensor]) -> list[Tensor]:
        """Apply it to the codes of each scale, ``(B, width, h, w)`` each."""
        out: list[Tensor] = []
        for i, scale in enumerate(self.scales):
            out.append(scale(codes[i]))
        return out


@torch.no_grad()
def _convolution(channels: int, identity: bool = False) -> nn.Conv2d:
    """3×3 convolution that starts near 0, or near the identity."""
    layer = nn.Conv2d(channels, channels, 3, padding=1)
    layer.weight.mul_(START)
    layer.bias = nn.Parameter(torch.zeros(channels))
    if identity:
        layer.weight[:, :, 1, 1] += torch.eye(channels)
    return layer
