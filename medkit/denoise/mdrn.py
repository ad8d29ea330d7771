"""MDRN: a denoiser that averages noise away at half and quarter resolution and restores the detail, four times."""

from __future__ import annotations

import torch
from monai.networks.utils import icnr_init, pixelshuffle
from torch import Tensor, nn

PRESETS = {
    # spatial dimensions: name: channels, residual blocks at each resolution
    2: {"XT": (16, 1), "T": (32, 1), "B": (48, 1), "M": (64, 1), "L": (64, 2), "XL": (96, 2)},
    3: {"XT": (16, 1), "T": (24, 1), "B": (32, 1)},
}
N_GROUPS = 4
FACTOR = 4  # of the coarsest resolution: sizes are padded to multiples of it
POOLS = ("global", "local")
_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_AVERAGE = {2: nn.AvgPool2d, 3: nn.AvgPool3d}


def _conv(dim: int, in_channels: int, channels: int, kernel: int) -> nn.Module:
    return _CONV[dim](in_channels, channels, kernel, padding=kernel // 2)


class _ResidualBlock(nn.Module):
    """conv, ReLU, conv, and a skip."""

    def __init__(self, dim: int, channels: int):
        super().__init__()
        self.conv1 = _conv(dim, channels, channels, 3)
        self.conv2 = _conv(dim, channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(torch.relu(self.conv1(x)))


class _Upsample(nn.Module):
    """Twice the resolution: 1×1 convolution and shuffle, which start as nearest-neighbour repetition (ICNR)."""

    def __init__(self, dim: int, channels: int):
        super().__init__()
        self.dim = dim
        self.conv = _conv(dim, channels, channels * 2**dim, 1)
        icnr_init(self.conv, 2)
        # A bias that differs within a block of 2^d pixels would be the checkerboard that ICNR avoids.
        nn.init.zeros_(self.conv.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        return pixelshuffle(self.conv(x), self.dim, 2)


class _Gates(nn.Module):
    """Channel gate (from the mean over the image or over a window) times spatial gate."""

    def __init__(self, dim: int, channels: int, pool: str, window: int):
        super().__init__()
        self.dims = list(range(2, 2 + dim))
        self.window = window
        self.is_local = pool == "local"
        self.pool = _AVERAGE[dim](window)
        self.squeeze = _conv(dim, channels, channels // 4, 1)
        self.excite = _conv(dim, channels // 4, channels, 1)
        self.spatial = _conv(dim, channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        mean = self._window_means(x) if self.is_local else x.mean(self.dims, keepdim=True)
        channel = torch.sigmoid(self.excite(torch.relu(self.squeeze(mean))))
        if self.is_local:
            for dim in self.dims:
                index = torch.arange(x.shape[dim], device=x.device) // self.window
                channel = channel.index_select(dim, index)
        return x * channel * torch.sigmoid(self.spatial(x))

    def _window_means(self, x: Tensor) -> Tensor:
        # A window that sticks out at the end is the mean of what is inside. (ceil_mode would do so in 2-D alone.)
        padding: list[int] = []
        for dim in self.dims[::-1]:
            n = x.shape[dim]
            padding += [0, (n + self.window - 1) // self.window * self.window - n]
        inside = torch.nn.functional.pad(torch.ones_like(x[:1, :1]), padding)
        return self.pool(torch.nn.functional.pad(x, padding)) / self.pool(inside)


class _Group(nn.Module):
    """One degradation to a quarter of the resolution, the reconstruction from there, gates, and a skip (an MSAG)."""

    def __init__(self, dim: int, channels: int, n_blocks: int, pool: str, window: int):
        super().__init__()
        self.average = _AVERAGE[dim](2)
        self.degrade2 = _conv(dim, channels, channels, 3)
        self.degrade4 = _conv(dim, channels, channels, 3)
        self.blocks4 = nn.Sequential(*[_ResidualBlock(dim, channels) for _ in range(n_blocks)])
        self.up4 = _Upsample(dim, channels)
        self.merge2 = _conv(dim, 2 * channels, channels, 1)
        self.blocks2 = nn.Sequential(*[_ResidualBlock(dim, channels) for _ in range(n_blocks)])
        self.up2 = _Upsample(dim, channels)
        self.merge1 = _conv(dim, 2 * channels, channels, 1)
        self.blocks1 = nn.Sequential(*[_ResidualBlock(dim, channels) for _ in range(n_blocks)])
        self.gates = _Gates(dim, channels, pool, window)
        self.out = _conv(dim, channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        x2 = self.degrade2(self.average(x))
        x4 = self.degrade4(self.average(x2))
        y4 = self.blocks4(x4)
        y2 = self.blocks2(self.merge2(torch.cat([x2, self.up4(y4)], 1)))
        y1 = self.blocks1(self.merge1(torch.cat([x, self.up2(y2)], 1)))
        return x + self.out(self.gates(y1))


def _mirrored(x: Tensor, multiple: int = FACTOR) -> Tensor:
    """Pad the end of each axis to a multiple by reflection; sides shorter than the padding are reflected on."""
    for dim in range(2, x.ndim):
        last = x.shape[dim] - 1
        index = torch.arange((x.shape[dim] + multiple - 1) // multiple * multiple, device=x.device)
        x = x.index_select(dim, (last - (index - last).abs()).abs().clamp(max=last))
    return x


def _halo(n_blocks: int, grid: int, window: int) -> int:
    """How far beyond a tile that begins and ends on ``grid`` its result reaches, in pixels; ``window`` 0: no gates."""
    low, high = -2, grid + 1  # first and last pixel that tail and fuse3 need of pixels 0 to grid - 1
    for _ in range(N_GROUPS):
        low, high = low - 1, high + 1
        if window:
            low, high = low // window * window, high // window * window + window - 1
        low, high = (low - 2 * n_blocks) // 2, (high + 2 * n_blocks) // 2
        low, high = (low - 2 * n_blocks) // 2, (high + 2 * n_blocks) // 2
        low, high = low - 2 * n_blocks - 1, high + 2 * n_blocks + 1
        low, high = 2 * low - 1, 2 * high + 2
        low, high = 2 * low, 2 * high + 1
    reach = max(1 - low, high + 1 - (grid - 1))
    return -(-reach // grid) * grid


class MDRN(nn.Module):
    r"""Multiple Degradation and Reconstruction Network: a light denoiser for images and volumes.

    A 3×3 head, four groups and a tail, :math:`\hat x = y + T(F([G_1, \dots, G_4]) + H)`: the network predicts minus the
    noise. Each group averages 2×2 pixels twice, each time followed by a convolution, which leaves a sixteenth of the
    variance of white noise; restores half and full resolution with the features of that resolution at hand; and
    weighs channels and pixels before its skip.

    Source: Li, Yang, Yi, Fang, Gao, Zeng, Zhang, CVPR Workshops 2022, arXiv 2204.13873. No code was published, and only
    the abstract and a figure could be read: the chain of four groups and the idea of repeated degradation and
    reconstruction are the paper's, every size and layer is our decision.

    Differs: (cannot be compared; these are the decisions)
        - Average pooling degrades, a pixel shuffle restores; the second pooling sees the convolved half resolution.
        - No normalisation layers: an image alone and in a batch gives the same, in training and in evaluation.
        - A channel gate by the mean over the image, or over windows (``attention_pool="local"``), times a spatial gate.
        - 3-D networks, and one more input channel with the noise level.
        - Shuffles start as repetition (ICNR, MONAI's, with zero bias); all else as PyTorch does.

    Checked: by the laws in ``tests/denoise/test_mdrn.py``; not against official code, of which there is none.

    Args:
        preset: ``"XT"`` (16 channels), ``"T"`` (32), ``"B"`` (48), ``"M"`` (64), all with one residual block at each
            resolution, ``"L"`` (64) or ``"XL"`` (96), with two. In 3-D ``"XT"`` (16), ``"T"`` (24) or ``"B"`` (32).
            The next two arguments overrule it.
        channels: width, a multiple of 4.
        n_blocks: residual blocks at each of the three resolutions of a group.
        spatial_dims: 2 or 3.
        in_channels: of the noisy and of the denoised image.
        noise_map: whether the input has one more channel, the last: the standard deviation of the noise at each pixel,
            in the unit of the image.
        attention_pool: ``"global"``, or ``"local"``: the mean over windows that start at index 0. Both have the same
            parameters. Tiles of a local network give what the whole image gives, see ``halo``.
        pool_window: side of the windows in pixels, a multiple of 4; used by ``"local"`` alone.

    Attributes:
        groups: the four groups (MSAG-1 to 4); a distillation taps ``groups.1`` to ``groups.3``.
        tile_grid: tiles of the image must begin at multiples of this number of pixels.
        halo: pixels around a tile that its result depends on, rounded up to ``tile_grid``: 100 for one residual block
            and global gates, which themselves depend on the whole image; 120 with local gates of 24 pixels.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> MDRN("XT")(torch.rand(1, 1, 37, 53)).shape
        torch.Size([1, 1, 37, 53])
    """

    def __init__(
        self,
        preset: str = "B",
        channels: int | None = None,
        n_blocks: int | None = None,
        spatial_dims: int = 2,
        in_channels: int = 1,
        noise_map: bool = False,
        attention_pool: str = "global",
        pool_window: int = 24,
    ):
        super().__init__()
        if spatial_dims not in PRESETS:
            raise ValueError(f"MDRN: 'spatial_dims' must be 2 or 3, got {spatial_dims}")
        presets = PRESETS[spatial_dims]
        if preset not in presets:
            raise ValueError(f"MDRN: 'preset' must be one of {tuple(presets)} in {spatial_dims}-D, got {preset!r}")
        channels = presets[preset][0] if channels is None else channels
        n_blocks = presets[preset][1] if n_blocks is None else n_blocks
        if channels < 4 or channels % 4:
            raise ValueError(f"MDRN: 'channels' must be a positive multiple of 4, got {channels}")
        for argument, value in (("n_blocks", n_blocks), ("in_channels", in_channels)):
            if value < 1:
                raise ValueError(f"MDRN: '{argument}' must be at least 1, got {value}")
        if attention_pool not in POOLS:
            raise ValueError(f"MDRN: 'attention_pool' must be one of {POOLS}, got {attention_pool!r}")
        if pool_window < FACTOR or pool_window % FACTOR:
            raise ValueError(f"MDRN: 'pool_window' must be a positive multiple of {FACTOR}, got {pool_window}")
        self.spatial_dims = spatial_dims
        self.in_channels = in_channels
        self.noise_map = noise_map
        self.attention_pool = attention_pool
        self.pool_window = pool_window
        is_local = attention_pool == "local"
        self.tile_grid = pool_window if is_local else FACTOR
        self.halo = _halo(n_blocks, self.tile_grid, pool_window if is_local else 0)
        self.head = _conv(spatial_dims, in_channels + noise_map, channels, 3)
        self.groups = nn.ModuleList(
            _Group(spatial_dims, channels, n_blocks, attention_pool, pool_window) for _ in range(N_GROUPS)
        )
        self.fuse1 = _conv(spatial_dims, N_GROUPS * channels, channels, 1)
        self.fuse3 = _conv(spatial_dims, channels, channels, 3)
        self.tail = _conv(spatial_dims, channels, in_channels, 3)

    def forward(self, image: Tensor) -> Tensor:
        """Denoise.

        Args:
            image: noisy image, real, ``(B, C, H, W[, S])``, scaled so that bright tissue is near 1; with ``noise_map``
                ``(B, C + 1, H, W[, S])``.

        Returns:
            float32, ``(B, C, H, W[, S])``, unit of ``image``.

        Raises:
            ValueError: if the number of axes or of channels is another one.
        """
        if not (torch.jit.is_scripting() or torch.jit.is_tracing()):
            self._check(image)
        head = self.head(_mirrored(image))
        x = head
        features: list[Tensor] = []
        for group in self.groups:
            x = group(x)
            features.append(x)
        correction = self.tail(self.fuse3(self.fuse1(torch.cat(features, 1))) + head)
        for dim in range(2, image.ndim):
            correction = correction.narrow(dim, 0, image.shape[dim])
        # The sum is in float32 under autocast too: bfloat16 has 8 bits for an image.
        return image[:, : self.in_channels].float() + correction.float()

    @torch.jit.unused
    def _check(self, image: Tensor) -> None:
        wanted = self.in_channels + self.noise_map
        if image.ndim != 2 + self.spatial_dims or image.shape[1] != wanted or 0 in image.shape[2:]:
            axes = "H, W" if self.spatial_dims == 2 else "H, W, S"
            noise = " (the last one is the noise map)" if self.noise_map else ""
            raise ValueError(f"MDRN: 'image' must be (B, {wanted}, {axes}){noise}, got {tuple(image.shape)}")
