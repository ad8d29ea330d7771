"""DnCNN: the plain stack of convolutions that every denoiser is compared with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


class DnCNN(nn.Module):
    r"""Denoising Convolutional Neural Network: convolutions that predict the noise, :math:`\hat x = y - R(y)`.

    A convolution with bias and ReLU, ``n_layers - 2`` times convolution, batch normalisation and ReLU, and a last
    convolution. Of the middle and the last one only the normalisation has a bias, which makes 556,096 parameters for 17
    layers on gray images: 640 + 15 · (36,864 + 128) + 576.

    Source: Zhang, Zuo, Chen, Meng, Zhang, IEEE Transactions on Image Processing 2017, doi:10.1109/TIP.2017.2662206.

    Differs:
        - ``in_channels`` and 3-D are arguments.
        - Normalisation has PyTorch's momentum and epsilon; weights start as Kaiming normal.

    Checked: number of parameters, receptive field and the laws in ``tests/denoise/test_dncnn.py``.

    Args:
        n_layers: number of convolutions, at least 3; 17 for a known level of noise, 20 in the paper for unknown levels.
        channels: width.
        in_channels: of the noisy and of the denoised image.
        spatial_dims: 2 or 3.

    Raises:
        ValueError: if an argument is outside its range.

    Example:
        >>> DnCNN(n_layers=3, channels=8)(torch.rand(1, 1, 9, 7)).shape
        torch.Size([1, 1, 9, 7])
    """

    def __init__(self, n_layers: int = 17, channels: int = 64, in_channels: int = 1, spatial_dims: int = 2):
        super().__init__()
        if spatial_dims not in _CONV:
            raise ValueError(f"DnCNN: 'spatial_dims' must be 2 or 3, got {spatial_dims}")
        sizes = (("n_layers", n_layers, 3), ("channels", channels, 1), ("in_channels", in_channels, 1))
        for argument, value, least in sizes:
            if value < least:
                raise ValueError(f"DnCNN: '{argument}' must be at least {least}, got {value}")
        conv = _CONV[spatial_dims]
        layers: list[nn.Module] = [conv(in_channels, channels, 3, padding=1), nn.ReLU()]
        for _ in range(n_layers - 2):
            layers += [conv(channels, channels, 3, padding=1, bias=False), _NORM[spatial_dims](channels), nn.ReLU()]
        layers.append(conv(channels, in_channels, 3, padding=1, bias=False))
        for layer in layers:
            if isinstance(layer, (nn.Conv2d, nn.Conv3d)):
                nn.init.kaiming_normal_(layer.weight)
        self.layers = nn.Sequential(*layers)
        self.in_channels = in_channels
        self.spatial_dims = spatial_dims
        # Tiles with this halo give what the whole image gives.
        self.tile_grid = 1
        self.halo = n_layers

    def forward(self, image: Tensor) -> Tensor:
        """Denoise.

        Args:
            image: noisy image, real, ``(B, C, H, W[, S])``, scaled so that bright tissue is near 1.

        Returns:
            float32, shape and unit of ``image``.

        Raises:
            ValueError: if the number of axes or of channels is another one.
        """
        if not (torch.jit.is_scripting() or torch.jit.is_tracing()):
            self._check(image)
        # The difference is in float32 under autocast too: bfloat16 has 8 bits for an image.
        return image.float() - self.layers(image).float()

    @torch.jit.unused
    def _check(self, image: Tensor) -> None:
        if image.ndim != 2 + self.spatial_dims or image.shape[1] != self.in_channels:
            axes = "H, W" if self.spatial_dims == 2 else "H, W, S"
            raise ValueError(f"DnCNN: 'image' must be (B, {self.in_channels}, {axes}), got {tuple(image.shape)}")
